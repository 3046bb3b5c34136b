"""The table of options: each has the same values in a DSN, a call, ``MAILERS`` and from a
stranger, and what does not fit is refused in the same words.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from conftest import needs_mailers
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail.backends import dummy
from django.test import override_settings
from django.utils.functional import lazystr

from email_hosts.backends import (
    EmailHostsBackend,
    FailoverBackend,
    connection_from_dsn,
    get_connection,
)
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.host import FAILOVER_BACKEND, HOST_BACKEND, ROUTING_BACKEND, SMTP_BACKEND
from email_hosts.options import HOST_OPTIONS, OF_SEVERAL, SEVERAL_OPTIONS, SMTP_OPTIONS
from email_hosts.testing import real_hosts
from email_hosts.values import Limit

OPTIONS = {**SMTP_OPTIONS, **SEVERAL_OPTIONS}
SEVERAL = {option.name for option in OF_SEVERAL}
TEXTS = " ".join(name for name, option in OPTIONS.items() if option.in_python is None)
CONSOLE = "django.core.mail.backends.console.EmailBackend"
URL = "https://login.example.com/token"
CLIENT = f"oauth2_token_url={URL}&oauth2_client_id=id"
CLIENT_IN_PYTHON = {"oauth2_token_url": URL, "oauth2_client_id": "id"}
TOKEN = f"oauth2={__name__}.token"
ME = "submission://me"

not_callable = "Kx7vQz9"


@pytest.fixture(autouse=True)
def hosts_are_real():
    with real_hosts():
        yield


def token(username, *, renew):
    """A callable of a project, which nobody calls here."""


def login(**options: Any) -> dict[str, Any]:
    """Return what a login with a token needs, and more."""
    return {"username": "me", "use_tls": True, "oauth2": f"{__name__}.token", **options}


def shown(given: Any) -> str:
    """Return what a test is called in a report."""
    return getattr(given, "__name__", repr(given))[:50]


def base(names: Any) -> str:
    """Return a host that may have these options."""
    return "failover:a" if SEVERAL & {*names} else "smtp://h"


# Where options may be given. Each takes a DSN, and the same options in Python.


def in_dsn(dsn: str, python: dict[str, Any]) -> Any:
    with override_settings(EMAIL_HOSTS={"shop": dsn}):
        return get_connection("shop")


def of_stranger(dsn: str, python: dict[str, Any]) -> Any:
    return connection_from_dsn(dsn)


def in_call(dsn: str, python: dict[str, Any]) -> Any:
    with override_settings(EMAIL_HOSTS={"shop": base(python)}):
        return get_connection("shop", **python)


def in_mailers(dsn: str, python: dict[str, Any]) -> Any:
    """As Django makes a backend of an entry."""
    if base(python) == "smtp://h":
        return EmailHostsBackend(alias="shop", **{"host": "h", **python})
    return FailoverBackend(alias="shop", **{"hosts": ["a"], **python})


IN_TEXT = [in_dsn, of_stranger]
IN_PYTHON = [in_call, in_mailers]
WAYS = [*IN_TEXT, *IN_PYTHON]
each_way = pytest.mark.parametrize("way", WAYS, ids=shown)
SETTINGS = {
    in_dsn: 'EMAIL_HOSTS["shop"]: ',
    of_stranger: "",
    in_call: 'get_connection("shop"): ',
    in_mailers: 'MAILERS["shop"]: ',
}


def refusal(way: Any, dsn: str, python: dict[str, Any]) -> str:
    """Return how options are refused, without the setting that the refusal must name."""
    with pytest.raises(InvalidEmailHost) as caught:
        way(dsn, python)
    assert caught.value.__cause__ is None
    setting = SETTINGS[way]
    assert str(caught.value).startswith(setting)
    return str(caught.value).removeprefix(setting)


def smtp(query: str, **python: Any) -> tuple[str, dict[str, Any]]:
    return f"smtp://h?{query}", python


def sender(address: str) -> tuple[str, dict[str, Any]]:
    return smtp(f"_default_from_email={quote(address)}", default_from_email=address)


def allowed(*people: str) -> tuple[str, dict[str, Any]]:
    return smtp(
        f"_redirect_to=q@example.com&_allowed_recipients={quote(','.join(people))}",
        redirect_to="q@example.com",
        allowed_recipients=[*people],
    )


# A DSN, and the same options in Python.
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("smtp://mail.example.com", {"host": "mail.example.com"}),
    ("smtp://bücher.example", {"host": "bücher.example"}),
    ("smtp://h:2525", {"port": 2525}),
    ("smtp://me%40example.com:p%2Fw@h", {"username": "me@example.com", "password": "p/w"}),
    *(smtp(f"ssl={text}", use_ssl=True) for text in ("1", "true", "TRUE", "yes", "on")),
    *(smtp(f"tls={text}", use_tls=False) for text in ("0", "false", "no", "off", "OFF")),
    smtp("ssl", use_ssl=True),
    smtp("timeout=10", timeout=10),
    smtp("timeout=2.5", timeout=2.5),
    smtp("ssl_certfile=c.pem&ssl_keyfile=k.pem", ssl_certfile="c.pem", ssl_keyfile="k.pem"),
    smtp("ssl_cafile=%2Fa b/c.pem", ssl_cafile="/a b/c.pem"),
    smtp("local_hostname=web1.example.com", local_hostname="web1.example.com"),
    smtp("local_hostname=[192.0.2.1]", local_hostname="[192.0.2.1]"),
    smtp("conn_max_age=60", conn_max_age=60),
    smtp("conn_max_messages=050", conn_max_messages=50),
    smtp("conn_max_idle=1", conn_max_idle=1),
    smtp("parallel=4", parallel=4),
    (f"{ME}@h?{TOKEN}", login()),
    (
        f"{ME}@h?{CLIENT}&oauth2=client_credentials&oauth2_client_secret=a%26b"
        "&oauth2_scope=a b",
        login(
            **CLIENT_IN_PYTHON,
            oauth2="client_credentials",
            oauth2_client_secret="a&b",
            oauth2_scope="a b",
        ),
    ),
    (
        f"{ME}@h?{CLIENT}&oauth2=refresh_token&oauth2_refresh_token=x",
        login(**CLIENT_IN_PYTHON, oauth2="refresh_token", oauth2_refresh_token="x"),
    ),
    sender("a+b@example.com"),
    sender("Shop <shop@example.com>"),
    sender("webmaster@localhost"),
    sender('"Shop, Inc." <shop@example.com>'),
    sender("shop@[192.0.2.1]"),
    sender("x@a_b.example"),
    sender("Bücherstube <laden@bücher.example>"),
    sender(f"{'Shop ' * 60}<shop@example.com>"),
    smtp("_server_email=b@example.com", server_email="b@example.com"),
    smtp("_reply_to=c@example.com", reply_to="c@example.com"),
    smtp("_envelope_from=d@example.com", envelope_from="d@example.com"),
    smtp(
        "_header-X-A=a%26b+c d@e;f?g&_header-y=1", headers={"X-A": "a&b+c d@e;f?g", "y": "1"}
    ),
    allowed("example.com"),
    allowed("a@example.com", "Example.ORG", "localhost"),
    allowed("o'hara+x@bücher.example"),
    allowed("xn--strae-oqa.example"),
    smtp(
        "rate=014/s,50000/d&rate_by=recipients",
        rate=(Limit(14, 1), Limit(50_000, 86_400)),
        rate_by="recipients",
    ),
    ("failover:a,b?retry=0.5", {"hosts": ("a", "b"), "retry": 0.5}),
    ("roundrobin:a, b", {"hosts": ("a", "b"), "rotate": True}),
]
given_in_both = pytest.mark.parametrize(("dsn", "python"), GOOD, ids=shown)


@each_way
@given_in_both
def test_value_is_the_same_wherever_it_is_given(way, dsn, python):
    is_for_strangers = all(OPTIONS[name].for_strangers for name in python)
    if way is of_stranger and not (is_for_strangers and base(python) == "smtp://h"):
        assert "is not allowed" in refusal(way, dsn, python)
        return
    connection = way(dsn, python)
    assert repr({name: getattr(connection, name) for name in python}) == repr(python)


@each_way
@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("default_from_email", "Dr. Bücher & Co. <a@b>", '"Dr. Bücher & Co." <a@b>'),
        ("server_email", "N. <a@b>", '"N." <a@b>'),  # as Django needs it
        ("local_hostname", "bücher.example", "xn--bcher-kva.example"),
        ("host", "mail.example.com.", "mail.example.com"),
        ("host", "[::1]", "::1"),
        ("host", "[fe80::1%25eth0]", "fe80::1%eth0"),
    ],
)
def test_value_has_one_spelling_afterwards(way, name, given, expected):
    in_query = OPTIONS[name].in_dsn
    dsn = f"smtp://h?{in_query}={quote(given)}" if in_query else f"smtp://{given}"
    python = {name: given.replace("%25", "%")}
    assert getattr(way(dsn, python), name) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"use_tls": 1}, {"use_tls": True}),
        ({"use_ssl": 0}, {"use_ssl": False}),
        ({"password": lazystr("pw"), "username": "me"}, {"password": "pw"}),
        ({"headers": {}}, {"headers": {}}),
        (
            {"redirect_to": "a@b", "allowed_recipients": "c.example, d@e"},
            {"allowed_recipients": ["c.example", "d@e"]},
        ),
        ({"redirect_to": "a@b", "allowed_recipients": ()}, {"allowed_recipients": []}),
        ({"hosts": "a, b,"}, {"hosts": ("a", "b")}),
    ],
    ids=shown,
)
def test_python_has_more_spellings(given, expected):
    connection = in_mailers("", given)
    assert {name: getattr(connection, name) for name in expected} == expected


class Bad(NamedTuple):
    """Values of options that are refused, and what the refusal teaches."""

    names: str
    teaches: str
    anywhere: list[Any] = []
    in_text: list[str] = []
    in_python: list[Any] = []

    def cases(self):
        """Yield each value of each option, at each place where it may be given."""
        places = ((WAYS, self.anywhere), (IN_TEXT, self.in_text), (IN_PYTHON, self.in_python))
        for name in self.names.split():
            for ways, values in places:
                for value in values:
                    yield from ((way, name, value, self.teaches) for way in ways)


NUMBERS = "port timeout conn_max_age retry conn_max_messages conn_max_idle parallel"
ONE_ADDRESS, MANY_ADDRESSES = "one email address", "addresses without names, and domains"

BAD = [
    Bad(
        "timeout",
        "positive number of seconds",
        [0, 0.0, -1, math.nan, math.inf, 1e30],
        ["", "5s", "1e3", "+5", "9" * 4000],
    ),
    Bad("conn_max_age retry", "positive number of seconds", [0], [""]),
    Bad("port", "whole number from 1 to 65535", in_python=[0, 65536]),
    Bad("conn_max_messages", "whole number from 1", [0, 1.5], [""]),
    Bad("conn_max_idle", "whole number from 1", [0, 10**9], [""]),
    Bad("parallel", "whole number from 1 to 50", [0, 51, 2.5], [""]),
    Bad("use_tls use_ssl", "1, true, yes or on", in_text=["", "2", "wahr"]),
    Bad(NUMBERS, "must be a number, not", in_python=["5", True, [5]]),
    Bad("use_tls use_ssl rotate", "True or False", in_python=["on", 2, []]),
    Bad(TEXTS, "must be text, not", in_python=[5, ["x"], b"Kx7vQz9"]),
    Bad(TEXTS, "control character", in_python=["x\ud800"]),
    Bad("host", "host name or an IP address", in_python=["a b", "[a]"]),
    Bad("ssl_certfile ssl_keyfile ssl_cafile", "must have a value", in_text=[""]),
    Bad("oauth2_client_id oauth2_client_secret", "must have a value", in_text=[""]),
    Bad("oauth2_refresh_token oauth2_scope", "must have a value", in_text=[""]),
    Bad("ssl_cafile", "control character", ["\0"]),
    Bad("local_hostname", "host name", ["a b", f"{'ü.' * 40}example"]),  # longer in ASCII
    Bad("default_from_email reply_to envelope_from redirect_to", ONE_ADDRESS, ["x"], [""]),
    Bad("server_email", ONE_ADDRESS, ["root", "a@", "@b", "a@b..c", "a@b,c@d", "a@b,"], [""]),
    Bad("server_email", ONE_ADDRESS, ["a@b$c", "a b@c", "A <a@b> c", "A <a@b", "group: a@b;"]),
    Bad("server_email", ONE_ADDRESS, ['"', "<", "a@[", "müller@example.com", "(" * 300]),
    Bad("server_email", ONE_ADDRESS, [f"{'Shop ' * 61}<shop@example.com>"]),
    Bad("server_email", "control character", ["A\u2028B <a@b>", "a\nb@c"]),
    Bad("allowed_recipients", MANY_ADDRESSES, [",", "@a.b", "*.a.b", "a@", "a b"], [""]),
    Bad("allowed_recipients", MANY_ADDRESSES, ["a@b@c", "A <a@b>", "ä@b", '"a b"@c', "a://b"]),
    Bad("allowed_recipients", MANY_ADDRESSES, ["x.example,a@[192.0.2.1]"]),
    Bad("allowed_recipients", "xn--", ["straße.example", "a@straße.example"]),
    Bad("allowed_recipients", "control character", ["a\nb"]),
    Bad("allowed_recipients", "a list of texts", in_python=[5, [5], [None], {"a": "b"}]),
    Bad("oauth2", "dotted path of a callable", ["client_credential", "shop.tok-en"], [""]),
    Bad("oauth2", "dotted path of a callable", [f"a.{'b' * 100}"]),
    Bad("oauth2", "must be text, not", in_python=[5]),
    Bad("oauth2_token_url", "control character", ["https://a.example/\n"]),
    Bad("oauth2_token_url", "https://", ["http://a.example/token", "http://192.0.2.1/"]),
    Bad("oauth2_token_url", "https://", ["ftp://a.example/", "file:///etc/passwd", "a.b/"]),
    Bad("oauth2_token_url", "https://", ["https://", "https://a..b/", "https://a:x/"]),
    Bad("oauth2_token_url", "https://", ["https://[:", f"https://{'a' * 64}.example/"]),
    Bad("oauth2_token_url", "https://", ["https://bücher.example/", "https://a.example/#b"]),
    Bad("oauth2_token_url", "https://", ["https://u:p@a.example/", "https://a.example/a b"]),
    Bad("rate", 'like "30/m"', ["5", "0/s"], [""]),
    Bad("rate_by", "messages or recipients", ["mails"], [""]),
    Bad("hosts", "list of keys", in_python=[5, {"a": 1}]),
    Bad("headers", "dict of names and texts", in_python=["X: 1"]),
]


@pytest.mark.parametrize(
    ("way", "name", "value", "teaches"),
    [case for bad in BAD for case in bad.cases()],
    ids=shown,
)
def test_value_that_does_not_fit_is_refused_wherever_it_is_given(way, name, value, teaches):
    spelled = OPTIONS[name].in_dsn if way in IN_TEXT else name
    dsn = f"{base([name])}?{OPTIONS[name].in_dsn}={quote(str(value), errors='replace')}"
    text = refusal(way, dsn, {name: value})
    assert f"option '{spelled}'" in text
    assert teaches in text


def test_each_option_has_good_and_bad_values():
    assert {name for _, python in GOOD for name in python} == {*OPTIONS}
    # What stands before the at sign may be any text.
    texts = {name for bad in BAD for name in bad.names.split() if bad.names != TEXTS}
    assert texts | {"username", "password"} == {*OPTIONS}


NOT_FOR_A_HOST = "cannot be added by a host"


@each_way
@pytest.mark.parametrize(
    ("name", "value", "teaches"),
    [
        *((name, "x", NOT_FOR_A_HOST) for name in ("To", "cc", "BCC", "Sender", "Subject")),
        *((name, "x", NOT_FOR_A_HOST) for name in ("Date", "Message-ID", "MIME-Version")),
        *((name, "x", NOT_FOR_A_HOST) for name in ("content-transfer-encoding", "Resent-To")),
        ("From", "x", "_default_from_email"),
        ("reply-to", "x", "_reply_to"),
        ("Return-Path", "x", "_envelope_from"),
        *((name, "x", "printable ASCII") for name in ("", "X:", "X Y", "Ä")),
        *(("X", value, "control character") for value in ("a\nb", "a\r\nb", "\0", "a\u2028b")),
        ("X", "", "must have a value"),
    ],
)
def test_header_that_is_not_for_all_messages_is_refused(way, name, value, teaches):
    dsn = f"smtp://h?_header-{name}={quote(value)}"
    text = refusal(way, dsn, {"headers": {name: value}})
    assert (f"'_header-{name}'" if way in IN_TEXT else f"'headers' has '{name}'") in text
    assert teaches in text


@pytest.mark.parametrize(
    ("headers", "teaches"),
    [
        ({"X": 5}, "'X', which must be text"),
        ({"X\n": "a"}, r"'X\n', which must name a header"),
        ({5: "a", "5": "b"}, "'5', which is given twice"),
    ],
)
def test_headers_in_python_are_texts_with_different_names(headers, teaches):
    assert teaches in refusal(in_mailers, "", {"headers": headers})


@each_way
@pytest.mark.parametrize(
    ("dsn", "python", "teaches"),
    [
        ("smtp://h?ssl&tls", {"use_ssl": True, "use_tls": True}, "mutually exclusive"),
        ("smtp://h?ssl_keyfile=k.pem", {"ssl_keyfile": "k.pem"}, "needs 'ssl_certfile'"),
        ("smtp://h?_allowed_recipients=a@b", {"allowed_recipients": "a@b"}, "redirect_to'"),
        (f"{ME}:Kx7vQz9@h?{TOKEN}", login(password="Kx7vQz9"), "remove the password"),
        (
            f"submission://:Kx7vQz9@h?{TOKEN}",
            login(username="", password="Kx7vQz9"),
            "remove the password",
        ),
        (f"submission://h?{TOKEN}", login(username=""), "needs a user name"),
        (f"submission://m%C3%BC@h?{TOKEN}", login(username="mü"), "printable ASCII"),
        (f"smtp://me@127.0.0.1?{TOKEN}", login(use_tls=False), "needs TLS"),
        (
            f"{ME}@h?oauth2=client_credentials",
            login(oauth2="client_credentials"),
            "needs 'oauth2_token_url' and 'oauth2_client_id'",
        ),
        (
            f"{ME}@h?oauth2=client_credentials&{CLIENT}",
            login(oauth2="client_credentials", **CLIENT_IN_PYTHON),
            "needs 'oauth2_client_secret'",
        ),
        (
            f"{ME}@h?oauth2=refresh_token&{CLIENT}",
            login(oauth2="refresh_token", **CLIENT_IN_PYTHON),
            "needs 'oauth2_refresh_token'",
        ),
        (
            f"{ME}@h?oauth2=client_credentials&oauth2_refresh_token=Kx7vQz9",
            login(oauth2="client_credentials", oauth2_refresh_token="Kx7vQz9"),
            "'oauth2_refresh_token' is only for oauth2=refresh_token",
        ),
        (
            f"{ME}@h?{TOKEN}&oauth2_scope=Kx7vQz9",
            login(oauth2_scope="Kx7vQz9"),
            "is only for oauth2=client_credentials and oauth2=refresh_token",
        ),
        (
            f"{ME}:Kx7vQz9@h?oauth2_client_id=x",
            {"username": "me", "password": "Kx7vQz9", "oauth2_client_id": "x"},
            "'oauth2_client_id' needs 'oauth2'",
        ),
    ],
    ids=shown,
)
def test_options_that_do_not_go_together_are_refused(way, dsn, python, teaches):
    text = refusal(way, dsn, python)
    assert teaches in text
    assert "Kx7vQz9" not in text


@pytest.mark.parametrize("way", IN_PYTHON, ids=shown)
@pytest.mark.parametrize(
    ("name", "teaches"),
    [
        *(
            (option.in_dsn, f"its name is '{option.name}'")
            for option in OPTIONS.values()
            if option.in_dsn not in ("", option.name, "_header-NAME")
        ),
        ("_header-X-Shop", "write headers={'X-Shop': ...}"),
        ("timout", "did you mean 'timeout'?"),
        ("hots", "did you mean 'host'?"),
    ],
)
def test_names_in_python_are_djangos_and_no_others(way, name, teaches):
    text = refusal(way, "", {name: "x"})
    assert text.startswith(f"unknown option {name!r}; ")
    assert teaches in text


class Own(dummy.EmailBackend):
    """A project's backend, whose options have the names of ours."""

    def __init__(self, ssl: str, timeout: str, redirect: str, **others: Any) -> None:
        super().__init__(**others)
        self.options = {"ssl": ssl, "timeout": timeout, "redirect": redirect}


class TestCall:
    """The options of one call of ``get_connection``."""

    @pytest.mark.parametrize("nothing", [None, ""])
    @given_in_both
    def test_that_are_nothing_take_options_away_but_no_redirect(self, dsn, python, nothing):
        names = {*python} - {"host", "hosts"}
        hosts = {"shop": dsn, "plain": base(python)}
        with override_settings(EMAIL_HOSTS=hosts):
            connection = get_connection("shop", **dict.fromkeys(names, nothing))
            plain = get_connection("plain", **dict.fromkeys(names, nothing))
        stay = {"redirect_to", "allowed_recipients"}
        for name in names - {"port"}:
            expected = python[name] if name in stay else getattr(plain, name)
            assert getattr(connection, name) == expected

    @pytest.mark.parametrize(
        ("dsn", "options", "security", "port"),
        [
            ("submission://h", {"use_ssl": True}, "ssl", 465),
            ("submission://h:2525", {"use_ssl": True}, "ssl", 2525),
            ("submission://h", {"use_ssl": True, "port": 587}, "ssl", 587),
            ("smtp://h", {"use_ssl": True}, "ssl", 465),
            ("smtp://h", {"use_tls": True}, "tls", 25),
            ("submissions://h", {"use_tls": True}, "tls", 465),
            ("submissions://h", {"use_ssl": False, "use_tls": True}, "tls", 465),
            ("submission://h", {"use_tls": False}, None, 587),
        ],
    )
    def test_security_is_that_of_a_dsn_with_the_option(self, dsn, options, security, port):
        with override_settings(EMAIL_HOSTS={"shop": dsn}):
            connection: Any = get_connection("shop", **options)
        is_secure = (connection.use_ssl, connection.use_tls)
        assert is_secure == (security == "ssl", security == "tls")
        assert connection.port == port

    @pytest.mark.parametrize("dsn", ["console:", "failover:a"])
    @pytest.mark.parametrize(
        ("query", "python"),
        [
            (dsn.partition("?")[2], python)
            for dsn, python in GOOD
            if {*python} <= HOST_OPTIONS.keys()
        ],
        ids=shown,
    )
    def test_of_any_host_are_for_any_host(self, dsn, query, python):
        with override_settings(EMAIL_HOSTS={"by_call": dsn, "by_dsn": f"{dsn}?{query}"}):
            called = get_connection("by_call", **python)
            connection = get_connection("by_dsn")
        for name, value in python.items():
            assert getattr(called, name) == getattr(connection, name) == value

    @pytest.mark.parametrize(
        ("oauth2", "reason"),
        [
            ("no.such.token", "'no.such.token' cannot be imported: No module named"),
            (f"{__name__}.nothing", "cannot be imported: Module"),
            (f"{__name__}.not_callable", "is not callable"),
        ],
    )
    def test_callable_must_be_there(self, oauth2, reason):
        assert reason in refusal(in_call, "", login(oauth2=oauth2))

    @override_settings(EMAIL_HOSTS={"own": f"backend://{__name__}.Own"})
    def test_of_another_backend_are_its_own(self):
        options: Any = {"ssl": "own", "timeout": "own", "redirect": "own"}
        assert get_connection("own", **options).wrapped.options == options  # type: ignore[attr-defined]

    @pytest.mark.parametrize("name", ["_redirect_to", "_redirct_to", "redirct_to"])
    @override_settings(EMAIL_HOSTS={"console": "console:"})
    def test_misspelt_redirect_is_no_option_of_another_backend(self, name):
        with pytest.raises(InvalidEmailHost, match=f"unknown option '{name}'; .*redirect_to'"):
            get_connection("console", **{name: "qa@example.com"})  # type: ignore[arg-type]


@needs_mailers
class TestMailers:  # pragma: mailers-only
    """Entries of ``MAILERS`` that are written by hand."""

    @pytest.mark.parametrize("ask", [lambda key: mail.mailers[key], get_connection])
    @pytest.mark.parametrize(
        ("backend", "options", "reason"),
        [
            (SMTP_BACKEND, {}, "option 'host' is missing"),
            (SMTP_BACKEND, {"host": "h", "timeout": "5"}, "option 'timeout' must be"),
            (FAILOVER_BACKEND, {}, "option 'hosts' must name hosts"),
            (FAILOVER_BACKEND, {"hosts": "a", "retyr": 1}, "unknown option 'retyr'; did you"),
            (ROUTING_BACKEND, {"router": "x"}, "unknown option 'router'"),
            (HOST_BACKEND, {}, "option 'backend' must name the backend to wrap"),
            (HOST_BACKEND, {"backend": "no.such.Backend"}, "backend 'no.such.Backend' cannot"),
            (HOST_BACKEND, {"backend": CONSOLE, "x": 1}, "Unknown options 'x'."),
            (HOST_BACKEND, {"backend": CONSOLE, "reply_to": 5}, "option 'reply_to' must be"),
        ],
    )
    def test_refusal_names_the_mailer_and_the_option(
        self, backend, options, reason, ask, settings
    ):
        settings.EMAIL_HOSTS = {}
        settings.MAILERS = {"shop": {"BACKEND": backend, "OPTIONS": options}}
        with pytest.raises(ImproperlyConfigured) as caught:
            ask("shop")
        problem = str(caught.value).replace("MAILERS['shop']", 'MAILERS["shop"]')
        assert problem.startswith(f'MAILERS["shop"]: {reason}')

    def test_options_of_any_host_surround_any_backend(self, settings):
        options = {"backend": CONSOLE, "reply_to": "a@b", "headers": {"X": "1"}}
        settings.MAILERS = {"shop": {"BACKEND": HOST_BACKEND, "OPTIONS": options}}
        connection: Any = mail.mailers["shop"]
        assert (connection.reply_to, connection.headers) == ("a@b", {"X": "1"})
        assert type(connection.wrapped).__module__ == CONSOLE.rpartition(".")[0]
