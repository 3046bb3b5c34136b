"""The options in the query of a DSN. What the values may be is in ``test_options.py``."""

from typing import Any

import pytest

from email_hosts.dsn import parse
from email_hosts.exceptions import InvalidEmailHost


def options(query: str, dsn: str = "smtp://h") -> Any:
    """Return what a query adds to the options of a host."""
    plain = parse(dsn)["OPTIONS"]
    given = parse(f"{dsn}?{query}")["OPTIONS"]
    return {name: value for name, value in given.items() if plain.get(name) != value}


def test_each_header_has_an_option_of_its_own():
    query = "_header-X-PM-Message-Stream=broadcast&_header-x-shop=a%26b+c%20d@e&timeout=5"
    assert options(query) == {
        "headers": {"X-PM-Message-Stream": "broadcast", "x-shop": "a&b+c d@e"},
        "timeout": 5,
    }


@pytest.mark.parametrize(
    "dsn", ["console://", "file:out", "failover:a,b", "anymail+mailgun://", "backend://a.b.C"]
)
def test_what_a_host_does_to_a_message_is_for_any_scheme(dsn):
    query = "_reply_to=a@b&_envelope_from=c@d&_header-X=1&_redirect_to=e@f"
    plain = parse(dsn)
    assert parse(f"{dsn}?{query}") == {
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


NAME = "must name a header in printable ASCII without spaces and colons, like X-Shop"
OWN = "is not for a host to add: each message has its own"
CONTROL = "has a control character; remove it (a line break?)"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        *((name, "x", OWN) for name in ("To", "cc", "BCC", "Sender", "Subject", "Date")),
        *((name, "x", OWN) for name in ("Message-ID", "MIME-Version", "Content-Type")),
        *((name, "x", OWN) for name in ("content-transfer-encoding", "Resent-To")),
        ("From", "x", "is not for a host to add; write _default_from_email"),
        ("reply-to", "x", "is not for a host to add; write _reply_to"),
        ("Return-Path", "x", "is not for a host to add; write _envelope_from"),
        *((name, "x", NAME) for name in ("", "X:", "X Y", "Ä")),
        ("X", "", "must have a value"),
        *(("X", value, CONTROL) for value in ("a%0Ab", "a%0D%0Ab", "%00", "a%E2%80%A8b")),
    ],
)
def test_header_that_is_not_for_all_messages_is_refused(name, value, reason):
    with pytest.raises(InvalidEmailHost) as caught:
        parse(f"smtp://h?_header-{name}={value}")
    assert str(caught.value) == f"option '_header-{name}' {reason}"


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("_header-X-A=1&_header-x-a=2", "option '_header-x-a' is given twice"),
        ("_reply_to=a@b&_reply_to=a@b", "option '_reply_to' is given twice"),
        ("_header=1", "unknown option '_header'; did you mean '_header-NAME'?"),
        ("_redirect=a@b", "unknown option '_redirect'; did you mean '_redirect_to'?"),
        ("reply_to=a@b", "unknown option 'reply_to'; did you mean '_reply_to'?"),
        (
            "_allowed_recipients=a@b",
            "option '_allowed_recipients' needs '_redirect_to' beside it, the address that "
            "gets the mail to all others",
        ),
    ],
)
def test_refusal_names_the_option(query, reason):
    for dsn in ("smtp://h", "console://"):
        with pytest.raises(InvalidEmailHost) as caught:
            parse(f"{dsn}?{query}")
        assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("headers", "'_header-NAME'"),
        ("reply_to", "'_reply_to'"),
        ("redirect_to", "'_redirect_to'"),
        ("_redirct_to", "'_redirect_to'"),
        ("_x", "option"),
    ],
)
def test_option_of_another_backend_cannot_have_the_name_that_a_host_takes(name, hint):
    with pytest.raises(InvalidEmailHost, match=f"'{name}' cannot be the name .* {hint}"):
        parse(f"backend://a.b.C?{name}=x")
