"""The table of options: each has the same values in a DSN, a call, ``MAILERS`` and from a
stranger, and what does not fit is refused in the same words.
"""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import pytest
from conftest import as_id
from django.test import override_settings
from django.utils.functional import SimpleLazyObject, lazystr

from email_hosts.backends import (
    EmailHostsBackend,
    FailoverBackend,
    connection_from_dsn,
    get_connection,
)
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.options import OF_SEVERAL, SEVERAL_OPTIONS, SMTP_OPTIONS
from email_hosts.testing import real_hosts
from email_hosts.values import Limit

OPTIONS = {**SMTP_OPTIONS, **SEVERAL_OPTIONS}
SEVERAL = {option.name for option in OF_SEVERAL}
# They name a file or code, or hold what would go to the stranger's server.
NOT_OF_STRANGERS = """
    ssl_certfile ssl_keyfile ssl_cafile oauth2 oauth2_token_url oauth2_client_id
    oauth2_client_secret oauth2_scope oauth2_refresh_token
""".split()

not_callable = "Kx7vQz9"


def token(username, *, renew):
    """A callable of a project, which nobody calls here."""


def dsn_of(python: dict[str, Any]) -> str:
    """Return a DSN with these options, which have their names and types in Python."""
    options = dict(python)
    if SEVERAL & {*options}:
        scheme = "roundrobin" if options.pop("rotate", False) else "failover"
        base = f"{scheme}:{','.join(options.pop('hosts', 'a'))}"
    else:
        given = [options.pop(name) for name in ("username", "password") if name in options]
        login = ":".join(quote(each, safe="") for each in given)
        port = f":{options.pop('port')}" if "port" in options else ""
        base = f"smtp://{login and f'{login}@'}{options.pop('host', 'h')}{port}"
    for name, value in options.pop("headers", {}).items():
        options[f"_header-{name}"] = value
    query = []
    for name, value in options.items():
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        query.append(f"{OPTIONS[name].in_dsn if name in OPTIONS else name}={quote(text)}")
    return f"{base}?{'&'.join(query)}"


def in_dsn(python: dict[str, Any]) -> Any:
    with override_settings(EMAIL_HOSTS={"shop": dsn_of(python)}):
        return get_connection("shop")


def of_stranger(python: dict[str, Any]) -> Any:
    with real_hosts():
        return connection_from_dsn(dsn_of(python))


def in_call(python: dict[str, Any]) -> Any:
    base = "failover:a" if SEVERAL & {*python} else "smtp://h"
    with override_settings(EMAIL_HOSTS={"shop": base}):
        return get_connection("shop", **python)


def in_mailers(python: dict[str, Any]) -> Any:
    # As Django makes a backend of an entry.
    if SEVERAL & {*python}:
        return FailoverBackend(alias="shop", **{"hosts": ["a"], **python})
    return EmailHostsBackend(alias="shop", **{"host": "h", **python})


# Where options may be given, and how a refusal names that place.
SETTINGS = {
    in_dsn: 'EMAIL_HOSTS["shop"]: ',
    of_stranger: "",
    in_call: 'get_connection("shop"): ',
    in_mailers: 'MAILERS["shop"]: ',
}
WAYS, IN_TEXT, IN_PYTHON = [*SETTINGS], [in_dsn, of_stranger], [in_call, in_mailers]
IN_SETTINGS = [in_dsn, *IN_PYTHON]  # without the limits of strangers


def is_for_strangers(names: Any) -> bool:
    return not {*names} & {*NOT_OF_STRANGERS, *SEVERAL}


def refusal(way: Any, python: dict[str, Any]) -> str:
    """Return how options are refused, without the setting that the refusal must name."""
    with pytest.raises(InvalidEmailHost) as caught:
        way(python)
    assert caught.value.__cause__ is None
    text = str(caught.value).removeprefix(SETTINGS[way])
    assert (SETTINGS[way] + text, "EMAIL_HOSTS" in text) == (str(caught.value), False)
    return text


def login(oauth2: str, **options: Any) -> dict[str, Any]:
    """Return what a login with a token needs, and more."""
    return {"username": "me", "use_tls": True, "oauth2": oauth2, **options}


LOGIN = {"username": "me", "password": "Kx7vQz9"}
PATH = f"{__name__}.token"
CLIENT = {"oauth2_token_url": "https://login.example.com/token", "oauth2_client_id": "id"}
TOKEN_URLS = """
    https://login.microsoftonline.com/tenant/oauth2/v2.0/token?a=b https://[2001:db8::1]:8443/t
    http://127.0.0.1:8000/token http://[::1]:8000/token http://localhost/token
"""
NO_TOKEN_URLS = """
    http://a.example/token http://192.0.2.1/ ftp://a.example/ file:///etc/passwd a.b/ https://
    https://a..b/ https://a:x/ https://[: https://bücher.example/ https://a.example/#b
    https://u:p@a.example/ https://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.b/
"""
QA = {"redirect_to": "qa@example.com"}

# Options that fit, with the values that a connection has then.
GOOD: list[dict[str, Any]] = [
    {"host": "bücher.example", "port": 2525, "username": "me@example.com", "password": "p/w"},
    {"use_ssl": True, "use_tls": False, "timeout": 2.5, "local_hostname": "web1.example.com"},
    {"ssl_certfile": "c.pem", "ssl_keyfile": "k.pem", "ssl_cafile": "/a b/c.pem"},
    {"local_hostname": "[192.0.2.1]", "timeout": 10, "parallel": 4},
    {"conn_max_age": 60, "conn_max_messages": 50, "conn_max_idle": 1},
    login(PATH),
    login("client_credentials", oauth2_client_secret="a&b", oauth2_scope="a b", **CLIENT),
    *(
        login("refresh_token", oauth2_refresh_token="x", **{**CLIENT, "oauth2_token_url": url})
        for url in TOKEN_URLS.split()
    ),
    {"default_from_email": "a+b@example.com", "server_email": "Shop <shop@example.com>"},
    {"reply_to": "webmaster@localhost", "envelope_from": "shop@[192.0.2.1]"},
    {"default_from_email": '"Shop, Inc." <shop@example.com>', "reply_to": "x@a_b.example"},
    {"default_from_email": f"{'Shop ' * 59}<shop@bücher.example>"},
    {"headers": {"X-A": "a&b+c d@e;f?g", "y": "1"}},
    {**QA, "allowed_recipients": ["o'hara+x@bücher.example", "xn--strae-oqa.example", "A.b"]},
    {"rate": (Limit(14, 1), Limit(50_000, 86_400)), "rate_by": "recipients"},
    {"hosts": ("a", "b"), "retry": 0.5},
    {"hosts": ("a", "b"), "rotate": True},
]

# What a stranger's DSN may have, and a little more.
MOST = {"timeout": 600, "conn_max_age": 3600, "conn_max_idle": 10, "parallel": 4}
MORE = {"timeout": 600.001, "conn_max_age": 3601, "conn_max_idle": 11, "parallel": 5}

# Where options may be given, how, and the values that a connection has then.
VALUES: list[tuple[list[Any], dict[str, Any], dict[str, Any]]] = [
    *((WAYS, options, options) for options in [*GOOD, MOST]),
    (IN_SETTINGS, MORE, MORE),
    *((IN_TEXT, {"use_ssl": yes}, {"use_ssl": True}) for yes in ("1", "TRUE", "yes", "on")),
    *((IN_TEXT, {"use_tls": no}, {"use_tls": False}) for no in ("0", "false", "no", "OFF")),
    (IN_TEXT, {"conn_max_messages": "050"}, {"conn_max_messages": 50}),
    (IN_TEXT, {"rate": "014/s"}, {"rate": (Limit(14, 1),)}),
    (IN_PYTHON, {"use_tls": 1}, {"use_tls": True}),
    (IN_PYTHON, {"ssl_cafile": PurePosixPath("/c.pem")}, {"ssl_cafile": "/c.pem"}),
    (IN_PYTHON, {"local_hostname": lazystr("web1")}, {"local_hostname": "web1"}),
    (IN_PYTHON, {"reply_to": SimpleLazyObject(lambda: "a@b.c")}, {"reply_to": "a@b.c"}),
    (IN_PYTHON, {**QA, "allowed_recipients": "c, e@f"}, {"allowed_recipients": ["c", "e@f"]}),
    (IN_PYTHON, {**QA, "allowed_recipients": ()}, {"allowed_recipients": []}),
    (IN_PYTHON, {"hosts": "a, b,"}, {"hosts": ("a", "b")}),
    # Django needs the quotation marks.
    (WAYS, {"server_email": "Dr. Bücher <a@b>"}, {"server_email": '"Dr. Bücher" <a@b>'}),
    (WAYS, {"local_hostname": "bücher.example"}, {"local_hostname": "xn--bcher-kva.example"}),
    (WAYS, {"host": "mail.example.com."}, {"host": "mail.example.com"}),
    (WAYS, {"host": "[fe80::1%eth0]"}, {"host": "fe80::1%eth0"}),
]


@pytest.mark.parametrize(
    ("way", "given", "expected"),
    [(way, *values) for ways, *values in VALUES for way in ways],
    ids=as_id,
)
def test_value_is_the_same_wherever_it_is_given(way, given, expected):
    if way is of_stranger and not is_for_strangers(given):
        assert "is not allowed" in refusal(way, given)
        return
    connection = way(given)
    assert repr({name: getattr(connection, name) for name in expected}) == repr(expected)


NOT_FOR_STRANGERS = "is not allowed in a DSN from elsewhere"
NUMBERS = "port timeout conn_max_age retry conn_max_messages conn_max_idle parallel"
TEXTS = " ".join(name for name, option in OPTIONS.items() if option.in_python is None)
IN_QUERIES = " ".join(name for name, option in OPTIONS.items() if option.in_dsn)
SENDERS = "default_from_email server_email reply_to envelope_from redirect_to"
SECONDS, ONE_ADDRESS = "positive number of seconds", "one email address"
RECIPIENTS = "addresses without names, and domains"
NOT_OF_A_HOST = "cannot be added by a host"
OWN_HEADERS = """
    To cc BCC Sender Subject Date Message-ID MIME-Version content-type Resent-To From reply-to
    Return-Path
""".split()
URL, PATH_OR_GRANT = "starts with https://", "dotted path of a callable"

# Values that are refused: where, of which options, what the refusal teaches.
BAD: list[tuple[list[Any], str, str, list[Any]]] = [
    (IN_TEXT, IN_QUERIES.replace("headers ", ""), "must ", [""]),
    (WAYS, "timeout conn_max_age retry", SECONDS, [0]),
    (WAYS, "timeout", SECONDS, [0.0, -1, math.nan, math.inf, 1e30]),
    (IN_TEXT, "timeout", SECONDS, ["5s", "1e3", "+5", "9" * 4000]),
    (IN_PYTHON, "port", "whole number from 1 to 65535", [0, 65536]),
    (WAYS, "conn_max_messages conn_max_idle", "number from 1", [0, 1.5, 10**9]),
    (WAYS, "parallel", "whole number from 1 to 50", [0, 51, 2.5]),
    *(([of_stranger], name, f"at most {MOST[name]} in a DSN", [MORE[name]]) for name in MORE),
    (IN_TEXT, "use_tls use_ssl", "1, true, yes or on", ["2", "wahr"]),
    (IN_PYTHON, NUMBERS, "must be a number, not", ["5", True, [5]]),
    (IN_PYTHON, "use_tls use_ssl rotate", "True or False", ["on", 2, []]),
    (IN_PYTHON, TEXTS, "must be text, not", [5, ["x"], b"Kx7vQz9"]),
    (IN_PYTHON, TEXTS, "control character", ["x\ud800"]),
    (IN_PYTHON, "host", "host name or an IP address", ["a b", "[a]"]),
    (WAYS, "ssl_cafile", "control character", ["\0"]),
    (WAYS, "local_hostname", "host name", ["a b", f"{'ü.' * 40}example"]),  # longer in ASCII
    (WAYS, SENDERS, "in a DSN, write an ampersand in a name as %26", ["x"]),
    (WAYS, "reply_to", 'like shop@example.com or "Shop, Inc." <', ["A, B <a@b.example>"]),
    (WAYS, "server_email", ONE_ADDRESS, ["@b", "a@b$c", "a@b,c@d", "a@b,", "A <a@b> c", '"']),
    (WAYS, "server_email", ONE_ADDRESS, ["group: a@b;", "ü@b.c", f"{'Shop ' * 63}<a@b.c>"]),
    (WAYS, "server_email", "control character", ["A\u2028B <a@b>", "a\nb@c"]),
    (WAYS, "allowed_recipients", RECIPIENTS, [",", "@a.b", "*@a.b", "a@", "a@b@c", "A <a@b>"]),
    (WAYS, "allowed_recipients", "xn--", ["straße.example", "a@straße.example"]),
    (IN_PYTHON, "allowed_recipients", "a list of texts", [5, [5], [None], {"a": "b"}]),
    (WAYS, "oauth2", PATH_OR_GRANT, ["client_credential", "shop.tok-en", f"a.{'b' * 100}"]),
    (IN_PYTHON, "oauth2", "must be text, not", [5]),
    (WAYS, "oauth2_token_url", URL, [*NO_TOKEN_URLS.split(), "https://a.example/a b"]),
    (WAYS, "rate", 'like "30/m"', ["5", "0/s"]),
    (WAYS, "rate", "two limits for one span; remove 2/s", ["1/s,2/s"]),
    (WAYS, "rate_by", "messages or recipients", ["mails"]),
    (IN_PYTHON, "hosts", "list of keys", [5, {"a": 1}]),
    (WAYS, "headers", NOT_OF_A_HOST, [{name: "x"} for name in OWN_HEADERS]),
    (WAYS, "headers", "printable ASCII", [{name: "x"} for name in ("", "X:", "X Y", "Ä")]),
    (WAYS, "headers", "control character", [{"X": "a\nb"}, {"X": "\0"}, {"X": "a\u2028b"}]),
    (WAYS, "headers", "must have a value", [{"X": ""}]),
    (IN_PYTHON, "headers", "dict of names and texts", ["X: 1"]),
    (IN_PYTHON, "headers", "'X', which must be text", [{"X": 5}]),
    (IN_PYTHON, "headers", r"'X\n', which must name a header", [{"X\n": "a"}]),
    (IN_PYTHON, "headers", "'5', which is given twice", [{5: "a", "5": "b"}]),
]


@pytest.mark.parametrize(
    ("way", "name", "value", "teaches"),
    [
        (way, name, value, teaches)
        for ways, names, teaches, values in BAD
        for way in ways
        for name in names.split()
        for value in values
    ],
    ids=as_id,
)
def test_value_that_does_not_fit_is_refused_wherever_it_is_given(way, name, value, teaches):
    spelled = OPTIONS[name].in_dsn if way in IN_TEXT else name
    if spelled == "_header-NAME":
        spelled = f"_header-{next(iter(value))}"
    if way is of_stranger and name in NOT_OF_STRANGERS:  # whatever the value is
        teaches = f"{NOT_FOR_STRANGERS}; if you trust its server, pass {name}= to "
    text = refusal(way, {name: value})
    assert f"option '{spelled}'" in text
    assert teaches in text


# Options that do not go together, or do not exist.
TOGETHER: list[tuple[list[Any], dict[str, Any], str]] = [
    (WAYS, {"use_ssl": True, "use_tls": True}, "mutually exclusive"),
    (WAYS, {"ssl_keyfile": "k.pem"}, "needs 'ssl_certfile'"),
    (WAYS, {"allowed_recipients": "a@b"}, "redirect_to' beside it"),
    (WAYS, {"username": "me"}, "both or neither"),
    (WAYS, {"password": "Kx7vQz9"}, "both or neither"),
    (WAYS, login(PATH, password="Kx7vQz9"), "remove the password"),
    (WAYS, login(PATH, username=""), "needs a user name"),
    (WAYS, login(PATH, username="mü"), "printable ASCII"),
    (WAYS, login(PATH, use_tls=False, host="127.0.0.1"), "needs TLS"),
    (WAYS, login("no.such.token"), "such module; write the path of a function, not a token"),
    (WAYS, login(f"{__name__}.nothing"), "cannot be imported: Module"),
    (WAYS, login(f"{__name__}.not_callable"), "is not callable"),
    (WAYS, login("client_credentials"), "needs 'oauth2_token_url' and 'oauth2_client_id'"),
    (WAYS, login("client_credentials", **CLIENT), "needs 'oauth2_client_secret'"),
    (WAYS, login(PATH, oauth2_scope="Kx7vQz9"), "=client_credentials and oauth2=refresh_"),
    (WAYS, {**LOGIN, "oauth2_client_id": "x"}, "'oauth2_client_id' needs 'oauth2'"),
    (IN_PYTHON, {"_header-X": "x"}, "'_header-X'; in Python, write headers={'X': ...}"),
    (IN_PYTHON, {"hots": "x"}, "unknown option 'hots'; did you mean 'host'?"),
    (IN_PYTHON, {"_reply_to": "x"}, "'_reply_to'; in Python, its name is 'reply_to'"),
]


@pytest.mark.parametrize(
    ("way", "options", "teaches"),
    [(way, *refused) for ways, *refused in TOGETHER for way in ways],
    ids=as_id,
)
def test_options_that_do_not_go_together_or_do_not_exist_are_refused(way, options, teaches):
    if way is of_stranger and not is_for_strangers(options):
        teaches = NOT_FOR_STRANGERS
    text = refusal(way, options)
    assert teaches in text
    assert "Kx7vQz9" not in text


@pytest.mark.parametrize("nothing", [None, ""])
@pytest.mark.parametrize("options", GOOD, ids=as_id)
def test_call_takes_options_away_but_no_redirect(options, nothing):
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
    ("dsn", "options", "expected"),
    [
        ("submission://h", {"use_ssl": True}, (True, False, 465)),
        ("submission://h:2525", {"use_ssl": True}, (True, False, 2525)),
        ("submissions://h", {"use_tls": True}, (False, True, 465)),
    ],
)
def test_security_of_a_call_is_that_of_a_dsn_with_the_option(dsn, options, expected):
    with override_settings(EMAIL_HOSTS={"shop": dsn}):
        connection: Any = get_connection("shop", **options)
    assert (connection.use_ssl, connection.use_tls, connection.port) == expected
