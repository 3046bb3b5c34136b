"""Mistakes of a first hour, and what the answer to each says.

Those in DSNs are in ``test_dsn``, and those that ``manage.py check`` finds in ``test_checks``.
"""

import smtplib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from conftest import wrapped
from test_rules import Relay

from email_hosts.backends import (
    EmailHostsBackend,
    HostBackend,
    RoutingBackend,
    connection_from_dsn,
    get_connection,
)
from email_hosts.checks import check_hosts
from email_hosts.exceptions import EmailHostDoesNotExist, InvalidEmailHost
from email_hosts.testing import real_hosts

PASSWORD = "Wj4bYt2"
DSN = f"smtp://Kx7vQz9:{PASSWORD}@h.example.com"
NO_PATH = "must be the dotted path of a class, not"


SUBCLASS = "test_rules.Relay"
NO_PATHS: list[Any] = [5, None, Relay, [DSN]]

with_zz = partial(get_connection, "shop", zz=5)
with_router = partial(RoutingBackend, alias="shop", router="shop.mail.router")
with_rate = partial(RoutingBackend, alias="shop", rate="30/m")
with_umlaut = lambda: get_connection("shop", username="mü", password="x").open()  # noqa: E731
by_hand = lambda flag: EmailHostsBackend("h", alias="shop", fail_silently=flag)  # noqa: E731
NO_FLAG: Any = {"fail_silently": 2}
A_FLAG = "'fail_silently' must be True or False; "
A_KEY = "the key of a host must not be a DSN; give the DSN a key in "
NO_API_KEY = "get_connection(\"news\"): option 'api_key' is missing; "
NO_KEYS = [DSN, "failover:shop,spare", "console:"]

# How an answer begins, and calls that get it. Of options, the call is named, not the setting.
MISTAKES: list[tuple[str, list[Callable[[], Any]]]] = [
    ("get_connection(\"shop\"): unknown option 'zz'; known options: host, port, ", [with_zz]),
    ("MAILERS[\"shop\"]: unknown option 'router'; the setting EMAIL_HOSTS_R", [with_router]),
    ("MAILERS[\"shop\"]: option 'rate' has no effect on a router; give it ", [with_rate]),
    ('EMAIL_HOSTS["shop"]: the user name and the password must be ASCII, b', [with_umlaut]),
    # A call takes options of other backends away.
    (NO_API_KEY, [partial(get_connection, "news", api_key=each) for each in (None, "")]),
    (A_FLAG, [partial(get_connection, key, **NO_FLAG) for key in ("shop", "nobody")]),
    (A_FLAG, [partial(connection_from_dsn, "smtp://h", **NO_FLAG)]),
    # message.send("club") of Django 6.1: the first argument is ``fail_silently``.
    (f'MAILERS["shop"]: {A_FLAG}in a call of send(), ', [partial(by_hand, "club")]),
    (f'MAILERS["shop"]: {A_FLAG}in a call of send(), ', [partial(by_hand, DSN)]),
    # A key for a DSN, and the reverse.
    ("connection_from_dsn() takes a DSN; get_", [lambda: connection_from_dsn("shop")]),
    (A_KEY, [partial(get_connection, dsn) for dsn in NO_KEYS]),
    (f"EMAIL_BACKEND {NO_PATH} a DSN; write ", [partial(get_connection, "nobody")]),
    # A backend that is wrapped by hand.
    (f"the backend {NO_PATH} a DSN; write the DSN in EMAIL_HOSTS", [lambda: HostBackend(DSN)]),
    (f"the backend {NO_PATH}", [partial(HostBackend, each) for each in NO_PATHS]),
    ("backend 'no.such' cannot be imported: No module ", [lambda: HostBackend("no.such")]),
    ("backend 'os.path' must be the class ", [lambda: HostBackend("os.path")]),
    ("backend 'builtins.dict' must be the ", [lambda: HostBackend("builtins.dict")]),
]


@pytest.mark.filterwarnings("ignore:The EMAIL_BACKEND setting is deprecated")
@pytest.mark.parametrize(
    ("answer", "mistake"), [(answer, call) for answer, calls in MISTAKES for call in calls]
)
def test_answer_says_what_to_write(answer, mistake, settings):
    settings.EMAIL_HOSTS = {"shop": "smtp://h", "news": "anymail+brevo:?api_key=a"}
    settings.EMAIL_BACKEND = DSN
    with pytest.raises(InvalidEmailHost) as caught:
        mistake()
    assert str(caught.value).startswith(answer)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("key", ["shop", "console", "all"])
def test_one_message_is_no_list(key, settings, message):
    settings.EMAIL_HOSTS = {"shop": "smtp://h", "console": "console:", "all": "failover:shop"}
    with pytest.raises(TypeError, match=r"write send_messages\(\[message\]\)"):
        get_connection(key).send_messages(message)


@real_hosts()
def test_server_without_starttls_says_which_scheme_fits(serve):
    connection = connection_from_dsn(f"submission://127.0.0.1:{serve(extensions=[]).port}")
    with pytest.raises(smtplib.SMTPNotSupportedError, match=r"submissions:// is .*, smtp:// "):
        connection.open()


@real_hosts()
@pytest.mark.parametrize("dsn", ["console:", "locmem:", "dummy:", "file:/tmp"])
def test_host_without_a_server_takes_the_options_of_one_with(dsn, settings):
    """While you develop, it takes the place of an SMTP host. It refuses the same."""
    settings.EMAIL_HOSTS = {"shop": dsn}
    make: Any = partial(get_connection, "shop")
    assert make(timeout=5, use_tls=True, reply_to="a@b.example").reply_to == "a@b.example"
    for options, answer in (
        ({"timout": 5}, "unknown option 'timout'; did you mean 'timeout'?"),
        ({"timeout": "5"}, "option 'timeout' must be a number, not str"),
        ({"tls": True}, "unknown option 'tls'; in Python, its name is 'use_tls'"),
    ):
        with pytest.raises(InvalidEmailHost) as caught:
            make(**options)
        assert str(caught.value) == f'get_connection("shop"): {answer}'


@pytest.mark.filterwarnings("ignore:The EMAIL_BACKEND setting is deprecated")
def test_message_without_a_host_says_who_has_picked_none(settings, message):
    settings.EMAIL_HOSTS = {"shop": "smtp://h"}
    with pytest.raises(EmailHostDoesNotExist, match="; no host has its sender"):
        RoutingBackend().send_messages([message])
    settings.EMAIL_HOSTS_ROUTER = lambda message: None
    with pytest.raises(EmailHostDoesNotExist, match=" returned no host"):
        RoutingBackend().send_messages([message])


# What Django 6.1 tells a default mailer.
NOT_FOR_IT = {"_ignore_unknown_kwargs": {"username", "password", "timeout"}}


@pytest.mark.parametrize("make", [RoutingBackend, partial(wrapped, **NOT_FOR_IT)])
def test_login_of_a_call_that_has_no_effect_is_told(make, caplog):
    """``send_mail(auth_user="me")``: the host that is picked has its own login."""
    make(username=None, password="")
    assert not caplog.messages
    make(username="me", password=PASSWORD, timeout=None)
    assert caplog.messages == [
        "options of a call have no effect: username, password; each host has its own"
    ]


def test_path_of_a_function_in_a_script_is_none(settings, monkeypatch):
    monkeypatch.delattr("__main__.__spec__")  # Python does not know where it comes from
    (found,) = problems(settings, "submission://me@h?oauth2=__main__.token")
    assert "option 'oauth2' cannot be imported: " in found


def problems(settings, dsn):
    """Return what ``check`` says about the host ``news``, each with its hint."""
    settings.EMAIL_HOSTS = {"news": dsn}
    found = [f"{each.id} {each.msg} {each.hint}" for each in check_hosts(None)]
    return [each.removeprefix("email_hosts.") for each in found]


INVALID = 'E002 EMAIL_HOSTS["news"]:'

# What some providers need, in the order in which Anymail asks for it.
NEEDED = {
    "postmark": ["server_token"],
    "scaleway": ["secret_key", "project_id"],
}


@pytest.mark.parametrize("provider", NEEDED)
class TestProvider:
    """A mistake in the options of a provider, whose package has other words for it."""

    @pytest.fixture
    def complete(self, provider):
        pytest.importorskip(f"anymail.backends.{provider.replace('-', '_')}")
        return f"anymail+{provider}:?{'&'.join(f'{name}=X7' for name in NEEDED[provider])}"

    def test_missing_or_misspelt_option_is_told(self, provider, complete, settings):
        assert problems(settings, f"{complete}&requests_timeout=7") == []
        for name in NEEDED[provider]:
            assert problems(settings, complete.partition(name)[0]) == [
                f"{INVALID} option '{name}' is missing; in a DSN, write ?{name}=... "
                "The documentation of Anymail has the options of each provider."
            ]
            misspelt = name[:-2] + name[-1] + name[-2]
            assert problems(settings, complete.replace(name, misspelt)) == [
                f"{INVALID} unknown option '{misspelt}'; did you mean '{name}'? "
            ]

    @pytest.mark.parametrize(
        ("option", "answer"),
        [
            ("debug_api_request=1", "unknown option 'debug_api_request'; did you mean 'debug"),
            ("nonsense=1", "unknown option 'nonsense' "),
            ("conn_max_age=1", "unknown option 'conn_max_age'; it is for SMTP hosts only "),
            # Not repeated: the end of a key, perhaps.
            (f"{PASSWORD}=1", "the text after an ampersand is not an option; "),
            # What Anymail says of it stays.
            ("idna_encoder=none.such", "resolve IDNA_ENCODER='none.such'"),
        ],
    )
    def test_another_option(self, complete, option, answer, settings):
        (found,) = problems(settings, f"{complete}&{option}")
        assert found.startswith("E002 ")
        assert answer in found
        assert PASSWORD not in found


def test_option_that_is_missing_later_is_told_too(settings):
    """The names of the options have been found to be good."""
    settings.EMAIL_HOSTS = {"news": "anymail+mailgun:?sender_domain=mg.example.com"}
    settings.ANYMAIL = {"MAILGUN_API_KEY": PASSWORD}
    get_connection("news")
    settings.ANYMAIL = {}
    with pytest.raises(InvalidEmailHost, match="option 'api_key' is missing; in a DSN, write"):
        get_connection("news")


NO_TLS, NOT_KEPT, NOT_SET, TOO_MUCH, NO_FILE = (
    f'{number} EMAIL_HOSTS["news"] {problem}'
    for number, problem in (
        ("W017", "does not use TLS, so these options have no effect:"),
        ("W017", "keeps no connection, so these options have no effect:"),
        ("W018", "has no real value for"),
        ("W018", "has a user name or a "),
        ("W021", "cannot load"),
    )
)

# What is told, if anything, of which DSNs.
TOLD: list[tuple[str, list[str]]] = [
    (f"{NO_TLS} ssl_cafile. ", [f"smtp://h?ssl_cafile={__file__}"]),
    (f"{NO_FILE} ssl_cafile ({__file__}): [", [f"submission://h?ssl_cafile={__file__}"]),
    (f"{NO_FILE} ssl_certfile (no.pem): ", ["smtps://h?ssl_certfile=no.pem"]),
    ("", [f"backend://{SUBCLASS}?host=h&ssl_certfile={__file__}", "smtp://h"]),
    (f"{NOT_KEPT} conn_max_idle, c", ["smtp://h?conn_max_messages=5&conn_max_idle=2"]),
    ("", ["smtp://h?conn_max_messages=5&conn_max_age=2"]),
    (f"{NOT_SET} username, password, host: probably, an ", ["submission://None:None@None"]),
    (f"{NOT_SET} username, password: ", ["submission://:@h", "submission://$A:${B_2}@h"]),
    (f"{NOT_SET} username, password: ", ["submission://<user>:{password}@h"]),
    (f"{NOT_SET} server_token: ", [f"anymail+postmark:?server_token={x}" for x in ("", None)]),
    ("", ["submission://none:none@none.example", "submission://Nonesuch:xNone@h"]),
    # A login that was copied with something more.
    (TOO_MUCH, ["submission:// me:secret@h", "submission://me:secret%20@h"]),
    (TOO_MUCH, ["submission://'me:secret@h", 'submission://me:"secret"@h']),
    ("", ["submission://me:a 'secret' of mine@h", "submission://me:$ecret!@h"]),
    (f"{INVALID} the user name and the pass", ["submission://me:p%C3%A4ss@h"]),
]


@pytest.mark.parametrize(("told", "dsn"), [(told, dsn) for told, dsns in TOLD for dsn in dsns])
def test_what_has_no_effect_is_told(told, dsn, settings):
    found = problems(settings, dsn)
    assert len(found) == bool(told)
    assert "".join(found).startswith(told)
