"""The table of options: each has the same values in a DSN, a call, ``MAILERS`` and from a
stranger, and what does not fit is refused in the same words.
"""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import quote

import pytest
from conftest import needs_mailers
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail.backends import dummy
from django.test import override_settings
from django.utils.functional import lazystr
from django.utils.module_loading import import_string

from email_hosts.backends import connection_from_dsn, get_connection
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.host import FAILOVER_BACKEND, HOST_BACKEND, ROUTING_BACKEND, SMTP_BACKEND
from email_hosts.options import HOST_OPTIONS, OF_SEVERAL, SEVERAL_OPTIONS, SMTP_OPTIONS
from email_hosts.testing import real_hosts
from email_hosts.values import Limit

OPTIONS = {**SMTP_OPTIONS, **SEVERAL_OPTIONS}
SEVERAL = {option.name for option in OF_SEVERAL}
CONSOLE = "django.core.mail.backends.console.EmailBackend"
URL = "https://login.example.com/token"
CLIENT = f"oauth2_token_url={URL}&oauth2_client_id=id"
CLIENT_IN_PYTHON = {
    "username": "me",
    "use_tls": True,
    "oauth2_token_url": URL,
    "oauth2_client_id": "id",
}


@pytest.fixture(autouse=True)
def hosts_are_real():
    with real_hosts():
        yield


def token(username, *, renew):
    """A callable of a project, which nobody calls here."""


def base(names: Any) -> str:
    """Return a host that may have these options."""
    return "failover:a" if SEVERAL & {*names} else "smtp://h"


class WayIn:
    """Where options may be given."""

    setting = ""
    in_dsn = False

    def connect(self, dsn: str, python: dict[str, Any]) -> Any:
        """Return a connection to the host of the DSN, or with the same in Python."""
        raise NotImplementedError

    def __repr__(self):
        return type(self).__name__


class InDSN(WayIn):
    setting = 'EMAIL_HOSTS["shop"]: '
    in_dsn = True

    def connect(self, dsn, python):
        with override_settings(EMAIL_HOSTS={"shop": dsn}):
            return get_connection("shop")


class OfStranger(InDSN):
    setting = ""

    def connect(self, dsn, python):
        return connection_from_dsn(dsn)


class InCall(WayIn):
    setting = 'get_connection("shop"): '

    def connect(self, dsn, python):
        with override_settings(EMAIL_HOSTS={"shop": base(python)}):
            return get_connection("shop", **python)


class InMailers(WayIn):
    """As Django makes a backend of an entry."""

    setting = 'MAILERS["shop"]: '

    def connect(self, dsn, python):
        is_smtp = base(python) == "smtp://h"
        beside = {"host": "h"} if is_smtp else {"hosts": ["a"]}
        backend = import_string(SMTP_BACKEND if is_smtp else FAILOVER_BACKEND)
        return backend(alias="shop", **{**beside, **python})


WAYS = [InDSN(), OfStranger(), InCall(), InMailers()]
each_way = pytest.mark.parametrize("way", WAYS, ids=repr)


def smtp(query: str, **python: Any) -> tuple[str, dict[str, Any]]:
    return f"smtp://h?{query}", python


# A DSN, and the same options in Python.
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("smtp://mail.example.com", {"host": "mail.example.com"}),
    ("smtp://bücher.example", {"host": "bücher.example"}),
    ("smtp://h:2525", {"port": 2525}),
    ("smtp://me%40example.com:p%2Fw@h", {"username": "me@example.com", "password": "p/w"}),
    ("submission://h", {"use_tls": True}),
    ("submissions://h", {"use_ssl": True}),
    *(smtp(f"ssl={text}", use_ssl=True) for text in ("1", "true", "TRUE", "yes", "on", "On")),
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
    (
        f"submission://me@h?oauth2={__name__}.token",
        {"username": "me", "use_tls": True, "oauth2": f"{__name__}.token"},
    ),
    (
        f"submission://me@h?{CLIENT}&oauth2=client_credentials&oauth2_client_secret=a%26b"
        "&oauth2_scope=a b",
        {
            **CLIENT_IN_PYTHON,
            "oauth2": "client_credentials",
            "oauth2_client_secret": "a&b",
            "oauth2_scope": "a b",
        },
    ),
    (
        f"submission://me@h?{CLIENT}&oauth2=refresh_token&oauth2_refresh_token=x",
        {**CLIENT_IN_PYTHON, "oauth2": "refresh_token", "oauth2_refresh_token": "x"},
    ),
    *(
        smtp(f"_default_from_email={quote(address)}", default_from_email=address)
        for address in (
            *("a+b@example.com", "Shop <shop@example.com>", "webmaster@localhost"),
            *('"Shop, Inc." <shop@example.com>', "shop@[192.0.2.1]", "x@a_b.example"),
            *("Bücherstube <laden@bücher.example>", f"{'Shop ' * 60}<shop@example.com>"),
        )
    ),
    smtp("_server_email=b@example.com", server_email="b@example.com"),
    smtp("_reply_to=c@example.com", reply_to="c@example.com"),
    smtp("_envelope_from=d@example.com", envelope_from="d@example.com"),
    smtp(
        "_header-X-A=a%26b+c d@e;f?g&_header-y=1", headers={"X-A": "a&b+c d@e;f?g", "y": "1"}
    ),
    *(
        smtp(
            f"_redirect_to=q@example.com&_allowed_recipients={quote(','.join(allowed))}",
            redirect_to="q@example.com",
            allowed_recipients=allowed,
        )
        for allowed in (
            *(["example.com"], ["a@example.com", "Example.ORG", "localhost"]),
            *(["o'hara+x@bücher.example"], ["xn--strae-oqa.example"]),
        )
    ),
    smtp(
        "rate=014/s,50000/d&rate_by=recipients",
        rate=(Limit(14, 1), Limit(50_000, 86_400)),
        rate_by="recipients",
    ),
    ("failover:a,b?retry=0.5", {"hosts": ("a", "b"), "retry": 0.5}),
    ("roundrobin:a, b", {"hosts": ("a", "b"), "rotate": True}),
]


def test_each_option_has_an_example():
    assert {name for _, python in GOOD for name in python} == {*OPTIONS}


@each_way
@pytest.mark.parametrize(("dsn", "python"), GOOD, ids=lambda given: repr(given)[:60])
def test_value_is_the_same_wherever_it_is_given(way, dsn, python):
    is_for_strangers = all(OPTIONS[name].for_strangers for name in python)
    if isinstance(way, OfStranger) and not (is_for_strangers and base(python) == "smtp://h"):
        with pytest.raises(InvalidEmailHost, match=r"is not allowed"):
            way.connect(dsn, python)
        return
    connection = way.connect(dsn, python)
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
    in_dsn = OPTIONS[name].in_dsn
    dsn = f"smtp://h?{in_dsn}={quote(given)}" if in_dsn else f"smtp://{given}"
    python = {name: given.replace("%25", "%")}
    assert getattr(way.connect(dsn, python), name) == expected


NOT_A_NUMBER = "must be a positive number of seconds, like 10 or 2.5"
NOT_A_COUNT = "must be a whole number from 1 to 999999999"
NOT_PARALLEL = "must be a whole number from 1 to 50"
NOT_A_FLAG = "must be 1, true, yes or on, or 0, false, no or off"
NOT_AN_ADDRESS = "must be one email address in ASCII before the '@', like shop@example.com or"
NOT_RECIPIENTS = "must be addresses without names, and domains without an at sign, like boss"
NOT_OAUTH2 = (
    "must be client_credentials, refresh_token, or the dotted path of a callable, like"
)
NOT_A_URL = "must be a URL that starts with https:// and has neither user name nor fragment"
NOT_A_HEADER = "must name a header in printable ASCII without spaces and colons, like X-Shop"
NOT_A_NAME = "must be a host name, or an IP address in brackets (RFC 5321, 4.1.1.1)"
NOT_FOR_A_HOST = "cannot be added by a host, because each message has its own"
IN_ASCII = "must have this domain in ASCII, beginning with xn--"
CONTROL = "has a control character, such as a line break; remove it"

# Values that are refused wherever they are given, and why.
BAD: list[tuple[str, str, list[Any]]] = [
    ("timeout", NOT_A_NUMBER, [0, 0.0, -1, math.nan, math.inf, 1e30]),
    ("conn_max_age", NOT_A_NUMBER, [0]),
    ("retry", NOT_A_NUMBER, [0]),
    ("conn_max_messages", NOT_A_COUNT, [0, 1.5]),
    ("conn_max_idle", NOT_A_COUNT, [0, 10**9]),
    ("parallel", NOT_PARALLEL, [0, 51, 2.5]),
    ("ssl_cafile", CONTROL, ["\0"]),
    ("local_hostname", NOT_A_NAME, ["a b", f"{'ü.' * 40}example"]),  # it is longer in ASCII
    ("server_email", NOT_AN_ADDRESS, ["root", "a@", "@b", "a@b..c", "a@b,c@d", "a@b,"]),
    ("server_email", NOT_AN_ADDRESS, ["a@b$c", "a b@c", "A <a@b> c", "A <a@b", "group: a@b;"]),
    ("server_email", NOT_AN_ADDRESS, ['"', "<", "a@[", "müller@example.com", "(" * 300]),
    ("server_email", NOT_AN_ADDRESS, [f"{'Shop ' * 61}<shop@example.com>"]),
    ("server_email", CONTROL, ["A\u2028B <a@b>", "a\nb@c"]),
    *((name, NOT_AN_ADDRESS, ["x"]) for name in ("default_from_email", "reply_to")),
    *((name, NOT_AN_ADDRESS, ["x"]) for name in ("envelope_from", "redirect_to")),
    ("allowed_recipients", NOT_RECIPIENTS, [",", "@a.b", "*.a.b", "a@", "a b", "a@b@c"]),
    ("allowed_recipients", NOT_RECIPIENTS, ["A <a@b>", "ä@b", '"a b"@c', "a://b"]),
    ("allowed_recipients", NOT_RECIPIENTS, ["x.example,a@[192.0.2.1]"]),
    ("allowed_recipients", IN_ASCII, ["straße.example", "a@straße.example"]),
    ("allowed_recipients", CONTROL, ["a\nb"]),
    ("oauth2", NOT_OAUTH2, ["client_credential", "shop.mail.tok-en", f"a.{'b' * 100}"]),
    ("oauth2_token_url", CONTROL, ["https://a.example/\n"]),
    ("oauth2_token_url", NOT_A_URL, ["http://login.example.com/token", "http://192.0.2.1/"]),
    ("oauth2_token_url", NOT_A_URL, ["ftp://a.example/", "file:///etc/passwd", "a.example/"]),
    (
        "oauth2_token_url",
        NOT_A_URL,
        ["https://", "https://a..b/", "https://a:x/", "https://[:"],
    ),
    (
        "oauth2_token_url",
        NOT_A_URL,
        [f"https://{'a' * 64}.example/", "https://bücher.example/"],
    ),
    ("oauth2_token_url", NOT_A_URL, ["https://u:p@a.example/", "https://a.example/#b"]),
    ("oauth2_token_url", NOT_A_URL, ["https://login.example.com/a b"]),
]


@each_way
@pytest.mark.parametrize(
    ("name", "reason", "value"),
    [(name, reason, value) for name, reason, values in BAD for value in values],
    ids=lambda given: repr(given)[:40],
)
def test_value_that_does_not_fit_is_refused_wherever_it_is_given(way, name, reason, value):
    in_dsn = OPTIONS[name].in_dsn
    with pytest.raises(InvalidEmailHost) as caught:
        way.connect(f"{base([name])}?{in_dsn}={quote(str(value))}", {name: value})
    spelled = in_dsn if way.in_dsn else name
    assert str(caught.value).startswith(f"{way.setting}option '{spelled}' {reason}")
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        *((f"ssl={text}", NOT_A_FLAG) for text in ("", "2", "wahr")),
        *((f"timeout{text}", NOT_A_NUMBER) for text in ("", "=", "=5s", "=1e3", "=+5")),
        (f"timeout={'9' * 4000}", NOT_A_NUMBER),
        *((f"{name}=", "must have a value") for name in ("ssl_cafile", "oauth2_scope")),
        ("ssl_cafile", "must have a value"),
        ("_header-X=", "must have a value"),
        ("parallel=", NOT_PARALLEL),
        ("oauth2=", NOT_OAUTH2),
        *((f"_server_email{text}", NOT_AN_ADDRESS) for text in ("", "=")),
        *((f"_allowed_recipients{text}", NOT_RECIPIENTS) for text in ("", "=")),
    ],
)
@pytest.mark.parametrize("way", [InDSN(), OfStranger()], ids=repr)
def test_text_that_is_no_value_is_refused_in_a_dsn(way, query, reason):
    name = query.partition("=")[0]
    with pytest.raises(InvalidEmailHost) as caught:
        way.connect(f"smtp://h?{query}", {})
    assert str(caught.value).startswith(f"{way.setting}option '{name}' {reason}")


TEXTS = [name for name, option in OPTIONS.items() if option.in_python is None]
NUMBERS = (
    "port",
    "timeout",
    "conn_max_age",
    "retry",
    "conn_max_messages",
    "conn_max_idle",
    "parallel",
)
NOT_A_PORT = "must be a whole number from 1 to 65535"
FLAGS = ("use_tls", "use_ssl", "rotate")
NO_NUMBERS = {"str": "5", "bool": True, "list": [5]}
NO_FLAGS: list[Any] = ["on", 2, []]
LIST = "must be text, or a list of texts"
DICT = "must be a dict of names and texts, not"

# Values in Python that are not of the type that an option has.
WRONG_TYPES: list[tuple[str, Any, str]] = [
    *((name, 5, "must be text, not int") for name in TEXTS),
    *((name, ["x"], "must be text, not list") for name in TEXTS),
    *((name, b"Kx7vQz9", "must be text, not bytes") for name in TEXTS),
    *((name, "x\ud800", CONTROL) for name in TEXTS),
    *(
        (name, value, f"must be a number, not {kind}")
        for name in NUMBERS
        for kind, value in NO_NUMBERS.items()
    ),
    *((name, value, "must be True or False") for name in FLAGS for value in NO_FLAGS),
    ("port", 0, NOT_A_PORT),
    ("port", 65536, NOT_A_PORT),
    ("host", "a b", "must be a host name or an IP address (IPv6 in brackets)"),
    ("host", "[a]", "must be a host name or an IP address (IPv6 in brackets)"),
    ("oauth2", 5, "must be text, not int"),
    ("hosts", 5, "must be a list of keys, not int"),
    ("hosts", {"a": 1}, "must be a list of keys, not dict"),
    ("headers", "X: 1", f"{DICT} str"),
    ("headers", {"X": 5}, "has 'X', which must be text, not int"),
    ("headers", {"X": ""}, "has 'X', which must have a value"),
    ("headers", {"X": "a\r\nB: c"}, f"has 'X', which {CONTROL}"),
    ("headers", {"X\n": "a"}, rf"has 'X\n', which {NOT_A_HEADER}"),
    ("headers", {5: "a", "5": "b"}, "has '5', which is given twice"),
    ("headers", {"To": "a@b"}, f"has 'To', which {NOT_FOR_A_HOST}"),
    *(("allowed_recipients", value, LIST) for value in (5, [5], [None], {"a": "b"})),
]


@pytest.mark.parametrize("way", [InCall(), InMailers()], ids=repr)
@pytest.mark.parametrize(
    ("name", "value", "reason"), WRONG_TYPES, ids=lambda given: repr(given)[:40]
)
def test_value_of_another_type_is_refused_in_python(way, name, value: Any, reason):
    with pytest.raises(InvalidEmailHost) as caught:
        way.connect("", {name: value})
    assert str(caught.value).startswith(f"{way.setting}option '{name}' {reason}")


def test_each_option_knows_its_type_in_python():
    lists = ("hosts", "headers", "allowed_recipients", "rate")
    kinds = [*TEXTS, *NUMBERS, *FLAGS, "oauth2", *lists]
    assert sorted(kinds) == sorted(OPTIONS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"use_tls": 1}, {"use_tls": True}),
        ({"use_ssl": 0}, {"use_ssl": False}),
        ({"password": lazystr("pw"), "username": "me"}, {"password": "pw"}),
        ({"headers": {}}, {"headers": {}}),
        *(
            ({"redirect_to": "a@b", "allowed_recipients": given}, {"allowed_recipients": to})
            for given, to in (
                ("c.example, d@e", ["c.example", "d@e"]),
                (("c.example", "d@e"), ["c.example", "d@e"]),
                ([], []),  # nobody
            )
        ),
        ({"hosts": "a, b,"}, {"hosts": ("a", "b")}),
    ],
    ids=repr,
)
def test_python_has_more_spellings(given, expected):
    connection = InMailers().connect("", given)
    assert {name: getattr(connection, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        *((name, "x", NOT_FOR_A_HOST) for name in ("To", "cc", "BCC", "Sender", "Subject")),
        *((name, "x", NOT_FOR_A_HOST) for name in ("Date", "Message-ID", "MIME-Version")),
        *((name, "x", NOT_FOR_A_HOST) for name in ("content-transfer-encoding", "Resent-To")),
        ("From", "x", "cannot be added by a host; write _default_from_email"),
        ("reply-to", "x", "cannot be added by a host; write _reply_to"),
        ("Return-Path", "x", "cannot be added by a host; write _envelope_from"),
        *((name, "x", NOT_A_HEADER) for name in ("", "X:", "X Y", "Ä")),
        *(("X", value, CONTROL) for value in ("a%0Ab", "a%0D%0Ab", "%00", "a%E2%80%A8b")),
        ("X=1&_header-x", "2", "is given twice"),
    ],
)
def test_header_that_is_not_for_all_messages_is_refused(name, value, reason):
    with pytest.raises(InvalidEmailHost) as caught:
        connection_from_dsn(f"smtp://h?_header-{name}={value}")
    name = name.partition("&_header-")[2] or name
    assert str(caught.value) == f"option '_header-{name}' {reason}"


WITH_NAMES = [option for option in OPTIONS.values() if option.in_dsn not in ("", option.name)]


@pytest.mark.parametrize("way", [InCall(), InMailers()], ids=repr)
class TestNames:
    """In Python, options have Django's names and no others."""

    @pytest.mark.parametrize("option", WITH_NAMES, ids=lambda option: option.in_dsn)
    def test_in_a_dsn_are_errors_that_say_the_name(self, way, option):
        hint = f"in Python, its name is '{option.name}'"
        if option.name == "headers":
            hint = "in Python, write headers={'NAME': ...}"
        self.assert_refused(way, option.in_dsn, hint)

    def test_of_a_header_is_an_error_that_says_how_to_write_it(self, way):
        self.assert_refused(way, "_header-X-Shop", "in Python, write headers={'X-Shop': ...}")

    @pytest.mark.parametrize(("name", "known"), [("timout", "timeout"), ("hots", "host")])
    def test_that_are_misspelt_are_errors(self, way, name, known):
        self.assert_refused(way, name, f"did you mean '{known}'?")

    def assert_refused(self, way, name, hint):
        with pytest.raises(InvalidEmailHost) as caught:
            way.connect("", {name: "x"})
        assert str(caught.value) == f"{way.setting}unknown option {name!r}; {hint}"


class Own(dummy.EmailBackend):
    """A project's backend, whose options have the names of ours."""

    def __init__(self, ssl: str, timeout: str, redirect: str, **others: Any) -> None:
        super().__init__(**others)
        self.options = {"ssl": ssl, "timeout": timeout, "redirect": redirect}


class TestCall:
    """The options of one call of ``get_connection``."""

    @pytest.mark.parametrize("nothing", [None, ""])
    @pytest.mark.parametrize(("dsn", "python"), GOOD, ids=lambda given: repr(given)[:60])
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
            ("smtp://h", {"use_ssl": False, "use_tls": False}, None, 25),
        ],
    )
    def test_security_is_that_of_a_dsn_with_the_option(self, dsn, options, security, port):
        with override_settings(EMAIL_HOSTS={"shop": dsn}):
            connection: Any = get_connection("shop", **options)
        assert (connection.use_ssl, connection.use_tls) == (
            security == "ssl",
            security == "tls",
        )
        assert connection.port == port

    @pytest.mark.parametrize("dsn", ["console:", "failover:a", "roundrobin:a"])
    @pytest.mark.parametrize(
        ("query", "python"),
        [
            (dsn.partition("?")[2], python)
            for dsn, python in GOOD
            if {*python} <= HOST_OPTIONS.keys()
        ],
        ids=lambda given: repr(given)[:40],
    )
    def test_of_any_host_are_for_any_host(self, dsn, query, python):
        by_call = {"shop": dsn}
        with override_settings(EMAIL_HOSTS=by_call):
            called = get_connection("shop", **python)
        with override_settings(EMAIL_HOSTS={"shop": f"{dsn}?{query}"}):
            connection = get_connection("shop")
        for name, value in python.items():
            assert getattr(called, name) == getattr(connection, name) == value

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

    @staticmethod
    def assert_refused(settings: Any, reason: str, path: str, options: Any) -> None:
        """Ask for the mailer as ``using="shop"`` does, and for the host of its key."""
        settings.EMAIL_HOSTS = {}
        settings.MAILERS = {"shop": {"BACKEND": path, "OPTIONS": options}}
        for ask in (mail.mailers.create_connection, get_connection):
            with pytest.raises(ImproperlyConfigured) as caught:
                ask("shop")
            problem = str(caught.value).replace("MAILERS['shop']", 'MAILERS["shop"]')
            assert problem.startswith(f'MAILERS["shop"]: {reason}')

    @pytest.mark.parametrize(
        ("backend", "options", "reason"),
        [
            (SMTP_BACKEND, {}, "option 'host' is missing"),
            (
                SMTP_BACKEND,
                {"host": "h", "timeout": "5"},
                "option 'timeout' must be a number, not",
            ),
            (SMTP_BACKEND, {"host": "h", "tls": True}, "unknown option 'tls'; in Python, its"),
            (FAILOVER_BACKEND, {}, "option 'hosts' must name hosts"),
            (FAILOVER_BACKEND, {"hosts": "a", "retyr": 1}, "unknown option 'retyr'; did you"),
            (ROUTING_BACKEND, {"router": "x"}, "unknown option 'router'"),
            (HOST_BACKEND, {}, "option 'backend' must name the backend to wrap"),
            (HOST_BACKEND, {"backend": "no.such.Backend"}, "backend 'no.such.Backend' cannot"),
            (HOST_BACKEND, {"backend": CONSOLE, "x": 1}, "Unknown options 'x'."),
            (
                HOST_BACKEND,
                {"backend": CONSOLE, "reply_to": 5},
                "option 'reply_to' must be te",
            ),
        ],
    )
    def test_refusal_names_the_mailer_and_the_option(self, backend, options, reason, settings):
        self.assert_refused(settings, reason, backend, options)

    def test_options_of_any_host_surround_any_backend(self, settings):
        options = {"backend": CONSOLE, "reply_to": "a@b", "headers": {"X": "1"}}
        settings.MAILERS = {"shop": {"BACKEND": HOST_BACKEND, "OPTIONS": options}}
        connection: Any = mail.mailers["shop"]
        assert (connection.reply_to, connection.headers) == ("a@b", {"X": "1"})
        assert type(connection.wrapped).__module__ == CONSOLE.rpartition(".")[0]
