"""What differs from Django and from CPython, and why it should.

A test that is listed here and passes is a failure: remove it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """Tests (``Class.test``) that must fail, for this reason.

    ``error`` is a regular expression for what they show. In a Django older than ``since``
    they must pass; those that it does not have are passed over.
    """

    reason: str
    error: str
    tests: Iterable[str]
    since: tuple[int, int] = (0, 0)


def each(classes: str, tests: str) -> list[str]:
    return [f"{name}.{test}" for name in classes.split() for test in tests.split()]


FILES = "FileBackendTests FileBackendPathLibTests"
NOT_SMTP = f"ConsoleBackendTests DummyBackendTests LocmemBackendTests {FILES}"
ALL = f"{NOT_SMTP} SMTPBackendTests"
FILE_PROBLEMS = each(
    FILES,
    """
    test_error_if_email_file_path_setting_not_defined
    test_error_if_file_path_cannot_be_created
    test_error_if_file_path_is_not_directory
    """,
)
NO_WARNING = "RemovedInDjango2028Warning not triggered"

COMPLETE_VALUES = [
    Difference(
        "No host is waited for without end: the timeout is 60 seconds if none is given.",
        "60 is not None|timeout=60",
        each(
            "SMTPBackendTests",
            "test_connection_timeout_default test_smtp_connection_uses_host_and_port",
        ),
    ),
    Difference(
        "What is not given is an empty string: where Django has None it may fall back to a "
        "setting, which was meant for another server.",
        "'' is not None",
        each(
            "SMTPBackendTests",
            """
            test_email_ssl_certfile_default_disabled
            test_email_ssl_keyfile_default_disabled
            test_ignores_settings_when_initialized_with_alias
            """,
        ),
    ),
]

WRITTEN_TO_THE_SOCKET = Difference(
    "Messages are written to the socket at once, and not through SMTP.send(), which the test "
    "has replaced.",
    "None is not true",
    ["SMTPBackendTests.test_email_msg_uses_crlf"],
)

# EmailHostsBackend in the place of Django's SMTP backend.
SMTP = [
    *COMPLETE_VALUES,
    Difference(
        "What is wrong with a host is an InvalidEmailHost, with the key of the host.",
        "InvalidEmailHost: .*'(host|oops_typo|use_ssl)'",
        each(
            "SMTPBackendTests",
            """
            test_host_option_required
            test_ssl_tls_mutually_exclusive
            test_ssl_tls_settings_mutually_exclusive
            test_unknown_kwargs_error
            """,
        ),
    ),
    Difference(
        "An unknown option of a host is an error, with or without MAILERS.",
        "InvalidEmailHost: .*'unknown_kwarg'",
        ["SMTPBackendTests.test_unknown_kwargs_ignored"],
    ),
    Difference(
        "A key without a certificate is an InvalidEmailHost at once, not when it connects.",
        "InvalidEmailHost: .*'ssl_keyfile' needs 'ssl_certfile'",
        [
            "SMTPBackendTests.test_email_ssl_keyfile_override_settings",
            "SMTPBackendTests.test_email_ssl_keyfile_use_settings",
        ],
    ),
    Difference(
        "A host reads no setting that MAILERS replaces: Django has nothing to warn of.",
        NO_WARNING,
        ["SMTPBackendTests.test_direct_construction_deprecated"],
    ),
    Difference(
        "Where TLS or the login fails, the connection is closed at once, and not kept until "
        "the next open().",
        "unexpectedly None",
        ["SMTPBackendTests.test_reopen_replaces_partial_connection"],
    ),
    Difference(
        "A host with a client certificate trusts the authorities of the system, too: its "
        "context is Python's default one with the certificate, and Django's trusts nobody.",
        r"Expected: SSLContext\(protocol=",
        ["SMTPBackendTests.test_ssl_context_uses_ssl_certfile_and_keyfile"],
    ),
    WRITTEN_TO_THE_SOCKET,
]

# HostBackend around each of Django's backends.
WRAPPED = [
    *COMPLETE_VALUES,
    Difference(
        "An attribute of the wrapped backend can be read here, and is set on `wrapped`.",
        "True is not False",
        ["SMTPBackendTests.test_reopen_connection"],
    ),
    Difference(
        "A host takes the place of a mailer of MAILERS: Django's backend refuses options that "
        "it does not know.",
        "InvalidMailer: .*Unknown options '(foo|unknown_kwarg)'",
        [
            *each(ALL, "test_unknown_kwargs_ignored"),
            "GetConnectionTests.test_arbitrary_keyword",
        ],
    ),
    Difference(
        "A host reads no setting that MAILERS replaces: Django has nothing to warn of, and "
        "speaks of options instead of settings.",
        f"{NO_WARNING}|must define 'file_path'|not found in \"MAILERS.*'file_path'|"
        "MAILERS.*OPTIONS are incompatible",
        [
            *FILE_PROBLEMS,
            "SMTPBackendTests.test_direct_construction_deprecated",
        ],
        since=(6, 1),
    ),
    Difference(
        "Both kinds of TLS are an InvalidEmailHost, on each Django.",
        "InvalidEmailHost: .*options 'use_ssl' and 'use_tls' are mutually",
        ["SMTPBackendTests.test_ssl_tls_mutually_exclusive"],
    ),
    Difference(
        "Both kinds of TLS are an InvalidEmailHost, on each Django.",
        "InvalidEmailHost: .*options 'use_ssl' and 'use_tls' are mutually",
        ["SMTPBackendTests.test_ssl_tls_settings_mutually_exclusive"],
        since=(6, 1),
    ),
    Difference(
        "get_connection(key, fail_silently=True) is for each host, whatever its backend.",
        f"{NO_WARNING}|InvalidMailer not raised",
        each("DummyBackendTests LocmemBackendTests", "test_fail_silently_arg_accepted"),
    ),
    Difference(
        "The wrapped backend opens itself: it does not ask for the open() of the host, which "
        "the test has replaced.",
        "no attribute 'sendmail'|1 != 0",
        ["SMTPBackendTests.test_send_messages_after_open_failed"],
    ),
]

# FailoverBackend with one host, or RoutingBackend with one host to route to: that of a DSN
# which sends as Django's backend does.
SEVERAL = [
    Difference(
        "It is no SMTP or file backend: options and connection are those of its hosts.",
        "has no attribute '(connection|file_path|host|port|prep_address|ssl_certfile|"
        "ssl_context|ssl_keyfile|timeout|use_ssl|use_tls|username)'",
        [
            *each(
                FILES,
                """
                test_email_file_path_override_settings
                test_email_file_path_use_settings
                test_ignores_settings_when_initialized_with_alias
                """,
            ),
            *each(
                "SMTPBackendTests",
                """
                test_connection_timeout_custom
                test_connection_timeout_default
                test_email_authentication_override_settings
                test_email_authentication_use_settings
                test_email_disabled_authentication
                test_email_host_override_settings
                test_email_host_use_settings
                test_email_ssl_attempts_ssl_connection
                test_email_ssl_certfile_default_disabled
                test_email_ssl_certfile_override_settings
                test_email_ssl_certfile_use_settings
                test_email_ssl_default_disabled
                test_email_ssl_keyfile_default_disabled
                test_email_ssl_keyfile_override_settings
                test_email_ssl_keyfile_use_settings
                test_email_ssl_override_settings
                test_email_ssl_use_settings
                test_email_timeout_override_settings
                test_email_timeout_use_settings
                test_email_tls_attempts_starttls
                test_email_tls_default_disabled
                test_email_tls_override_settings
                test_email_tls_use_settings
                test_ignores_settings_when_initialized_with_alias
                test_port_default_adapts_to_security
                test_prep_address_without_force_ascii
                test_serialized_message_uses_crlf_line_ending
                test_server_open
                test_smtp_connection_uses_host_and_port
                test_smtp_connection_uses_timeout
                test_ssl_context_uses_ssl_certfile_and_keyfile
                """,
            ),
            "GetConnectionTests.test_backend_specific_kwargs",
            "GetConnectionTests.test_mailers_compatibility",
        ],
    ),
    Difference(
        "It knows its hosts by their keys, and learns what is wrong with one when it sends.",
        "(InvalidMailer|ImproperlyConfigured|TypeError|ValueError) not raised",
        [
            *FILE_PROBLEMS,
            *each(FILES, "test_file_path_option_required"),
            *each(
                "SMTPBackendTests",
                """
                test_host_option_required
                test_ssl_tls_mutually_exclusive
                test_ssl_tls_settings_mutually_exclusive
                """,
            ),
            "GetConnectionTests.test_raises_error_from_backend_init",
            "MailTests.test_backend_arg",
        ],
    ),
    Difference(
        "What is wrong with a host is an InvalidEmailHost, with the key of the host.",
        "InvalidEmailHost: .*unknown option '(oops_typo|unknown)'",
        [*each(ALL, "test_unknown_kwargs_error"), "MailersTests.test_unknown_options"],
    ),
    Difference(
        "Where EMAIL_BACKEND names it, it ignores what it does not know without a warning: "
        "send_mail() has a login for every backend.",
        NO_WARNING,
        each(ALL, "test_unknown_kwargs_ignored"),
    ),
    Difference(
        "It opens its hosts for each batch, and open() does nothing.",
        "None is not (True|False|true)|1 != 0|3 != 2|"
        "(ConnectionError|SMTPException) not raised|"
        "Expected 'login' to be called once. Called 0 times.",
        [
            *each(
                FILES,
                """
                test_file_sessions
                test_multiple_messages_same_connection_single_file_reused
                test_reopening_connection_uses_same_file
                """,
            ),
            "SMTPBackendStoppedServerTests.test_fail_silently_on_connection_error",
            *each(
                "SMTPBackendTests",
                """
                test_auth_attempted
                test_reopen_connection
                test_reopen_replaces_partial_connection
                test_send_messages_after_open_failed
                """,
            ),
        ],
    ),
    Difference(
        "sent_using names the host that has sent the message.",
        "'?only'? *(is not None|!=)|^- only$",
        [
            "EmailMessageTests.test_send",
            *each("EmailMessageTestsWithMailers", "test_send test_send_using"),
            "LocmemBackendTests.test_adds_sent_using_attribute",
            "MailAdminsAndManagersTests.test_sends_using_default_mailer",
            *each(
                "MailAdminsAndManagersTestsWithMailers",
                "test_sends_using_default_mailer test_using_arg",
            ),
            "SendMailTests.test_sends_using_default_mailer",
            *each(
                "SendMailTestsWithMailers", "test_sends_using_default_mailer test_using_arg"
            ),
            "SendMassMailTests.test_sends_using_default_mailer",
            *each(
                "SendMassMailTestsWithMailers",
                "test_sends_using_default_mailer test_using_arg",
            ),
            *each(
                "SendTestEmailManagementCommand",
                """
                test_using_default
                test_using_option
                test_using_option_with_admins
                test_using_option_with_managers
                """,
            ),
        ],
    ),
    Difference(
        "It has fail_silently, whatever its hosts have.",
        f"{NO_WARNING}|InvalidMailer not raised",
        each("DummyBackendTests LocmemBackendTests", "test_fail_silently_arg_accepted"),
    ),
    Difference(
        "It is no SMTP backend: Django has nothing to warn of.",
        NO_WARNING,
        ["SMTPBackendTests.test_direct_construction_deprecated"],
    ),
    Difference(
        "A stream cannot be written into a DSN.",
        "'str' object has no attribute 'write'",
        ["ConsoleBackendTests.test_console_stream_kwarg"],
    ),
    WRITTEN_TO_THE_SOCKET,
]

# By the way in which shims.py (and cpython.py) puts our classes in the place of others.
EXPECTED: dict[str, list[Difference]] = {
    "smtp": SMTP,
    "wrapped": WRAPPED,
    "failover": SEVERAL,
    "routing": SEVERAL,
    "smtplib": [],
}
