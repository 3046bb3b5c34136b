"""The grammar of a DSN: what it stands for, and what is refused with which words."""

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_hosts import dsn, mailers
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.schemes import SCHEMES, SMTP_SCHEMES

SMTP = "email_hosts.backends.EmailHostsBackend"
DJANGO = "django.core.mail.backends.{}.EmailBackend"
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
    ("scheme", "port", "use_tls", "use_ssl"),
    [
        ("smtp", 25, False, False),
        ("SMTP", 25, False, False),
        ("submission", 587, True, False),
        ("smtp+tls", 587, True, False),
        ("smtps", 465, False, True),
        ("submissions", 465, False, True),
        ("smtp+ssl", 465, False, True),
    ],
)
def test_smtp_scheme_says_the_transport_and_the_port(scheme, port, use_tls, use_ssl):
    transport = {"port": port, "use_tls": use_tls, "use_ssl": use_ssl}
    assert parse(f"{scheme}://mail.example.com") == {
        "BACKEND": SMTP,
        "OPTIONS": {**PLAIN, **transport},
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("smtp://h?ssl", (465, False, True)),
        ("smtp://h:2465?ssl=on", (2465, False, True)),
        ("smtp://h?tls", (25, True, False)),
        ("smtp://h?ssl=false&tls=0", (25, False, False)),
        ("submission://h?ssl=no", (587, True, False)),
        ("submission://h?ssl=1", (465, False, True)),
        ("submission://h?tls=1", (587, True, False)),
        ("submission://h?tls=off", (587, False, False)),
        ("smtps://h:587?tls", (587, True, False)),
    ],
)
def test_option_outranks_the_scheme(query, expected):
    parsed = options(query)
    assert (parsed["port"], parsed["use_tls"], parsed["use_ssl"]) == expected


def test_percent_encoding_is_undone_and_a_plus_stays_a_plus():
    parsed = options(
        "submission://me%40example.com:p%2Fa%3Fs%23s+%25w:ord@h"
        "?_default_from_email=a+b@example.com&_server_email=%22c+d%22%20%3Ce@example.com%3E"
    )
    assert parsed["username"] == "me@example.com"
    assert parsed["password"] == "p/a?s#s+%w:ord"
    assert parsed["default_from_email"] == "a+b@example.com"
    assert parsed["server_email"] == '"c+d" <e@example.com>'


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("Mail.Example.COM", "mail.example.com", 25),
        ("mail.example.com.", "mail.example.com", 25),
        ("mail_1.example.com:", "mail_1.example.com", 25),
        ("127.0.0.1:2525", "127.0.0.1", 2525),
        ("[::1]:2525", "::1", 2525),
        ("mail.example.com/", "mail.example.com", 25),
        ("[::1]:2525/", "::1", 2525),
        ("[fe80::1%25eth0]", "fe80::1%eth0", 25),
        ("[fe80::1%eth0]", "fe80::1%eth0", 25),
        ("bücher.example", "bücher.example", 25),
        ("@mail.example.com", "mail.example.com", 25),
        (":@mail.example.com", "mail.example.com", 25),
    ],
)
def test_host_is_a_name_or_an_address(address, host, port):
    assert options(f"smtp://{address}") == {**PLAIN, "host": host, "port": port}


@pytest.mark.parametrize("text", [" smtp://h", "smtp://h/?timeout=5 ", "\tfile:out\r\n"])
def test_white_space_around_a_dsn_is_dropped(text):
    assert dsn.parse(text) == dsn.parse(text.strip())


@pytest.mark.parametrize("scheme", ["console", "locmem", "dummy"])
@pytest.mark.parametrize("rest", ["://", ":", "://?"])
def test_builtin_backend_is_djangos(scheme, rest):
    assert parse(scheme + rest) == {"BACKEND": DJANGO.format(scheme), "OPTIONS": {}}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("file:///var/mail/out", "/var/mail/out"),
        ("file:/var/mail/out", "/var/mail/out"),
        ("file:mail/out", "mail/out"),
        ("file:my%20mail+/out", "my mail+/out"),
    ],
)
def test_file_host_writes_to_a_folder(text, path):
    assert parse(text) == {
        "BACKEND": DJANGO.format("filebased"),
        "OPTIONS": {"file_path": path},
    }


@pytest.mark.parametrize("text", ["console:", "file:out", "anymail+mailgun:", "backend:a.b.C"])
def test_what_a_host_does_to_a_message_is_for_any_scheme(text):
    plain = parse(text)
    query = "_reply_to=a@b&_envelope_from=c@d&_header-X=1&_redirect_to=e@f"
    assert parse(f"{text}?{query}") == {
        "BACKEND": "email_hosts.backends.HostBackend",
        "OPTIONS": {
            "backend": plain["BACKEND"],
            **plain["OPTIONS"],
            "reply_to": "a@b",
            "envelope_from": "c@d",
            "headers": {"X": "1"},
            "redirect_to": "e@f",
        },
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("failover:shop,spare", {"hosts": ("shop", "spare")}),
        ("failover://shop,spare", {"hosts": ("shop", "spare")}),
        ("failover:shop, a%2Cb?retry=0.5", {"hosts": ("shop", "a,b"), "retry": 0.5}),
        ("failover:a?_reply_to=b@c", {"hosts": ("a",), "reply_to": "b@c"}),
        ("roundrobin:a,b?retry=5", {"hosts": ("a", "b"), "rotate": True, "retry": 5}),
    ],
)
def test_several_hosts_are_named_by_their_keys(text, expected):
    backend = "email_hosts.backends.FailoverBackend"
    assert parse(text) == {"BACKEND": backend, "OPTIONS": expected}


@pytest.mark.parametrize(
    ("text", "provider", "expected"),
    [
        ("anymail+mailgun://?api_key=a%26b+c", "mailgun", {"api_key": "a&b+c"}),
        ("anymail+amazon-ses:", "amazon_ses", {}),
        ("anymail+unisender_go://?a=x@y&b=", "unisender_go", {"a": "x@y", "b": ""}),
    ],
)
def test_provider_of_anymail_takes_any_option(text, provider, expected):
    backend = f"anymail.backends.{provider}.EmailBackend"
    assert parse(text) == {"BACKEND": backend, "OPTIONS": expected}


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        *(("x=true", True), ("x=false", False), ("x=True", "True"), ("token=true", True)),
        *(("x=10", 10), ("x=-3", -3), ("x=0", 0), ("x=2.50", 2.5), ("requests_timeout=5", 5)),
        # What may be a key or a version, and what a number could not hold.
        *((f"x={text}", text) for text in ("007", "1e5", "+1", "1.", "0x10", "9" * 16)),
        *(
            (f"{name}=10", "10")
            for name in (
                *("api_key", "server_token", "client_secret", "password", "user", "username"),
                *("subaccount", "stream_name", "id", "project_id"),
            )
        ),
        *(("x=%2210%22", "10"), ('x="a b"', "a b"), ('token="10"', "10"), ("x=%7B%7D", {})),
        (
            'x={"region_name": "eu", "retries": {"max": 1}}',
            {"region_name": "eu", "retries": {"max": 1}},
        ),
        *(("x=x@y", "x@y"), ("x=", ""), ("x=[1]", "[1]"), ("x=null", "null")),
    ],
)
def test_option_of_another_backend_has_its_type_in_python(option, expected):
    assert repr(options(f"backend://a.b.C?{option}").popitem()[1]) == repr(expected)


@pytest.mark.parametrize(
    "given", ["{", "{Kx7vQz9}", '{"a": 1} b', '"', '"Kx7vQz9', '"a"b', '{"a":' * 100_000]
)
def test_brace_or_quotation_mark_without_json_is_refused(given):
    with pytest.raises(InvalidEmailHost) as caught:
        options(f"backend://a.b.C?x={given}")
    assert str(caught.value) == (
        "option 'x' must be JSON, because it starts with a brace or a quotation mark"
    )


TOKEN = "submission://me@h?oauth2=client_credentials&oauth2_client_secret=Kx7vQz9"
ENCODE = "percent-encode each slash, question mark, hash"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (42, "not int"),
        (b"smtp://h", "not bytes; decode it"),
        ("", "no scheme"),
        ("mail.example.com", "no scheme; for a mail server, write submission://smtp.exam"),
        ("smtp", "no scheme"),
        ("Kx7vQz9:Wj4bYt2@h", "no scheme"),
        ("smpt://h", "unknown scheme 'smpt'; known schemes are smtp, submission, smtp+tls, "),
        ("smpt://h", "did you mean 'smtp'?"),
        ("https://h", "the like; for a mail server, write submission://smtp.example.com$"),
        ("imaps://h", "the like; for a mail server, write submission://smtp.example.com$"),
        ("redis://h", "unknown scheme 'redis'; known schemes are smtp, submission"),
        ("ses://Kx7vQz9:Wj4bYt2@default", "write 'anymail+amazon-ses' instead"),
        ("mailgun+api://Kx7vQz9@default", "write 'anymail+mailgun' instead"),
        ("GMAIL://Kx7vQz9:Wj4bYt2@default", "write 'submission' instead"),
        ("smtp://", "names no host"),
        ("smtp:h", "names no host"),
        ("smtp://:25", "names no host"),
        ("smtp://?ssl", "names no host; write one after the two slashes"),
        ("smtp://Kx7vQz9:Wj4bYt2@", "names no host; write one after the at sign"),
        ("smtp://a..b", "the host must be a host name"),
        ("smtp://a b", "the host must be a host name"),
        ("smtp://[::1", "the host must be a host name"),
        ("smtp://[h]", "the host must be a host name"),
        ("smtp://h%41", "the host must be a host name"),
        (
            "smtp://Kx7vQz9:Wj4bYt2@[fe80::1%25a%40evil.example]",
            "the host must be a host name",
        ),
        ("smtp://Kx7vQz9:Wj4bYt2@[fe80::1%25%E2%84%80]", "the host must be a host name"),
        ("smtp://[fe80::1%25a%23b]", "the host must be a host name"),
        ("smtp://℀.example", "the host must be a host name"),
        (f"smtp://{'a' * 64}", "the host must be a host name"),
        ("smtp://h:0", "the port must be a whole number from 1 to 65535"),
        ("smtp://h:65536", "from 1 to 65535; if it is part of a password, the at sign and"),
        ("smtp://u:p@h:99999", "the port must be a whole number from 1 to 65535$"),
        ("smtp://u:p@h:x", f"the at sign and the host are missing after it, or {ENCODE}"),
        ("smtp://h:+25", "the port"),
        ("smtp://h:٢٥", "the port"),
        ("smtp://Kx7vQz9:Wj4bYt2", "the at sign and the host are missing after it"),
        ("smtp://h//", "has a path"),
        ("smtp://h/x", "has a path"),
        ("smtp://h#", "has a fragment"),
        ("smtp://Kx7vQz9@h", "has a user name and no password"),
        ("smtp://Kx7vQz9:@h", "has a user name and no password"),
        ("smtp://:Kx7vQz9@h", "has a password and no user name"),
        ("submission://Kx7vQz9:Wj4/bYt2@h", ENCODE),
        ("submission://Kx7vQz9:Wj4?bYt2@h", ENCODE),
        ("submission://Kx7vQz9:Wj4#bYt2@h", ENCODE),
        ("submission://Kx7vQz9:Wj4/bYt2@h?_default_from_email=a@example.com", ENCODE),
        ("submission://Kx7vQz9:Wj4?bYt2=x@h?_default_from_email=a@example.com", ENCODE),
        ("submission://Kx7vQz9:Wj4?bYt2@h?_default_from_email=a@example.com", ENCODE),
        ("submission://Kx7vQz9:Wj4?bYt2&timeout=5@h:25", ENCODE),
        ("submission://Kx7vQz9:25?Wj4bYt2@h", ENCODE),
        ("submission://Kx7vQz9:Wj4%bYt2@h", "the password has a percent sign without two"),
        ("submission://Kx7%ffvQz9:Wj4bYt2@h", "the user name is percent-encoded, but not in"),
        ("submission://Kx7vQz9:Wj4%0AbYt2@h", "the password has a control character"),
        ("smtp://h?_header-X=Kx7vQz9%0AWj4bYt2", "option '_header-X' has a control character"),
        ("submission://Kx7vQz9:Wj4bYt2@h\n?ssl", "the DSN has a control character"),
        ("smtp://h\ud800", "the DSN has a control character"),
        ("'smtp://h'", "in quotation marks; remove them"),
        ('"smtp://Kx7vQz9:Wj4bYt2@h"', "in quotation marks; remove them"),
        ("smtp://h/ x", "has a path"),
        ("smtp://h?timout=5", "unknown option 'timout'; did you mean 'timeout'?"),
        ("smtp://h?default_from_email=a@example.com", "did you mean '_default_from_email'?"),
        ("smtp://h?_default_form_email=a@example.com", "did you mean '_default_from_email'?"),
        ("smtp://h?zz=5", "unknown option 'zz'; known options: tls, ssl, timeout, "),
        ("smtp://h?TIMEOUT=5", "unknown option 'TIMEOUT'; did you mean 'timeout'?"),
        (
            "smtp://h?timeout:5",
            "an ampersand is not an option; did you mean 'timeout'?; percent",
        ),
        ("smtp://h?_header=1", "unknown option '_header'; did you mean '_header-NAME'?"),
        ("smtp://h?_redirect=a@b", "unknown option '_redirect'; did you mean '_redirect_to'?"),
        ("smtp://h?reply_to=a@b", "unknown option 'reply_to'; did you mean '_reply_to'?"),
        ("smtp://h?_from=a@b.com", "unknown option '_from'; did you mean '_default_from_em"),
        ("smtp://h?sender=a@b.com", "option 'sender'; did you mean '_default_from_email'?"),
        ("submission://u:p@h?bcc=a@b.com", "unknown option 'bcc'; known options: tls, ssl"),
        ("smtp://h:25?_to=a@b.com", "unknown option '_to'; known options: tls, ssl, timeo"),
        ("console:?to=a@b.com", "unknown option 'to'; known options: _default_from_em"),
        ("failover:a?from=a@b.com", "unknown option 'from'; did you mean '_default_from_e"),
        # That could be the rest of a password.
        (
            "smtp://h:25?from=a@b.com",
            "an ampersand is not an option; did you mean '_default_from_email'?; perc",
        ),
        ("failover://u:Wj4?bYt=5@h", "an ampersand is not an option; known options: retry"),
        (
            "submission://u:p@h?Kx7vQz9=a@b.com",
            "an ampersand is not an option; known options: ",
        ),
        (
            "submission://u:Wj4@bY?Kx7vQz9=x@h",
            "an ampersand is not an option; known options: ",
        ),
        ("submission://Kx7vQz9:Wj4?timeout=5@h", "the DSN has an at sign among its options"),
        ("submission://Kx7vQz9:Wj4?timeout=5@h?ssl", "the DSN has an at sign among its opt"),
        *(
            (f"{text}", "options are separated by ampersands; percent-encode a semicolon or")
            for text in (
                *("smtp://h?timeout=5;ssl=1", "smtp://h?ssl;timeout=5", "smtp://h?ssl;tls"),
                *("smtp://h?_reply_to=a@b.com;timeout=5", "smtp://h?ssl_cafile=/x;timeout=5"),
                *("smtp://h?timeout=5?ssl=1", "smtp://h??ssl", "smtp://h?ssl&?timeout=5"),
                *("smtp://h?ssl;_header-X=1", "anymail+mailgun:?api_key=a?_reply_to=b@c"),
            )
        ),
        ("smtp://h?=5", "the text after a question mark or an ampersand is not an option"),
        ("console://?timeout=5", "unknown option 'timeout'; known options: _default_from_"),
        ("smtp://h?ssl&ssl", "option 'ssl' is given twice"),
        ("smtp://h?timeout=5&ssl&timeout=5", "option 'timeout' is given twice"),
        ("smtp://h?_reply_to=a@b&_reply_to=a@b", "option '_reply_to' is given twice"),
        ("console://h", "'console' takes nothing but options; write console://"),
        ("dummy:x", "'dummy' takes nothing but options"),
        ("locmem:///", "'locmem' takes nothing but options"),
        ("file:", "a file host must name a folder"),
        ("file:///", "a file host must name a folder"),
        ("file://mail/out", "file:///var/mail/out is absolute, file:mail/out relative"),
        ("file:out#1", "has a fragment"),
        ("console://u:Kx7?vQz@h", "'console' takes nothing but options"),
        ("failover:", "'failover' must name hosts, each once; write failover:shop,spare"),
        ("failover:a,,b", "'failover' must name hosts"),
        ("roundrobin:a,a", "'roundrobin' must name hosts"),
        ("failover:smtp://Kx7vQz9:Wj4bYt2@a,smtp://Kx7vQz9:Wj4bYt2@b", "must not be a DSN"),
        ("failover:a,Kx7vQz9:Wj4bYt2%40b", "must not be a DSN"),
        ("failover:a?retry=0", "option 'retry' must be a positive number of seconds"),
        ("failover:a?rotate=1", "unknown option 'rotate'"),
        ("anymail+://?api_key=x", "unknown scheme 'anymail+'"),
        ("anymail+mailgun://Kx7vQz9", "'anymail+mailgun' takes nothing but options"),
        ("anymail+mailgun://?api_key=x&api_key=y", "option 'api_key' is given twice"),
        ("anymail+mailgun://?api-key=x", "'api-key' cannot be the name of an option"),
        ("anymail+mailgun://?default_from_email=x", "did you mean '_default_from_email'?"),
        ("anymail+mailgun://?alias=x", "'alias' cannot be the name of an option"),
        ("anymail+mailgun://?api_key=abc&Kx7vQz9-x", "an ampersand is not an option; percent"),
        ("anymail+mailgun://?Kx7vQz9", "an ampersand is not an option; percent-encode each"),
        ("anymail+mailgun://?api_key=Sec&Kx7vQz9&Wj4bYt2", "is not an option; percent-encode"),
        ("backend://", "'backend' must name a class; write backend://dotted.path.Class"),
        ("backend://C", "'backend' must name a class"),
        ("backend://a.b.C/x", "'backend' must name a class"),
        *(
            (f"backend://{path}?host=h", "write smtp://, submission:// or submissions://")
            for path in (SMTP, DJANGO.format("smtp"))
        ),
        (
            "backend://email_hosts.backends.FailoverBackend?hosts=a",
            "write failover:shop,spare or roundrobin:shop,spare",
        ),
        ("backend://email_hosts.backends.RoutingBackend?x=1", "unknown option 'x'"),
        *(
            (f"backend://a.b.C?{name}=x", f"'{name}' cannot be the name of an option; did you")
            for name in ("headers", "reply_to", "redirect_to", "_redirct_to")
        ),
        ("backend://a.b.C?_x=1", "'_x' cannot be the name of an option"),
        ("submission://me@h?oauth2_client_id=x", "a user name and no password"),
        ("console://?oauth2=x", "unknown option 'oauth2'"),
        (f"{TOKEN}&Wj4bYt2", "an ampersand is not an option; known options: "),
        (f"{TOKEN}&Wj4bYt2=x", "an ampersand is not an option; known options: "),
        (f"{TOKEN}&timout=5", "an ampersand is not an option; did you mean 'timeout'?"),
        (
            "submission://me@h?oauth2_client_secrt=Kx7vQz9",
            "did you mean 'oauth2_client_secret",
        ),
    ],
)
def test_refusal_says_what_to_change_and_repeats_no_secret(text, part):
    with pytest.raises(InvalidEmailHost) as caught:
        dsn.parse(text)
    message = str(caught.value)
    assert message.endswith(part[:-1]) if part.endswith("$") else part in message
    assert caught.value.__cause__ is caught.value.__context__ is None
    secrets = {"Kx7vQz9", "Wj4bYt2"}
    assert not any(secret[i : i + 3] in message for secret in secrets for i in range(5))


def test_parse_conf_maps_djangos_settings_to_options():
    config = {setting: option for option, setting in dsn.DJANGO_SETTINGS.items()}
    assert dsn.parse_conf(config) == {option: option for option in PLAIN}
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
