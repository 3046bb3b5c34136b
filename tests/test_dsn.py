"""The grammar of a DSN: what it stands for, and what is refused with which words."""

from typing import Any
from urllib.parse import quote

import pytest
from conftest import as_id, mailer
from hypothesis import example, given
from hypothesis import strategies as st
from speckenv_django import django_email_url

from email_hosts import dsn, mailers
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.schemes import SCHEMES, SMTP_SCHEMES

SMTP = "email_hosts.backends.EmailHostsBackend"
FAILOVER = "email_hosts.backends.FailoverBackend"
DJANGO = "django.core.mail.backends.{}.EmailBackend"
HOST = "email_hosts.backends.HostBackend"
CONSOLE, FOLDER = DJANGO.format("console"), DJANGO.format("filebased")
ANYMAIL = "anymail.backends.{}.EmailBackend"
NO_LOGIN: dict[str, Any] = {"username": "", "password": "", "timeout": None}
PLAIN = {"host": "h", "port": 25, "use_tls": False, "use_ssl": False, **NO_LOGIN}
STARTTLS: dict[str, Any] = {"port": 587, "use_tls": True}
TLS: dict[str, Any] = {"port": 465, "use_ssl": True}


def options(text: str) -> dict[str, Any]:
    return dict(dsn.parse(text).options)


def smtp(host: str = "h", port: int = 25, **options: Any) -> dict[str, Any]:
    return mailer(SMTP, **{**PLAIN, "host": host, "port": port, **options})


# Entries of MAILERS, and DSNs without spaces that stand for them.
ENTRIES: list[tuple[dict[str, Any], str]] = [
    (smtp(), "smtp://h SMTP://h smtp://h: smtp://h/ smtp://:@h"),
    (smtp(**STARTTLS), "submission://h smtp+tls://h"),
    (smtp(**TLS), "smtps://h submissions://h smtp+ssl://h"),
    # An option outranks the scheme.
    (smtp(port=587, use_tls=True), "submission://h?ssl=no smtps://h:587?tls"),
    (smtp(**TLS), "smtp://h?ssl submission://h?ssl=1"),
    (smtp("mail_1.example.com"), "smtp://Mail_1.Example.COM"),
    (smtp("::1", 2525), "smtp://[::1]:2525/"),
    (smtp("fe80::1%eth0"), "smtp://[fe80::1%25eth0] smtp://[fe80::1%eth0]"),
    # Percent-encoding is undone, and a plus stays a plus.
    (smtp(username="a+b@c", password="p/a?s#s+%w:o"), "smtp://a+b%40c:p%2Fa%3Fs%23s+%25w:o@h"),
    # Other schemes.
    (mailer(CONSOLE), "console://"),
    (mailer(FOLDER, file_path="/var/out"), "file:///var/out file:/var/out"),
    (mailer(FOLDER, file_path="my mail+/out"), "file:my%20mail+/out"),
    (mailer(FAILOVER, hosts=("shop", "a,b"), retry=0.5), "failover:shop,%20a%2Cb?retry=0.5"),
    (mailer(FAILOVER, hosts=("a", "b"), rotate=True), "roundrobin:a,b"),
    (mailer(ANYMAIL.format("mailgun"), key="a;b?c"), "anymail+mailgun:?key=a;b?c"),
    (mailer(ANYMAIL.format("amazon_ses"), a="x@y", b=""), "anymail+amazon-ses:?a=x@y&b="),
    (mailer("a.b.C"), "backend:a.b.C"),
    # What a host does to a message is for any scheme.
    (mailer(HOST, backend=FOLDER, file_path="a", headers={"X": "1"}), "file:a?_header-X=1"),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((text, expected) for expected, texts in ENTRIES for text in texts.split()),
        (" \tsmtp://h/?timeout=5 \r\n", smtp(timeout=5)),
    ],
    ids=as_id,
)
def test_dsn_stands_for_an_entry_of_mailers(text, expected):
    assert dsn.parse(text).mailer == expected


KEYS_AND_NAMES = "api_key token client_secret password user subaccount stream_name id"


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        *(("x=true", True), ("x=false", False), ("x=True", "True"), ("token=true", True)),
        *(("x=10", 10), ("x=-3", -3), ("x=0", 0), ("x=2.50", 2.5), ("user_limit=5", 5)),
        # What may be a key or a version, and what a number could not hold.
        *((f"x={text}", text) for text in ("007", "1e5", "1.", "9" * 16)),
        *((f"{name}=10", "10") for name in KEYS_AND_NAMES.split()),
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
NO_OPTION = "an ampersand is not an option"
MEANT = "did you mean '_default_from_email'?"
AMPERSANDS = "options are separated by ampersands"
AMPERSAND = "write an ampersand between options:"
QUESTION_MARK = "write a question mark before the first option:"
NAME = "cannot be the name of an option"
LONG, DEEP = "a" * 64, "backend://a.b.C?x=" + '{"a":' * 100_000
DJANGOS_SMTP = f"backend://{DJANGO.format('smtp')}?host=h"

# What a refusal teaches ($ ends it), and DSNs without spaces that are refused like this.
REFUSED: list[tuple[str, str]] = [
    ("must start with a scheme", "mail.example.com Kx7vQz9:Wj4bYt2@h"),
    ("must start with a scheme; write console: with a colon", "console"),
    ("must start with a scheme; to use another host, write failover: and its key; ", "shop"),
    ("must start with a scheme; did you mean 'failover'?", "fallback:shop,club"),
    ("; did you mean 'anymail+mailgun'?", "anymail-mailgun://?api_key=K"),
    ("has two schemes; remove one; ", "submission://u:Wj4bYt2@https://h smtp://smtp://h"),
    # A DSN in several strings, of which one lacks its separator
    (f"{AMPERSAND} &_reply_to=...; ", "smtp://h?_header-X-A=one_reply_to=a@example.com"),
    (f"{AMPERSAND} &_reply_to=...; ", "anymail+x:?token=Wj4bYt2_reply_to=a@example.com"),
    # The login would go to the domain of the sender.
    (f"{QUESTION_MARK} ?_default_from", f"{LOGIN}@h.example&_default_from_email=a@b.c"),
    (f"{QUESTION_MARK} ?_header-NAME=", f"{LOGIN}@h:587_header-X=a@b.c"),
    (f"{QUESTION_MARK} ?timeout", "smtp://h:25&timeout=5"),
    (f"{QUESTION_MARK} ?retry=", "failover:a,b&retry=60"),
    ("did you mean '_redirect_to'?", "smtp://h:2525?redirect_to=a@example.com"),
    (f"{QUESTION_MARK} ?option=...; ", "smtp://u:p@h&_from=a@b.c"),
    ("a tilde does not stand for a home folder", "file:~/mail file:///~/mail"),
    ("of an option; did you mean 'api_key'?", "anymail+mailgun://?api-key=K"),
    ("'redis'; for a mail server, write submission://", "redis://h"),
    ("'anymail+amazon-ses' instead", "ses://Kx7vQz9:Wj4bYt2@default"),
    ("'anymail+mailgun' instead", "mailgun+api://Kx7vQz9@default"),
    # The host and the port
    ("names no host", "smtp:// smtp://Kx7vQz9:Wj4bYt2@"),
    ("names no host; write it after submission://$", "submission:Kx7vQz9:Wj4bYt2@h"),
    ("an IPv6 address in brackets, like [2001:db8::1]$", f"{LOGIN}@::1 smtp://fe80::1%25eth0"),
    ("must be a host name", f"smtp://[::1 smtp://h%41 smtp://℀.example smtp://{LONG}"),
    ("the port must be a whole number from 1 to 65535", "smtp://h:0 smtp://h:+25 smtp://h:٢٥"),
    ("the at sign and the host are missing after it", LOGIN),
    ("has a path", "smtp://h//"),
    ("has a fragment", "smtp://h# file:out#1"),
    # The login
    ("'oauth2_client_id' needs 'oauth2' beside it", "submission://me@h?oauth2_client_id=x"),
    (ENCODE, "submission://Kx7vQz9:Wj4/bYt2@h submission://Kx7vQz9:Wj4?bYt2@h"),
    (ENCODE, "submission://Kx7vQz9:Wj4#bYt2@h submission://Kx7vQz9:25?Wj4bYt2@h"),
    ("the password has a percent sign without two", "submission://Kx7vQz9:Wj4%bYt2@h"),
    ("the user name is percent-encoded, but not in", "submission://Kx7%ffvQz9:Wj4bYt2@h"),
    ("the password has a control character", "submission://Kx7vQz9:Wj4%0AbYt2@h"),
    ("the DSN has a control character", "smtp://h\ud800 smtp://u:Kx7vQz9@h\0?ssl"),
    ("in quotation marks; remove them", f'"{LOGIN}@h" \'{LOGIN}@h\' {LOGIN}@h.example"'),
    # The names of options
    ("'; did you mean 'timeout'?", "smtp://h?timout=5 smtp://h?TIMEOUT=5"),
    (f"'; {MEANT}", "smtp://h?default_from_email=a smtp://h:25?_from=a@b failover:a?from=a@b"),
    ("'; did you mean '_header-NAME'?", "smtp://h?_header=1 smtp://h?headers=1"),
    ("did you mean 'tls'?", "smtp://h?starttls=1"),
    ("'port'; write it after two slashes: smtp.example.com:2525$", "smtp://h?port=x"),
    ("'user'; write both before the host: ", "smtp://h?user=x"),
    ("option 'zz'; known options: tls, ssl, timeout, ", "smtp://h?zz=5"),
    ("option 'rotate'; write roundrobin: instead of failover:$", "failover:a?rotate=1"),
    # What is no name of an option could be the rest of a password.
    (f"{NO_OPTION}; did you mean 'timeout'?; percent", f"smtp://h?timeout:5 {TOKEN}&timout=5"),
    (f"{NO_OPTION}; percent", "smtp://Kx7vQz9:?Wj4bYt2&=@h smtp://u:p@h?Kx7vQz9=a@b.com"),
    (f"{NO_OPTION}; percent", f"{TOKEN}&Wj4bYt2=x submission://u:Wj4@bY?Kx7vQz9=x@h"),
    (f"{NO_OPTION}; percent", "anymail+mailgun:?api_key=abc&Kx7vQz9-x failover:a?Kx7vQz9=x@h"),
    (f"{NO_OPTION}; did you mean 'oauth2_ref", "smtp://h?oauth2_refresh_tokenKx7vQz9"),
    (AMPERSANDS, "smtp://h?timeout=5;ssl=1 smtp://h?timeout=5?ssl=1 smtp://h?ssl;_header-X=1"),
    ("' is given twice", "smtp://h?timeout=5&ssl&timeout=5 smtp://h?_header-X=1&_header-x=2"),
    ("is given twice; write rate=14/s,50000/d$", "smtp://h?rate=14/s&rate=50000/d"),
    # Other schemes
    ("'console' takes nothing but options; write con", "console://h console://u:Kx7?vQz@h"),
    ("name a folder: file:///var/mail/out is absolute, file", "file:/// file://mail/out"),
    ("must name hosts, each once, as in failover:shop,spare", "failover: failover:a,a"),
    ("must not be a DSN", "failover:smtp://Kx7vQz9:Wj4bYt2@a,b failover:a,Kx7vQz9:Wj4%40b"),
    ("or anymail+mailgun://?option=value$", "anymail+mailgun://api_key=Kx7vQz9"),
    (f"' {NAME}", "anymail+mailgun:?api-key=x anymail+mailgun:?alias=x backend://a.b.C?_x=1"),
    (f"' {NAME}; did you mean", "backend://a.b.C?reply_to=x backend://a.b.C?_redirct_to=x"),
    ("write backend://dotted.path.Class?option=value$", "backend:// backend://a.b.C/x"),
    ("write smtp://, submission:// or submissions://", f"backend://{SMTP} {DJANGOS_SMTP}"),
    ("write failover:shop,spare or roundrobin:shop,spare", f"backend://{FAILOVER}?hosts=a"),
    ("unknown option 'x'", "backend://email_hosts.backends.RoutingBackend?x=1"),
    ("'x' must be JSON, because it starts with", f"backend://a.b.C?x={{Kx7vQz9}} {DEEP}"),
]


@pytest.mark.parametrize(
    ("text", "part"),
    [(42, "not int"), *((text, part) for part, texts in REFUSED for text in texts.split())],
    ids=as_id,
)
def test_refusal_says_what_to_change_and_repeats_no_secret(text, part):
    with pytest.raises(InvalidEmailHost) as caught:
        dsn.parse(text)
    message = str(caught.value)
    assert message.endswith(part[:-1]) if part.endswith("$") else part in message
    assert caught.value.__cause__ is caught.value.__context__ is None
    secrets = {"Kx7vQz9", "Wj4bYt2"}
    assert not any(secret[i : i + 3] in message for secret in secrets for i in range(5))


def test_parse_conf_returns_what_speckenv_says_as_options():
    config = django_email_url("smtp://me:pw@h:2525?timeout=5")
    login = {"port": 2525, "username": "me", "password": "pw", "timeout": 5}
    assert dsn.parse_conf(config) == {**PLAIN, **login}
    assert dsn.parse_conf({}) == dict.fromkeys(PLAIN)


def test_mailers_have_an_entry_for_each_host_that_is_not_empty():
    found = mailers({"debug": "console://", "empty": "", "none": None})
    assert found == {"debug": mailer(CONSOLE)}
    with pytest.raises(InvalidEmailHost, match="the key of a host must be a string, not int"):
        mailers({5: "smtp://h"})  # type: ignore[dict-item]


# Characters that none of our messages has, and those that mean something in a URI.
SECRETS = st.text("QXZÄqxzß€987@:/?#%&=+ \n", min_size=1)


@pytest.mark.fuzz
@given(st.text() | st.builds("{}:{}".format, st.sampled_from(SCHEMES), st.text()))
def test_any_string_is_an_entry_or_refused(text):
    try:
        found = dsn.parse(text).mailer
    except InvalidEmailHost:
        return
    assert found.keys() == {"BACKEND", "OPTIONS"}


@pytest.mark.fuzz
@example("smtp", "?777&", "7", "h")
@example("smtp", "@", "?777&", "h")
@given(
    st.sampled_from(sorted(SMTP_SCHEMES)),
    SECRETS,
    SECRETS,
    st.sampled_from(["h", "h:x", "", "h?timeout=0", "h?_default_from_email=a@b", "h/"]),
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
    user, secret = (quote(t, safe="", errors="replace") for t in (username, password))
    try:
        parsed = options(f"smtp://{user}:{secret}@h")
    except InvalidEmailHost as error:
        assert "control character" in error.reason
    else:
        assert (parsed["username"], parsed["password"]) == (username, password)
