"""The grammar of a DSN: what it stands for, and what is refused with which words."""

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from speckenv_django import django_email_url

from email_hosts import dsn, mailers
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.schemes import SCHEMES, SMTP_SCHEMES

SMTP = "email_hosts.backends.EmailHostsBackend"
FAILOVER = "email_hosts.backends.FailoverBackend"
DJANGO = "django.core.mail.backends.{}.EmailBackend"
ANYMAIL = "anymail.backends.{}.EmailBackend"
PLAIN = {
    "host": "mail.example.com",
    "port": 25,
    "username": "",
    "password": "",
    "use_tls": False,
    "use_ssl": False,
    "timeout": None,
}


def parse(text: str) -> Any:
    """Return the entry of ``MAILERS`` that stands for a DSN."""
    return dsn.parse(text).mailer


def options(text: str) -> dict[str, Any]:
    return dict(dsn.parse(text).options)


@pytest.mark.parametrize(
    ("text", "port", "use_tls", "use_ssl"),
    [
        ("smtp://h", 25, False, False),
        ("SMTP://h", 25, False, False),
        ("submission://h", 587, True, False),
        ("smtp+tls://h", 587, True, False),
        ("smtps://h", 465, False, True),
        ("submissions://h", 465, False, True),
        ("smtp+ssl://h", 465, False, True),
        # An option outranks the scheme.
        ("smtp://h?ssl", 465, False, True),
        ("smtp://h:2465?ssl=on", 2465, False, True),
        ("smtp://h?tls", 25, True, False),
        ("smtp://h?ssl=false&tls=0", 25, False, False),
        ("submission://h?ssl=no", 587, True, False),
        ("submission://h?ssl=1", 465, False, True),
        ("submission://h?tls=off", 587, False, False),
        ("smtps://h:587?tls", 587, True, False),
    ],
)
def test_smtp_scheme_and_options_say_the_transport_and_the_port(text, port, use_tls, use_ssl):
    transport = {"host": "h", "port": port, "use_tls": use_tls, "use_ssl": use_ssl}
    assert parse(text) == {"BACKEND": SMTP, "OPTIONS": {**PLAIN, **transport}}


def test_percent_encoding_is_undone_and_a_plus_stays_a_plus():
    parsed = options(
        "submission://a+b%40c:p%2Fa%3Fs%23s+%25w:ord@h?_server_email=c+d@e.example"
    )
    assert (parsed["username"], parsed["password"]) == ("a+b@c", "p/a?s#s+%w:ord")
    assert parsed["server_email"] == "c+d@e.example"


def test_address_behind_a_port_is_no_end_of_a_password():
    assert options("smtp://h:25?_reply_to=a@b.example")["reply_to"] == "a@b.example"


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("Mail.Example.COM", "mail.example.com", 25),
        ("mail_1.example.com:", "mail_1.example.com", 25),
        ("127.0.0.1:2525", "127.0.0.1", 2525),
        ("mail.example.com/", "mail.example.com", 25),
        ("[::1]:2525/", "::1", 2525),
        ("[fe80::1%25eth0]", "fe80::1%eth0", 25),
        ("[fe80::1%eth0]", "fe80::1%eth0", 25),
        (":@mail.example.com", "mail.example.com", 25),
    ],
)
def test_host_is_a_name_or_an_address(address, host, port):
    assert options(f"smtp://{address}") == {**PLAIN, "host": host, "port": port}


@pytest.mark.parametrize("text", [" smtp://h", "smtp://h/?timeout=5 ", "\tfile:out\r\n"])
def test_white_space_around_a_dsn_is_dropped(text):
    assert dsn.parse(text) == dsn.parse(text.strip())


@pytest.mark.parametrize(
    ("text", "backend", "expected"),
    [
        ("console://", DJANGO.format("console"), {}),
        ("locmem:", DJANGO.format("locmem"), {}),
        ("dummy://?", DJANGO.format("dummy"), {}),
        ("file:///var/out", DJANGO.format("filebased"), {"file_path": "/var/out"}),
        ("file:/var/out", DJANGO.format("filebased"), {"file_path": "/var/out"}),
        ("file:my%20mail+/out", DJANGO.format("filebased"), {"file_path": "my mail+/out"}),
        ("failover:shop, a%2Cb?retry=0.5", FAILOVER, {"hosts": ("shop", "a,b"), "retry": 0.5}),
        ("failover://a?_reply_to=b@c", FAILOVER, {"hosts": ("a",), "reply_to": "b@c"}),
        ("roundrobin:a,b", FAILOVER, {"hosts": ("a", "b"), "rotate": True}),
        ("anymail+mailgun://?key=a%26b+c", ANYMAIL.format("mailgun"), {"key": "a&b+c"}),
        ("anymail+amazon-ses:?a=x@y&b=", ANYMAIL.format("amazon_ses"), {"a": "x@y", "b": ""}),
        ("anymail+mailgun:?key=a;b?c", ANYMAIL.format("mailgun"), {"key": "a;b?c"}),
        ("backend:a.b.C", "a.b.C", {}),
    ],
)
def test_other_scheme_is_a_backend_with_its_options(text, backend, expected):
    assert parse(text) == {"BACKEND": backend, "OPTIONS": expected}


@pytest.mark.parametrize("text", ["console:", "file:out", "anymail+mailgun:", "backend:a.b.C"])
def test_what_a_host_does_to_a_message_is_for_any_scheme(text):
    plain = parse(text)
    assert parse(f"{text}?_reply_to=a@b&_header-X=1") == {
        "BACKEND": "email_hosts.backends.HostBackend",
        "OPTIONS": {
            "backend": plain["BACKEND"],
            **plain["OPTIONS"],
            "reply_to": "a@b",
            "headers": {"X": "1"},
        },
    }


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        *(("x=true", True), ("x=false", False), ("x=True", "True"), ("token=true", True)),
        *(("x=10", 10), ("x=-3", -3), ("x=0", 0), ("x=2.50", 2.5), ("requests_timeout=5", 5)),
        # What may be a key or a version, and what a number could not hold.
        *((f"x={text}", text) for text in ("007", "1e5", "+1", "1.", "0x10", "9" * 16)),
        *((f"{name}=10", "10") for name in ("api_key", "server_token", "client_secret")),
        *((f"{name}=10", "10") for name in ("password", "user", "username", "subaccount")),
        *((f"{name}=10", "10") for name in ("stream_name", "id", "project_id")),
        *(("x=%2210%22", "10"), ('x="a b"', "a b"), ('token="10"', "10"), ("x=%7B%7D", {})),
        ('x={"region": "eu", "retries": {"max": 1}}', {"region": "eu", "retries": {"max": 1}}),
        *(("x=x@y", "x@y"), ("x=", ""), ("x=[1]", "[1]"), ("x=null", "null")),
    ],
)
def test_option_of_another_backend_has_its_type_in_python(option, expected):
    assert repr(options(f"backend://a.b.C?{option}").popitem()[1]) == repr(expected)


TOKEN = "submission://me@h?oauth2=client_credentials&oauth2_client_secret=Kx7vQz9"
LOGIN = "submission://Kx7vQz9:Wj4bYt2"
ENCODE = "percent-encode each slash, question mark, hash"
NO_HOST_NAME = "the host must be a host name"
NO_OPTION = "an ampersand is not an option"
MEANT = "did you mean '_default_from_email'?"
KNOWN = "known options: "
SEPARATED = "options are separated by ampersands"

# DSNs that are refused, and what the refusal teaches.
REFUSED: list[tuple[Any, str]] = [
    (42, "not int"),
    ("mail.example.com", "no scheme"),
    ("Kx7vQz9:Wj4bYt2@h", "no scheme"),
    ("smpt://h", "did you mean 'smtp'?"),
    ("round-robin:a,b", "no scheme; did you mean 'roundrobin'?"),
    ("redis://h", "anymail+mailgun and the like; for a mail server, write submission://"),
    ("ses://Kx7vQz9:Wj4bYt2@default", "'anymail+amazon-ses' instead"),
    ("mailgun+api://Kx7vQz9@default", "'anymail+mailgun' instead"),
    ("GMAIL://Kx7vQz9:Wj4bYt2@default", "'submission' instead"),
    # The host and the port
    ("smtp://", "names no host"),
    ("smtp:h", "names no host; write it after smtp://$"),
    ("submission:Kx7vQz9:Wj4bYt2@h", "names no host; write it after submission://$"),
    ("submission://Kx7vQz9:Wj4bYt2@::1", "an IPv6 address in brackets, like [2001:db8::1]$"),
    ("smtp://fe80::1%25eth0", "write an IPv6 address in brackets"),
    ("smtp://Kx7vQz9:Wj4bYt2@", "names no host"),
    ("smtp://a..b", NO_HOST_NAME),
    ("smtp://[::1", NO_HOST_NAME),
    ("smtp://[h]", NO_HOST_NAME),
    ("smtp://h%41", NO_HOST_NAME),
    ("smtp://Kx7vQz9:Wj4bYt2@[fe80::1%25a%40evil.example]", NO_HOST_NAME),
    ("smtp://[fe80::1%25a%23b]", NO_HOST_NAME),
    ("smtp://℀.example", NO_HOST_NAME),
    (f"smtp://{'a' * 64}", NO_HOST_NAME),
    ("smtp://h:0", "the port must be a whole number from 1 to 65535"),
    ("smtp://h:+25", "the port"),
    ("smtp://h:٢٥", "the port"),
    (LOGIN, "the at sign and the host are missing after it"),
    ("smtp://h//", "has a path"),
    ("smtp://h#", "has a fragment"),
    ("file:out#1", "has a fragment"),
    # The login
    ("smtp://Kx7vQz9@h", "has a user name and no password"),
    ("smtp://:Kx7vQz9@h", "has a password and no user name"),
    ("submission://me@h?oauth2_client_id=x", "a user name and no password"),
    ("submission://Kx7vQz9:Wj4/bYt2@h", ENCODE),
    ("submission://Kx7vQz9:Wj4?bYt2@h", ENCODE),
    ("submission://Kx7vQz9:Wj4#bYt2@h", ENCODE),
    ("submission://Kx7vQz9:Wj4/bYt2@h?_default_from_email=a@example.com", ENCODE),
    ("submission://Kx7vQz9:Wj4?bYt2@h?_default_from_email=a@example.com", "a question mark"),
    ("submission://Kx7vQz9:Wj4?bYt2&timeout=5@h:25", ENCODE),
    ("submission://Kx7vQz9:25?Wj4bYt2@h", ENCODE),
    ("submission://Kx7vQz9:Wj4?timeout=5@h", "option 'timeout' must be a positive number"),
    ("submission://Kx7vQz9:Wj4%bYt2@h", "the password has a percent sign without two"),
    ("submission://Kx7%ffvQz9:Wj4bYt2@h", "the user name is percent-encoded, but not in"),
    ("submission://Kx7vQz9:Wj4%0AbYt2@h", "the password has a control character"),
    ("smtp://h?_header-X=Kx7vQz9%0AWj4bYt2", "option '_header-X' has a control character"),
    (f"{LOGIN}@h\n?ssl", "the DSN has a control character"),
    ("smtp://h\ud800", "the DSN has a control character"),
    (f'"{LOGIN}@h"', "in quotation marks; remove them"),
    # The names of options
    ("smtp://h?timout=5", "unknown option 'timout'; did you mean 'timeout'?"),
    ("smtp://h?TIMEOUT=5", "unknown option 'TIMEOUT'; did you mean 'timeout'?"),
    ("smtp://h?default_from_email=a@example.com", "did you mean '_default_from_email'?"),
    ("smtp://h?_header=1", "unknown option '_header'; did you mean '_header-NAME'?"),
    ("smtp://h?starttls=1", "did you mean 'tls'?"),
    ("smtp://h?ssl_verify=false", "did you mean 'ssl_cafile'?"),
    ("smtp://h?zz=5", f"unknown option 'zz'; {KNOWN}tls, ssl, timeout, "),
    ("smtp://h?_from=a@b.com", f"unknown option '_from'; {MEANT}"),
    ("smtp://h:25?_from=a@b.com", f"unknown option '_from'; {MEANT}"),
    ("console:?from=a@b.com", f"unknown option 'from'; {MEANT}"),
    ("failover:a?from=a@b.com", f"unknown option 'from'; {MEANT}"),
    (
        "failover:a?rotate=1",
        "unknown option 'rotate'; write roundrobin: instead of failover:$",
    ),
    # What is no name of an option could be the rest of a password.
    ("smtp://h?timeout:5", f"{NO_OPTION}; did you mean 'timeout'?; percent"),
    ("smtp://h:25?from=a@b.com", f"{NO_OPTION}; {MEANT}"),
    ("failover://u:Wj4?bYt=5@h", f"{NO_OPTION}; {ENCODE}"),
    ("smtp://Kx7vQz9:?Wj4bYt2&=@h", f"{NO_OPTION}; {ENCODE}"),
    ("submission://u:p@h?Kx7vQz9=a@b.com", f"{NO_OPTION}; {ENCODE}"),
    ("submission://u:Wj4@bY?Kx7vQz9=x@h", f"{NO_OPTION}; {ENCODE}"),
    (f"{TOKEN}&Wj4bYt2=x", f"{NO_OPTION}; {ENCODE}"),
    (f"{TOKEN}&timout=5", f"{NO_OPTION}; did you mean 'timeout'?"),
    ("smtp://h?=5", NO_OPTION),
    ("anymail+mailgun://?api_key=abc&Kx7vQz9-x", f"{NO_OPTION}; percent-encode"),
    ("anymail+mailgun://?api_key=Sec&Kx7vQz9&Wj4bYt2", f"{NO_OPTION}; percent-encode"),
    ("smtp://h?timeout=5;ssl=1", SEPARATED),
    ("smtp://h?ssl;_header-X=1", SEPARATED),
    ("smtp://h?timeout=5?ssl=1", SEPARATED),
    ("smtp://h?ssl&?timeout=5", SEPARATED),
    ("anymail+mailgun:?api_key=a?_reply_to=b@c", SEPARATED),
    ("smtp://h?timeout=5&ssl&timeout=5", "option 'timeout' is given twice"),
    ("smtp://h?rate=14/s&rate=50000/d", "is given twice; write rate=14/s,50000/d$"),
    (
        "smtp://h?_allowed_recipients=a@b.c&_allowed_recipients=d.e",
        "write _allowed_recipients=me@example.com,example.org$",
    ),
    ("smtp://h?_header-X=1&_header-x=2", "option '_header-x' is given twice"),
    ("anymail+mailgun://?api_key=x&api_key=y", "option 'api_key' is given twice"),
    ("smtp://h?timeout", "option 'timeout' must be a positive number"),
    ("smtp://h?ssl_cafile", "option 'ssl_cafile' must have a value"),
    # Other schemes
    ("console://h", "'console' takes nothing but options; write console://"),
    ("console://u:Kx7?vQz@h", "'console' takes nothing but options"),
    ("file:///", "a file host must name a folder"),
    ("file://mail/out", "file:///var/mail/out is absolute, file:mail/out relative"),
    ("failover:", "option 'hosts' must name hosts, each once, as in failover:shop,spare"),
    ("roundrobin:a,a", "must name hosts, each once"),
    ("failover:smtp://Kx7vQz9:Wj4bYt2@a,b", "must not be a DSN"),
    ("failover:a,Kx7vQz9:Wj4bYt2%40b", "must not be a DSN"),
    ("anymail+mailgun://Kx7vQz9", "'anymail+mailgun' takes nothing but options"),
    ("anymail+mailgun://api_key=Kx7vQz9", "or anymail+mailgun://?option=value$"),
    ("anymail+mailgun://?api-key=x", "'api-key' cannot be the name of an option"),
    ("anymail+mailgun://?alias=x", "'alias' cannot be the name of an option"),
    ("backend://", "'backend' must name a class; write backend://dotted.path.Class"),
    ("backend://a.b.C/x", "'backend' must name a class"),
    (f"backend://{SMTP}?host=h", "write smtp://, submission:// or submissions://"),
    (f"backend://{DJANGO.format('smtp')}?host=h", "write smtp://, submission:// or subm"),
    (f"backend://{FAILOVER}?hosts=a", "write failover:shop,spare or roundrobin:shop,spare"),
    ("backend://email_hosts.backends.RoutingBackend?x=1", "unknown option 'x'"),
    ("backend://a.b.C?reply_to=x", "'reply_to' cannot be the name of an option; did you"),
    ("backend://a.b.C?_redirct_to=x", "'_redirct_to' cannot be the name of an option; did"),
    ("backend://a.b.C?_x=1", "'_x' cannot be the name of an option"),
    ("backend://a.b.C?x={Kx7vQz9}", "option 'x' must be JSON, because it starts with a brace"),
    ('backend://a.b.C?x={"a": 1} b', "must be JSON"),
    ('backend://a.b.C?x="Kx7vQz9', "must be JSON"),
    ("backend://a.b.C?x=" + '{"a":' * 100_000, "must be JSON"),
]


@pytest.mark.parametrize(("text", "part"), REFUSED, ids=lambda given: repr(given)[:50])
def test_refusal_says_what_to_change_and_repeats_no_secret(text, part):
    with pytest.raises(InvalidEmailHost) as caught:
        dsn.parse(text)
    message = str(caught.value)
    assert message.endswith(part[:-1]) if part.endswith("$") else part in message
    assert caught.value.__cause__ is caught.value.__context__ is None
    secrets = {"Kx7vQz9", "Wj4bYt2"}
    assert not any(secret[i : i + 3] in message for secret in secrets for i in range(5))


def test_parse_conf_returns_what_speckenv_says_as_options():
    config = django_email_url("smtp://me:pw@mail.example.com:2525?timeout=5")
    login = {"port": 2525, "username": "me", "password": "pw", "timeout": 5}
    assert dsn.parse_conf(config) == {**PLAIN, **login}
    assert dsn.parse_conf({}) == dict.fromkeys(PLAIN)


def test_mailers_have_an_entry_for_each_host_that_is_not_empty():
    assert mailers({"debug": "console://", "empty": "", "none": None}) == {
        "debug": {"BACKEND": DJANGO.format("console"), "OPTIONS": {}}
    }


@pytest.mark.parametrize(
    ("hosts", "reason"),
    [
        (["smtp://h"], "EMAIL_HOSTS must be a dict of DSN strings, not list"),
        ({"shop": "smpt://h"}, "EMAIL_HOSTS[\"shop\"]: unknown scheme 'smpt'"),
        ({"smtp://u:p@h": "smtp://h"}, "the key of a host must not be a DSN"),
        ({5: "smtp://h"}, "the key of a host must be a string, not int"),
    ],
)
def test_mailers_name_the_host_that_is_not_valid(hosts, reason):
    with pytest.raises(InvalidEmailHost) as caught:
        mailers(hosts)
    assert str(caught.value).startswith(reason)


# Characters that none of our messages has, and those that mean something in a URI.
SECRETS = st.text("QXZÄqxzß€987@:/?#%&=+ \n", min_size=1)


@pytest.mark.fuzz
@given(st.text() | st.builds("{}:{}".format, st.sampled_from(SCHEMES), st.text()))
def test_any_string_is_an_entry_or_refused(text):
    try:
        mailer = parse(text)
    except InvalidEmailHost:
        return
    assert mailer.keys() == {"BACKEND", "OPTIONS"}


@pytest.mark.fuzz
@given(
    st.sampled_from(sorted(SMTP_SCHEMES)),
    SECRETS,
    SECRETS,
    st.sampled_from(
        ["h", "h:25", "h:x", "", "h?timeout=0", "h?_default_from_email=a@b", "h/"]
    ),
)
def test_no_piece_of_a_secret_is_in_a_message(scheme, username, password, rest):
    try:
        dsn.parse(f"{scheme}://{username}:{password}@{rest}")
    except InvalidEmailHost as error:
        for secret in (username, password):
            pieces = {secret[i : i + 3] for i in range(len(secret) - 2)}
            assert not any(piece in str(error) for piece in pieces)


@pytest.mark.fuzz
@given(st.text(min_size=1), st.text(min_size=1))
def test_percent_encoded_credentials_come_back_or_are_refused(username, password):
    encoded = "{}:{}".format(
        *(quote(t, safe="", errors="replace") for t in (username, password))
    )
    try:
        parsed = options(f"smtp://{encoded}@h")
    except InvalidEmailHost as error:
        assert "control character" in error.reason
    else:
        assert (parsed["username"], parsed["password"]) == (username, password)
