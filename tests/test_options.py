"""What the values of a DSN's options may be."""

from contextlib import nullcontext
from typing import Any
from urllib.parse import quote

import pytest
from django.conf import settings
from django.test import override_settings

from email_hosts.backends import get_connection
from email_hosts.dsn import parse
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.options import checked_host_options


def value(query: str, dsn: str = "smtp://h") -> Any:
    """Return the value of the one option in a query, by whatever name a backend takes it."""
    (found,) = parse(f"{dsn}?{query}")["OPTIONS"].items() - parse(dsn)["OPTIONS"].items()
    return found[1]


@pytest.mark.parametrize("true", ["1", "true", "TRUE", "yes", "on", "On"])
def test_true_is_written_in_four_ways(true):
    assert parse(f"smtp://h?ssl={true}")["OPTIONS"]["use_ssl"] is True


@pytest.mark.parametrize("false", ["0", "false", "False", "no", "off", "OFF"])
def test_false_is_written_in_four_ways(false):
    assert parse(f"smtps://h?ssl={false}")["OPTIONS"]["use_ssl"] is False


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("timeout=10", "10"),
        ("timeout=2.5", "2.5"),
        ("conn_max_messages=050", "50"),
        ("conn_max_idle=1", "1"),
        ("parallel=50", "50"),
    ],
)
def test_whole_numbers_stay_whole(query, number):
    assert repr(value(query)) == number


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("web1.example.com", "web1.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("[192.0.2.1]", "[192.0.2.1]"),
    ],
)
def test_local_hostname_is_what_smtp_can_say(given, name):
    assert value(f"local_hostname={given}") == name


@pytest.mark.parametrize(
    "address",
    [
        "shop@example.com",
        "Shop <shop@example.com>",
        '"Shop, Inc." <shop@example.com>',
        "Bücherstube <laden@bücher.example>",
        "webmaster@localhost",
        "shop@[192.0.2.1]",
        f"{'Shop ' * 60}<shop@example.com>",
    ],
)
def test_sender_is_any_one_address(address):
    assert value(f"_default_from_email={quote(address)}") == address


@pytest.mark.parametrize("name", ["Dr. Shop", "Shop Inc.", "N.", "Dr. Bücher & Co."])
def test_unquoted_period_in_a_name_is_quoted_as_django_needs_it(name):
    sender = value(f"_default_from_email={quote(name)} <shop@example.com>")
    assert sender == f'"{name}" <shop@example.com>'


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("1", "1"),
        ("x@y", "x@y"),
        ("", ""),
        (
            '{"region_name": "eu", "retries": {"max": 1}}',
            {"region_name": "eu", "retries": {"max": 1}},
        ),
        ("{}", {}),
        ("[1]", "[1]"),
    ],
)
def test_option_of_any_backend_is_a_boolean_a_json_object_or_text(given, expected):
    assert parse(f"backend://a.b.C?x={quote(given)}")["OPTIONS"] == {"x": expected}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("example.com", ["example.com"]),
        (
            "a@example.com, Example.ORG,,localhost ",
            ["a@example.com", "Example.ORG", "localhost"],
        ),
        ("o'hara+x@bücher.example", ["o'hara+x@bücher.example"]),
        ("xn--strae-oqa.example", ["xn--strae-oqa.example"]),
    ],
)
def test_allowed_recipients_are_addresses_and_domains(given, expected):
    query = f"_redirect_to=qa@example.com&_allowed_recipients={quote(given)}"
    assert parse(f"smtp://h?{query}")["OPTIONS"]["allowed_recipients"] == expected


NUMBER = "must be a positive number of seconds, like 10 or 2.5"
COUNT = "must be a positive whole number, like 100"
RECIPIENTS = "must be addresses and domains, like boss@example.org,example.com (without names,"
IN_ASCII = "must have this domain in ASCII, with xn--"
ADDRESS = "must be one email address, ASCII before the '@', like shop@example.com or"


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("ssl=", "must be 1, true, yes or on, or 0, false, no or off"),
        ("tls=2", "must be 1, true, yes or on, or 0, false, no or off"),
        *((f"timeout{value}", NUMBER) for value in ("", "=", "=0", "=0.0", "=-1", "=5s")),
        *((f"timeout={value}", NUMBER) for value in ("nan", "inf", "1e3", "9" * 5000)),
        ("conn_max_age=0", NUMBER),
        ("conn_max_messages=0", COUNT),
        ("conn_max_messages=1.5", COUNT),
        ("conn_max_idle=0", COUNT),
        *(
            (f"parallel={value}", "must be a whole number from 1 to 50")
            for value in (0, 51, "")
        ),
        ("ssl_cafile", "must have a value"),
        ("ssl_cafile=%00", "has a control character"),
        ("local_hostname=a b", "must be a host name, or an IP address in brackets"),
        # It is too long in ASCII.
        (f"local_hostname={'ü.' * 40}example", "must be a host name"),
        ("_server_email", ADDRESS),
        *((f"_server_email={value}", ADDRESS) for value in ("", "root", "a@", "@b", "a@b..c")),
        *((f"_server_email={value}", ADDRESS) for value in ("a@b,c@d", "a@b,", "a@b$c")),
        *((f"_server_email={value}", ADDRESS) for value in ("a b@c", "A <a@b> c", "A <a@b")),
        *((f"_server_email={value}", ADDRESS) for value in ("group: a@b;", "%22", "<", "a@[")),
        ("_server_email=müller@example.com", ADDRESS),
        (f"_server_email={'(' * 300}", ADDRESS),
        (f"_server_email={'Shop ' * 61}<shop@example.com>", ADDRESS),
        ("_server_email=A%E2%80%A8B <a@b>", "has a control character"),
        ("_server_email=a%0Ab@c", "has a control character"),
        *(
            (f"_allowed_recipients={value}", RECIPIENTS)
            for value in ("", ",", "@a.b", "*.a.b")
        ),
        *((f"_allowed_recipients={value}", RECIPIENTS) for value in ("a@", "a b", "a@b@c")),
        *((f"_allowed_recipients={value}", RECIPIENTS) for value in ("A <a@b>", "ä@b")),
        *((f"_allowed_recipients={value}", RECIPIENTS) for value in ('"a b"@c', "a://b")),
        ("_allowed_recipients=x.example,a@[192.0.2.1]", RECIPIENTS),
        ("_allowed_recipients=straße.example", IN_ASCII),
        ("_allowed_recipients=a@straße.example", IN_ASCII),
        ("_allowed_recipients=a%0Ab", "has a control character"),
    ],
)
def test_refusal_says_what_the_value_must_be(query, reason):
    with pytest.raises(InvalidEmailHost) as caught:
        parse(f"smtp://h?{query}")
    assert str(caught.value).startswith(f"option '{query.partition('=')[0]}' {reason}")


class TestInPython:
    """The options of any host, as ``get_connection`` and ``MAILERS`` have them."""

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"timeout": 5, "host": "h"}, {}),
            (dict.fromkeys(["default_from_email", "reply_to", "headers", "redirect_to"]), {}),
            ({"reply_to": "", "redirect_to": "", "allowed_recipients": ""}, {}),
            (
                {"headers": {}, "allowed_recipients": []},
                {"headers": {}, "allowed_recipients": []},
            ),
            ({"reply_to": "A <a@b>"}, {"reply_to": "A <a@b>"}),
            ({"server_email": "a@b", "default_from_email": ""}, {"server_email": "a@b"}),
            ({"headers": {"X-Shop": "Ä", "Y": "1"}}, {"headers": {"X-Shop": "Ä", "Y": "1"}}),
            *(
                (
                    {"redirect_to": "a@b", "allowed_recipients": allowed},
                    {"redirect_to": "a@b", "allowed_recipients": ["c.example", "d@e"]},
                )
                for allowed in ("c.example, d@e", ["c.example", "d@e"], ("c.example", "d@e"))
            ),
        ],
    )
    def test_are_what_they_are_in_a_dsn(self, options, expected):
        assert checked_host_options(options) == expected

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"reply_to": "nonsense"}, f"option 'reply_to' {ADDRESS}"),
            ({"reply_to": ["a@b"]}, "option 'reply_to' must be text, not list"),
            (
                {"reply_to": "a@b\nBcc: c@d"},
                "option 'reply_to' has a control character",
            ),
            (
                {"headers": "X: 1"},
                "option 'headers' must be a dict of names and texts, not str",
            ),
            ({"headers": {"X": 5}}, "option 'headers' has 'X', which must be text, not int"),
            ({"headers": {"X": ""}}, "option 'headers' has 'X', which must have a value"),
            ({"headers": {"X": "a\r\nB: c"}}, "option 'headers' has 'X', which has a control"),
            (
                {"headers": {"X\n": "a"}},
                r"option 'headers' has 'X\n', which must name a header",
            ),
            (
                {"headers": {5: "a", "5": "b"}},
                "option 'headers' has '5', which is given twice",
            ),
            ({"headers": {"To": "a@b"}}, "option 'headers' has 'To', which is not for a host"),
            ({"redirect_to": 0}, "option 'redirect_to' must be text, not int"),
            ({"redirect_to": []}, "option 'redirect_to' must be text, not list"),
            (
                {"redirect_to": "a@b", "allowed_recipients": [None]},
                "option 'allowed_recipients' must be text, or a list of texts",
            ),
            (
                {"redirect_to": "a@b", "allowed_recipients": {"a": "b"}},
                "option 'allowed_recipients' must be text, or a list of texts",
            ),
            (
                {"allowed_recipients": ["a.b"]},
                "option '_allowed_recipients' needs '_redirect_to'",
            ),
        ],
    )
    def test_are_refused_as_in_a_dsn(self, options, reason):
        with pytest.raises(ValueError, match="option") as caught:
            checked_host_options(options)
        assert str(caught.value).startswith(reason)

    @pytest.mark.parametrize(
        "dsn", ["smtp://h", "console:", "failover:shop", "anymail+brevo:"]
    )
    @pytest.mark.parametrize("is_real", [True, False])
    def test_are_refused_with_the_key_of_the_host(self, dsn, is_real, monkeypatch):
        hosts = {"shop": "smtp://h", "x": dsn}
        with override_settings(EMAIL_HOSTS=hosts) if is_real else nullcontext():
            if not is_real:
                monkeypatch.setattr(settings, "EMAIL_HOSTS", hosts)
            with pytest.raises(
                InvalidEmailHost, match=r'EMAIL_HOSTS\["x"\]: .*reply_to.*text'
            ):
                get_connection("x", reply_to=5)


@pytest.mark.parametrize("given", ["{", "{Kx7vQz9}", '{"a": 1} b', '{"a":' * 100_000])
def test_brace_without_a_json_object_is_refused(given):
    with pytest.raises(InvalidEmailHost) as caught:
        parse(f"backend://a.b.C?x={given}")
    assert str(caught.value) == "option 'x' starts with a brace and must be a JSON object"
