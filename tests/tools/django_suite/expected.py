"""What differs from Django, and why it should.

A test that is listed here and passes is a failure: remove it.
"""

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

import django


class Difference(NamedTuple):
    """Tests that must fail, for this reason, and with this error.

    ``tests`` are regular expressions for ``Class.test``, all of it. In a Django older than
    ``since`` they must pass.
    """

    reason: str
    error: str
    tests: Iterable[str]
    since: tuple[int, int] = (0, 0)

    def is_of(self, test):
        """Whether this test must fail, with this Django."""
        is_named = any(re.fullmatch(each, test) for each in self.tests)
        return is_named and django.VERSION[:2] >= self.since


FILES = r"FileBackend(PathLib)?Tests\.test_"
SMTP_TESTS = r"SMTPBackendTests\.test_"
EACH = r"(Console|Dummy|File|Locmem|SMTP)Backend(PathLib)?Tests\.test_"
FILE_PROBLEMS = (
    rf"{FILES}error_if_email_file_path_setting_not_defined",
    rf"{FILES}error_if_file_path_(cannot_be_created|is_not_directory)",
)
NO_WARNING = "RemovedInDjango2028Warning not triggered"
BOTH_TLS = "InvalidEmailHost: .*'use_ssl'.* and .*'use_tls'.* are mutually exclusive"

ALL = [
    Difference(
        "A host reads no setting that MAILERS replaces: Django has nothing to warn of.",
        NO_WARNING,
        [rf"{SMTP_TESTS}direct_construction_deprecated"],
    ),
]
if os.geteuid() == 0:
    ALL.append(
        Difference(
            "Root may write anywhere: that fails with Django's backend, too.",
            "(ImproperlyConfigured|InvalidMailer) not raised",
            [rf"{FILES}error_if_file_path_is_not_writable"],
        )
    )

COMPLETE_VALUES = [
    Difference(
        "No host is waited for without end: the timeout is 60 seconds if none is given.",
        "60 is not None|timeout=60",
        [rf"{SMTP_TESTS}(connection_timeout_default|smtp_connection_uses_host_and_port)"],
    ),
    Difference(
        "What is not given is an empty string: where Django has None it may fall back to a "
        "setting, which was meant for another server.",
        "'' is not None",
        [
            rf"{SMTP_TESTS}email_ssl_(cert|key)file_default_disabled",
            rf"{SMTP_TESTS}ignores_settings_when_initialized_with_alias",
        ],
    ),
]

WRITTEN_TO_THE_SOCKET = Difference(
    "Messages are written to the socket at once, and not through SMTP.send(), which the test "
    "has replaced.",
    "None is not true",
    [rf"{SMTP_TESTS}email_msg_uses_crlf"],
)

FAIL_SILENTLY = Difference(
    "get_connection(key, fail_silently=True) is for each host, whatever its backend.",
    f"{NO_WARNING}|InvalidMailer not raised",
    [r"(Dummy|Locmem)BackendTests\.test_fail_silently_arg_accepted"],
)

# EmailHostsBackend in the place of Django's SMTP backend.
SMTP = [
    *ALL,
    *COMPLETE_VALUES,
    WRITTEN_TO_THE_SOCKET,
    Difference(
        "What is wrong with a host is an InvalidEmailHost at once, with the key of the host: "
        "an unknown option with or without MAILERS, a key without a certificate before it "
        "connects.",
        "InvalidEmailHost: .*'(host|oops_typo|unknown_kwarg|use_ssl|ssl_keyfile)'",
        [
            rf"{SMTP_TESTS}(host_option_required|unknown_kwargs_(error|ignored))",
            rf"{SMTP_TESTS}ssl_tls_(settings_)?mutually_exclusive",
            rf"{SMTP_TESTS}email_ssl_keyfile_(override|use)_settings",
        ],
    ),
    Difference(
        "Where TLS or the login fails, the connection is closed at once, and not kept until "
        "the next open().",
        "unexpectedly None",
        [rf"{SMTP_TESTS}reopen_replaces_partial_connection"],
    ),
    Difference(
        "A host with a client certificate trusts the authorities of the system, too: its "
        "context is Python's default one with the certificate, and Django's trusts nobody.",
        r"Expected: SSLContext\(protocol=",
        [rf"{SMTP_TESTS}ssl_context_uses_ssl_certfile_and_keyfile"],
    ),
]

# HostBackend around each of Django's backends.
WRAPPED = [
    *ALL,
    *COMPLETE_VALUES,
    FAIL_SILENTLY,
    Difference(
        "An attribute of the wrapped backend can be read here, and is set on `wrapped`.",
        "True is not False",
        [rf"{SMTP_TESTS}reopen_connection"],
    ),
    Difference(
        "A host takes the place of a mailer of MAILERS: Django's backend refuses options that "
        "it does not know.",
        "InvalidMailer: .*Unknown options '(foo|unknown_kwarg)'",
        [rf"{EACH}unknown_kwargs_ignored", r"GetConnectionTests\.test_arbitrary_keyword"],
    ),
    Difference(
        "It reads no setting that MAILERS replaces: Django speaks of options instead.",
        f"{NO_WARNING}|must define 'file_path'|not found in \"MAILERS.*'file_path'|"
        "MAILERS.*OPTIONS are incompatible",
        FILE_PROBLEMS,
        since=(6, 1),
    ),
    Difference(
        "Both kinds of TLS are an InvalidEmailHost, on each Django.",
        BOTH_TLS,
        [rf"{SMTP_TESTS}ssl_tls_mutually_exclusive"],
    ),
    Difference(
        "The same, where they are settings.",
        BOTH_TLS,
        [rf"{SMTP_TESTS}ssl_tls_settings_mutually_exclusive"],
        since=(6, 1),
    ),
    Difference(
        "The wrapped backend opens itself: it does not ask for the open() of the host, which "
        "the test has replaced.",
        "no attribute 'sendmail'|1 != 0",
        [rf"{SMTP_TESTS}send_messages_after_open_failed"],
    ),
]

# FailoverBackend with one host, or RoutingBackend with one host to route to: that of a DSN
# which sends as Django's backend does.
SEVERAL = [
    *ALL,
    WRITTEN_TO_THE_SOCKET,
    FAIL_SILENTLY,
    Difference(
        "It is no SMTP or file backend: options and connection are those of its hosts.",
        "has no attribute '(connection|file_path|host|port|prep_address|ssl_certfile|"
        "ssl_context|ssl_keyfile|timeout|use_ssl|use_tls|username)'",
        [
            rf"{FILES}(email_file_path|ignores_settings)_.*",
            rf"{SMTP_TESTS}(connection_timeout|email_(?!msg)|ignores_settings|port_default)\w+",
            rf"{SMTP_TESTS}(serialized_message|server_open|smtp_connection_uses)\w*",
            rf"{SMTP_TESTS}(prep_address_without_force_ascii|ssl_context\w+)",
            r"GetConnectionTests\.test_(backend_specific_kwargs|mailers_compatibility)",
        ],
    ),
    Difference(
        "It knows its hosts by their keys, and learns what is wrong with one when it sends.",
        "(InvalidMailer|ImproperlyConfigured|TypeError|ValueError) not raised",
        [
            *FILE_PROBLEMS,
            rf"{FILES}file_path_option_required",
            rf"{SMTP_TESTS}(host_option_required|ssl_tls_(settings_)?mutually_exclusive)",
            r"GetConnectionTests\.test_raises_error_from_backend_init",
            r"MailTests\.test_backend_arg",
        ],
    ),
    Difference(
        "What is wrong with a host is an InvalidEmailHost, with the key of the host.",
        "InvalidEmailHost: .*unknown option '(oops_typo|unknown)'",
        [rf"{EACH}unknown_kwargs_error", r"MailersTests\.test_unknown_options"],
    ),
    Difference(
        "Where EMAIL_BACKEND names it, it ignores what it does not know without a warning: "
        "send_mail() has a login for every backend.",
        NO_WARNING,
        [rf"{EACH}unknown_kwargs_ignored"],
    ),
    Difference(
        "It opens its hosts for each batch, and open() does nothing.",
        "None is not (True|False|true)|1 != 0|3 != 2|"
        "(ConnectionError|SMTPException) not raised|"
        "Expected 'login' to be called once. Called 0 times.",
        [
            rf"{FILES}(file_sessions|(multiple_messages|reopening_connection)_\w+)",
            rf"{SMTP_TESTS}(auth_attempted|reopen_\w+|send_messages_after_open_failed)",
            r"SMTPBackendStoppedServerTests\.test_fail_silently_on_connection_error",
        ],
    ),
    Difference(
        "sent_using names the host that has sent the message.",
        "'?only'? *(is not None|!=)|^- only$",
        [
            r"EmailMessageTests(WithMailers)?\.test_send(_using)?",
            r"(MailAdminsAndManagers|Send(Mass)?Mail)Tests(WithMailers)?\."
            r"test_(sends_using_default_mailer|using_arg)",
            r"SendTestEmailManagementCommand\.test_using_(default|option\w*)",
            r"LocmemBackendTests\.test_adds_sent_using_attribute",
        ],
    ),
    Difference(
        "A stream cannot be written into a DSN.",
        "'str' object has no attribute 'write'",
        [r"ConsoleBackendTests\.test_console_stream_kwarg"],
    ),
]

# By the way in which shims.py puts our classes in the place of Django's.
EXPECTED = {"smtp": SMTP, "wrapped": WRAPPED, "failover": SEVERAL, "routing": SEVERAL}
