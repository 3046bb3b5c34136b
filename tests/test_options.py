"""The table of options: each has the same values in a DSN, a call, ``MAILERS`` and from a
stranger, and what does not fit is refused in the same words.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from django.test import override_settings
from django.utils.functional import lazystr

from email_hosts.backends import (
    EmailHostsBackend,
    FailoverBackend,
    connection_from_dsn,
    get_connection,
)
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.options import HOST_OPTIONS, OF_SEVERAL, SEVERAL_OPTIONS, SMTP_OPTIONS
from email_hosts.testing import real_hosts
from email_hosts.values import Limit

OPTIONS = {**SMTP_OPTIONS, **SEVERAL_OPTIONS}
SEVERAL = {option.name for option in OF_SEVERAL}
TEXTS = " ".join(name for name, option in OPTIONS.items() if option.in_python is None)

not_callable = "Kx7vQz9"


def token(username, *, renew):
    """A callable of a project, which nobody calls here."""


@pytest.fixture(autouse=True)
def hosts_are_real():
    with real_hosts():
        yield


def dsn_of(python: dict[str, Any], base: str = "") -> str:
    """Return a DSN with these options, which have their names and types in Python."""
    options = dict(python)
    if not base and SEVERAL & {*options}:
        scheme = "roundrobin" if options.pop("rotate", False) else "failover"
        base = f"{scheme}:{','.join(options.pop('hosts', 'a'))}"
    elif not base:
        given = [options.pop(name) for name in ("username", "password") if name in options]
        login = ":".join(quote(each, safe="") for each in given)
        port = f":{options.pop('port')}" if "port" in options else ""
        base = f"smtp://{login and f'{login}@'}{options.pop('host', 'h')}{port}"
    for name, value in options.pop("headers", {}).items():
        options[f"_header-{name}"] = value
    return f"{base}?" + "&".join(
        f"{OPTIONS[name].in_dsn if name in OPTIONS else name}={in_text(value)}"
        for name, value in options.items()
    )


def in_text(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return quote(text)


# Where options may be given.


def in_dsn(python: dict[str, Any]) -> Any:
    with override_settings(EMAIL_HOSTS={"shop": dsn_of(python)}):
        return get_connection("shop")


def of_stranger(python: dict[str, Any]) -> Any:
    return connection_from_dsn(dsn_of(python))


def in_call(python: dict[str, Any]) -> Any:
    base = "failover:a" if SEVERAL & {*python} else "smtp://h"
    with override_settings(EMAIL_HOSTS={"shop": base}):
        return get_connection("shop", **python)


def in_mailers(python: dict[str, Any]) -> Any:
    """As Django makes a backend of an entry."""
    if SEVERAL & {*python}:
        return FailoverBackend(alias="shop", **{"hosts": ["a"], **python})
    return EmailHostsBackend(alias="shop", **{"host": "h", **python})


IN_TEXT, IN_PYTHON = [in_dsn, of_stranger], [in_call, in_mailers]
WAYS = [*IN_TEXT, *IN_PYTHON]
SETTINGS = {
    in_dsn: 'EMAIL_HOSTS["shop"]: ',
    of_stranger: "",
    in_call: 'get_connection("shop"): ',
    in_mailers: 'MAILERS["shop"]: ',
}


def shown(given: Any) -> str:
    """Return what a test is called in a report."""
    return getattr(given, "__name__", repr(given))[:50]


each_way = pytest.mark.parametrize("way", WAYS, ids=shown)


def refusal(way: Any, python: dict[str, Any]) -> str:
    """Return how options are refused, without the setting that the refusal must name."""
    with pytest.raises(InvalidEmailHost) as caught:
        way(python)
    assert caught.value.__cause__ is None
    setting = SETTINGS[way]
    assert str(caught.value).startswith(setting)
    return str(caught.value).removeprefix(setting)


def login(oauth2: str, **options: Any) -> dict[str, Any]:
    """Return what a login with a token needs, and more."""
    return {"username": "me", "use_tls": True, "oauth2": oauth2, **options}


PATH = f"{__name__}.token"
CLIENT = {"oauth2_token_url": "https://login.example.com/token", "oauth2_client_id": "id"}
QA = {"redirect_to": "qa@example.com"}

# Options that fit, with the values that a connection has then.
GOOD: list[dict[str, Any]] = [
    {"host": "mail.example.com"},
    {"host": "bücher.example", "port": 2525},
    {"username": "me@example.com", "password": "p/w"},
    {"use_ssl": True, "use_tls": False},
    {"timeout": 10},
    {"timeout": 2.5},
    {"ssl_certfile": "c.pem", "ssl_keyfile": "k.pem"},
    {"ssl_cafile": "/a b/c.pem"},
    {"local_hostname": "web1.example.com"},
    {"local_hostname": "[192.0.2.1]"},
    {"conn_max_age": 60, "conn_max_messages": 50, "conn_max_idle": 1},
    {"parallel": 4},
    login(PATH),
    login("client_credentials", oauth2_client_secret="a&b", oauth2_scope="a b", **CLIENT),
    *(
        login(
            "refresh_token", **CLIENT | {"oauth2_refresh_token": "x", "oauth2_token_url": url}
        )
        for url in (
            "https://login.microsoftonline.com/tenant/oauth2/v2.0/token?a=b",
            "https://[2001:db8::1]:8443/token",
            "http://127.0.0.1:8000/token",
            "http://[::1]:8000/token",
            "http://localhost/token",
        )
    ),
    {"default_from_email": "a+b@example.com"},
    {"default_from_email": "Shop <shop@example.com>"},
    {"default_from_email": "webmaster@localhost"},
    {"default_from_email": '"Shop, Inc." <shop@example.com>'},
    {"default_from_email": "shop@[192.0.2.1]"},
    {"default_from_email": "x@a_b.example"},
    {"default_from_email": "Bücherstube <laden@bücher.example>"},
    {"default_from_email": f"{'Shop ' * 60}<shop@example.com>"},
    {"server_email": "b@example.com"},
    {"reply_to": "c@example.com"},
    {"envelope_from": "d@example.com"},
    {"headers": {"X-A": "a&b+c d@e;f?g", "y": "1"}},
    {**QA, "allowed_recipients": ["a@example.com", "Example.ORG", "localhost"]},
    {**QA, "allowed_recipients": ["o'hara+x@bücher.example", "xn--strae-oqa.example"]},
    {"rate": (Limit(14, 1), Limit(50_000, 86_400)), "rate_by": "recipients"},
    {"hosts": ("a", "b"), "retry": 0.5},
    {"hosts": ("a", "b"), "rotate": True},
]
each_good = pytest.mark.parametrize("options", GOOD, ids=shown)


@each_way
@each_good
def test_value_is_the_same_wherever_it_is_given(way, options):
    is_for_strangers = all(OPTIONS[name].for_strangers for name in options)
    if way is of_stranger and (SEVERAL & {*options} or not is_for_strangers):
        assert "is not allowed" in refusal(way, options)
        return
    connection = way(options)
    assert repr({name: getattr(connection, name) for name in options}) == repr(options)


@each_way
@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("default_from_email", "Dr. Bücher & Co. <a@b>", '"Dr. Bücher & Co." <a@b>'),
        ("server_email", "N. <a@b>", '"N." <a@b>'),  # as Django needs it
        ("local_hostname", "bücher.example", "xn--bcher-kva.example"),
        ("host", "mail.example.com.", "mail.example.com"),
        ("host", "[::1]", "::1"),
        ("host", "[fe80::1%eth0]", "fe80::1%eth0"),
    ],
)
def test_value_has_one_spelling_afterwards(way, name, given, expected):
    assert getattr(way({name: given}), name) == expected


@pytest.mark.parametrize(
    ("query", "name", "expected"),
    [
        *((f"ssl={text}", "use_ssl", True) for text in ("1", "true", "TRUE", "yes", "on")),
        *((f"tls={text}", "use_tls", False) for text in ("0", "false", "no", "off", "OFF")),
        ("ssl", "use_ssl", True),
        ("conn_max_messages=050", "conn_max_messages", 50),
        ("rate=014/s", "rate", (Limit(14, 1),)),
    ],
)
def test_text_has_more_spellings(query, name, expected):
    assert getattr(connection_from_dsn(f"smtp://h?{query}"), name) == expected


@pytest.mark.parametrize(
    ("given", "name", "expected"),
    [
        ({"use_tls": 1}, "use_tls", True),
        ({"use_ssl": 0}, "use_ssl", False),
        ({"password": lazystr("pw"), "username": "me"}, "password", "pw"),
        ({"headers": {}}, "headers", {}),
        ({**QA, "allowed_recipients": "c.d, e@f"}, "allowed_recipients", ["c.d", "e@f"]),
        ({**QA, "allowed_recipients": ()}, "allowed_recipients", []),
        ({"hosts": "a, b,"}, "hosts", ("a", "b")),
    ],
    ids=shown,
)
def test_python_has_more_spellings(given, name, expected):
    assert getattr(in_mailers(given), name) == expected


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


NOT_FOR_STRANGERS = "is not allowed in a DSN from elsewhere"
NUMBERS = "port timeout conn_max_age retry conn_max_messages conn_max_idle parallel"
ONE_ADDRESS, MANY_ADDRESSES = "one email address", "addresses without names, and domains"

BAD = [
    Bad("timeout conn_max_age retry", "positive number of seconds", [0], [""]),
    Bad("timeout", "positive number of seconds", [0.0, -1, math.nan, math.inf, 1e30]),
    Bad("timeout", "positive number of seconds", in_text=["5s", "1e3", "+5", "9" * 4000]),
    Bad("port", "whole number from 1 to 65535", in_python=[0, 65536]),
    Bad("conn_max_messages conn_max_idle", "number from 1", [0, 1.5, 10**9], [""]),
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
    Bad(
        "allowed_recipients",
        MANY_ADDRESSES,
        [",", "@a.b", "*.a.b", "*@a.b", "a@", "a b"],
        [""],
    ),
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
    Bad("headers", "'X', which must be text", in_python=[{"X": 5}]),
    Bad("headers", r"'X\n', which must name a header", in_python=[{"X\n": "a"}]),
    Bad("headers", "'5', which is given twice", in_python=[{5: "a", "5": "b"}]),
]


@pytest.mark.parametrize(
    ("way", "name", "value", "teaches"),
    [case for bad in BAD for case in bad.cases()],
    ids=shown,
)
def test_value_that_does_not_fit_is_refused_wherever_it_is_given(way, name, value, teaches):
    spelled = OPTIONS[name].in_dsn if way in IN_TEXT else name
    if way is of_stranger and not OPTIONS[name].for_strangers:
        teaches = NOT_FOR_STRANGERS
    text = refusal(way, {name: value})
    assert f"option '{spelled}'" in text
    assert teaches in text


def test_each_option_has_good_and_bad_values():
    assert {name for options in GOOD for name in options} == {*OPTIONS}
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
    text = refusal(way, {"headers": {name: value}})
    assert (f"'_header-{name}'" if way in IN_TEXT else f"'headers' has '{name}'") in text
    assert teaches in text


@each_way
@pytest.mark.parametrize(
    ("options", "teaches"),
    [
        ({"use_ssl": True, "use_tls": True}, "mutually exclusive"),
        ({"ssl_keyfile": "k.pem"}, "needs 'ssl_certfile'"),
        ({"allowed_recipients": "a@b"}, "redirect_to' beside it"),
        ({"username": "me"}, "both or neither"),
        ({"password": "Kx7vQz9"}, "both or neither"),
        (login(PATH, password="Kx7vQz9"), "remove the password"),
        (login(PATH, username="", password="Kx7vQz9"), "remove the password"),
        (login(PATH, username=""), "needs a user name"),
        (login(PATH, username="mü"), "printable ASCII"),
        (login(PATH, use_tls=False, host="127.0.0.1"), "needs TLS"),
        (login("client_credentials"), "needs 'oauth2_token_url' and 'oauth2_client_id'"),
        (login("client_credentials", **CLIENT), "needs 'oauth2_client_secret'"),
        (login("refresh_token", **CLIENT), "needs 'oauth2_refresh_token'"),
        (
            login("client_credentials", oauth2_refresh_token="Kx7vQz9"),
            "'oauth2_refresh_token' is only for oauth2=refresh_token",
        ),
        (
            login(PATH, oauth2_scope="Kx7vQz9"),
            "is only for oauth2=client_credentials and oauth2=refresh_token",
        ),
        (
            {"username": "me", "password": "Kx7vQz9", "oauth2_client_id": "x"},
            "'oauth2_client_id' needs 'oauth2'",
        ),
    ],
    ids=shown,
)
def test_options_that_do_not_go_together_are_refused(way, options, teaches):
    if way is of_stranger and not all(OPTIONS[name].for_strangers for name in options):
        teaches = NOT_FOR_STRANGERS
    text = refusal(way, options)
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
    text = refusal(way, {name: "x"})
    assert text.startswith(f"unknown option {name!r}; ")
    assert teaches in text


class TestCall:
    """The options of one call of ``get_connection``."""

    @pytest.mark.parametrize("nothing", [None, ""])
    @each_good
    def test_that_are_nothing_take_options_away_but_no_redirect(self, options, nothing):
        names = {*options} - {"host", "hosts"}
        base = "failover:a" if SEVERAL & {*options} else "smtp://h"
        with override_settings(EMAIL_HOSTS={"shop": dsn_of(options), "plain": base}):
            connection = get_connection("shop", **dict.fromkeys(names, nothing))
            plain = get_connection("plain", **dict.fromkeys(names, nothing))
        stay = {"redirect_to", "allowed_recipients"}
        for name in names - {"port"}:
            expected = options[name] if name in stay else getattr(plain, name)
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

    @pytest.mark.parametrize("base", ["console:", "failover:a"])
    @pytest.mark.parametrize(
        "options", [each for each in GOOD if {*each} <= HOST_OPTIONS.keys()], ids=shown
    )
    def test_of_any_host_are_for_any_host(self, base, options):
        hosts = {"by_call": base, "by_dsn": dsn_of(options, base)}
        with override_settings(EMAIL_HOSTS=hosts):
            connections = get_connection("by_call", **options), get_connection("by_dsn")
        for name, value in options.items():
            assert [getattr(each, name) for each in connections] == [value, value]

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("no.such.token", "'no.such.token' cannot be imported: No module named"),
            (f"{__name__}.nothing", "cannot be imported: Module"),
            (f"{__name__}.not_callable", "is not callable"),
        ],
    )
    def test_callable_must_be_there(self, path, reason):
        text = refusal(in_call, login(path))
        assert reason in text
        assert "Kx7vQz9" not in text

    @pytest.mark.parametrize("name", ["_redirect_to", "_redirct_to", "redirct_to"])
    @override_settings(EMAIL_HOSTS={"console": "console:"})
    def test_misspelt_redirect_is_no_option_of_another_backend(self, name):
        with pytest.raises(InvalidEmailHost, match=f"unknown option '{name}'; .*redirect_to'"):
            get_connection("console", **{name: "qa@example.com"})  # type: ignore[arg-type]
