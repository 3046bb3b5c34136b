"""Outside of production: nobody but those who are allowed gets mail."""

import email
import pickle
import smtplib
from datetime import date
from decimal import Decimal
from email.utils import getaddresses
from itertools import chain
from typing import Any
from unittest import mock

import pytest
from conftest import Recorder
from django.core.mail import EmailMessage
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from email_hosts.backends import EmailHostsBackend, HostBackend
from email_hosts.exceptions import InvalidEmailHost

QA = "qa@example.com"
ORIGINAL = "X-Original-To"
OPTIONS: Any = {"redirect_to": QA, "allowed_recipients": ["example.org", "boss@example.net"]}


def redirected(message: EmailMessage, **options: Any) -> EmailMessage:
    """Return the message as a host sends it."""
    given = {"alias": "shop", **OPTIONS, **options}
    return HostBackend("conftest.Recorder", **given).apply_host(message)


def fields(message: EmailMessage) -> tuple[list[str], list[str], list[str]]:
    return message.to, message.cc, message.bcc


# Recipients that might be read as somebody else, by somebody.
NOT_SURE = [
    *("example.org", "<>", "me@[example.org]", "Boss@example.net", "me@sub.example.org"),
    *("me@notexample.org", "müller@example.org", "group: me@example.org;"),
    *("me@example.org, you@x.example", "me@example.org you@x.example", "me@example.org\r"),
    *("me.=?utf-8?q?you?=@example.org", "=?utf-8?q?you=40x=2Eexample=2C?= <me@example.org>"),
    *("me@example.org <you@x.example>", "you@x.example (me@example.org)"),
    *('"you@x.example"@example.org', '"a\\" <you@x.example>, b" <me@example.org>'),
    *("@example.org:you@x.example", '"Me"\n<me@example.org>', "Me\u2028 <me@example.org>"),
]

# Who is allowed, who gets mail then, and who does not.
ALLOWED: list[tuple[list[str], list[str], list[str]]] = [
    (["example.org"], ["me@EXAMPLE.org", " me+x@example.org ", QA], ["you@example.net"]),
    (["example.org"], ["Dr. Müller <me@example.org>", '"Me, too" <me@example.org>'], []),
    (["boss@example.net"], ["boss@Example.Net"], ["Boss@example.net"]),
    (["bücher.example"], ["a@BÜCHER.example", "a@XN--bcher-kva.example"], []),
    (["bücher.example"], [], ["a@bu\u0308cher.example", "a@mehr.bücher.example"]),
    (["a@xn--bcher-kva.example"], ["a@BÜCHER.example"], ["b@bücher.example"]),
    (["xn--strae-oqa.example"], ["a@xn--strae-oqa.example"], ["a@straße.example"]),
    (["strasse.example"], [], ["a@straße.example"]),
    ([], [], ["a@example.org"]),
]


class TestRecipients:
    """Some stay. One address stands in the place of all others."""

    @pytest.mark.parametrize("recipient", NOT_SURE)
    def test_are_replaced_unless_they_are_surely_allowed(self, recipient, new_message):
        message = redirected(new_message(to=[recipient]))
        assert message.to == message.recipients() == [QA]
        assert message.message()["To"] == QA  # no line break is in the header that tells

    @pytest.mark.parametrize(("allowed", "stay", "others"), ALLOWED)
    def test_stay_if_they_are_allowed(self, allowed, stay, others, new_message):
        """Of "straße", IDNA 2003 makes another name than IDNA 2008."""
        expected = {**{each: each for each in stay}, **dict.fromkeys(others, QA)}
        for to in expected:
            message = redirected(new_message(to=[to]), allowed_recipients=allowed)
            assert message.recipients() == [expected[to]]

    @pytest.mark.parametrize(
        ("given", "expected", "is_redirected"),
        [
            ("A <a@x.example>|me@example.org|b@x.example", "{QA}|me@example.org|", True),
            ("me@example.org|a@x.example|b@x.example", "me@example.org|{QA}|", True),
            ("||a@x.example,me@example.org", "||{QA},me@example.org", True),
            ("QA <{QA}>|a@x.example|b@x.example", "QA <{QA}>||", True),
            ("me@example.org||boss@example.net", "me@example.org||boss@example.net", False),
            ("||", "||", False),
        ],
    )
    def test_stay_in_their_field(self, given, expected, is_redirected, new_message):
        """One header tells who they would have been."""
        to, cc, bcc = (field.split(",") for field in given.format(QA=QA).split("|"))
        message = new_message(to=to, cc=cc, bcc=bcc)
        found = redirected(message)
        assert "|".join(map(",".join, fields(found))) == expected.format(QA=QA)
        assert found.recipients() == [*chain(*fields(found))]
        told = ", ".join(message.recipients()) if is_redirected else None
        assert found.extra_headers.get(ORIGINAL) == told


class TestHeaders:
    """The one with the original recipients is the host's. No other tells of somebody else."""

    @pytest.mark.parametrize(
        ("to", "shown"), [("me@example.org", "mine"), ("a@x.example", "a@x.example")]
    )
    def test_own_one_stays_if_nobody_is_redirected(self, to, shown, new_message):
        message = new_message(to=[to], headers={"x-original-to": "mine"})
        assert redirected(message).message().get_all(ORIGINAL) == [shown]

    @pytest.mark.parametrize(("to", "shown"), [("a@x.example", QA), ("boss@example.net",) * 2])
    def test_with_recipients_are_left_out(self, to, shown, new_message):
        names = "To CC Bcc Resent-To resent-cc Resent-Bcc X-SMTPAPI X-MSYS-API X-MC-BccAddress"
        others = dict.fromkeys([*names.split(), "To "], "you@x.example")
        headers = {**others, "X-Shop": "1"}
        message = new_message(to=[to], headers={**headers})
        found = redirected(message).message()
        assert b"you@x.example" not in found.as_bytes()
        assert (found["To"], found["X-Shop"]) == (shown, "1")
        assert message.extra_headers == headers


class Suppressing(EmailMessage):
    """Knows better who the recipients are."""

    def recipients(self):
        return ["A <a@x.example>", "me@example.org", "boss@example.net"]


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("x@x.example,you@example.org", [QA, "me@example.org", "boss@example.net"]),
        ("boss@example.net", ["boss@example.net", "me@example.org", QA]),
    ],
)
def test_overridden_recipients_are_the_truth(to, expected):
    message = Suppressing("Hello", to=to.split(","))
    before = {**vars(message)}
    found = redirected(message)
    assert fields(found) == (expected[:1], [], expected[1:])
    assert found.extra_headers[ORIGINAL] == ", ".join(message.recipients())
    assert vars(message) == before
    assert pickle.loads(pickle.dumps(found)).recipients() == found.recipients() == expected


class ReadOnly(EmailMessage):
    """Raises an error where somebody sets its recipients."""

    recipients = property(lambda self: lambda: ["a@x.example"])


class Shadowing(EmailMessage):
    """Ignores what is set as its ``recipients``."""

    recipients = property(lambda self: lambda: ["a@x.example"], lambda self, value: None)


class Keeping(EmailMessage):
    """Ignores what is set as its ``to``."""

    to = property(lambda self: ["a@x.example"], lambda self, value: None)


@pytest.mark.parametrize("kind", [ReadOnly, Shadowing, Keeping])
def test_message_whose_recipients_cannot_be_replaced_is_refused(kind):
    with pytest.raises(InvalidEmailHost, match=r'\["shop"\]'):
        redirected(kind("Hello", to=["a@x.example"]))


LAZY = gettext_lazy("a@x.example")


class TestAnymailAttributes:
    """What makes a provider send to others is refused."""

    @pytest.mark.parametrize(
        ("name", "value", "is_fine"),
        [
            *((f"merge_{what}", {}, False) for what in ("data", "headers", "metadata")),
            ("personalizations", {}, False),
            *(("merge_data", value, True) for value in (None, EmailMessage)),
            ("merge_global_data", {"a": "b"}, True),
            ("esp_extra", {"personalizations": [{"to": [{"email": "a@x.example"}]}]}, False),
            ("esp_extra", {"bcc": ("a", LAZY)}, False),
            ("esp_extra", SimpleLazyObject(lambda: {"a": LAZY}), False),
            ("esp_extra", {"a@x.example": 1}, False),
            ("esp_extra", {"to": iter(["a@x.example"])}, False),
            ("esp_extra", {"o:tag": ["shop", gettext_lazy("club")], "group": {5}}, True),
            ("esp_extra", {"o:at": date.today(), "price": Decimal("1.5"), "x": None}, True),
            ("esp_extra", EmailMessage, True),  # Anymail's "not set" is a class
        ],
    )
    def test_is_refused_unless_it_surely_does_not(self, name, value, is_fine, message):
        setattr(message, name, value)
        assert redirected(message, redirect_to="", allowed_recipients=[]) is message
        if is_fine:
            assert redirected(message).recipients() == [QA]
            return
        with pytest.raises(InvalidEmailHost) as caught:
            redirected(message)
        setting = "EMAIL_HOSTS[\"shop\"]: option '_redirect_to' cannot be combined with "
        assert str(caught.value).startswith(f"{setting}{name}" if value == {} else setting)
        assert "a@x.example" not in str(caught.value)

    def test_is_refused_among_the_defaults_of_a_project(self):
        backend: Any = Recorder()
        backend.send_defaults = {"bcc": ["archive@x.example"]}
        with pytest.raises(InvalidEmailHost, match="with bcc in SEND_DEFAULTS"):
            HostBackend(backend, **OPTIONS)


LOCAL_PARTS = st.sampled_from(["me", "boss", "you", "qa", '"a b"', "Boss", "ä", ""])
NAMES = "example.org example.net EXAMPLE.ORG x.example sub.example.org example.com"
DOMAINS = st.sampled_from(NAMES.split())
ADDRESSES = st.builds("{}@{}".format, LOCAL_PARTS, DOMAINS)
PIECES = st.lists(
    ADDRESSES | st.text(max_size=5) | st.sampled_from([*'<>(),;:"\\ \n', "=?utf-8?q?", "?="]),
    max_size=6,
).map("".join)
PEOPLE = st.lists(ADDRESSES | PIECES, max_size=4)


def is_fine(address: str) -> bool:
    local_part, _, domain = address.rpartition("@")
    is_boss = local_part == "boss" and domain.lower() == "example.net"
    return address == QA or is_boss or domain.lower() == "example.org"


@pytest.mark.fuzz
@given(PEOPLE, PEOPLE, PEOPLE, PIECES)
def test_nobody_else_is_in_the_envelope_or_in_a_header(to, cc, bcc, header):
    message = EmailMessage("Hello", to=to, cc=cc, bcc=bcc, headers={"To": header})
    backend = EmailHostsBackend("h", **OPTIONS)
    backend.connection = mock.Mock(spec=smtplib.SMTP)
    backend.connection.sendmail.return_value = {}
    assert backend.send_messages([message]) == bool(message.recipients())
    for (_, recipients, content), _ in backend.connection.sendmail.call_args_list:
        sent = email.message_from_bytes(content)
        headers = [sent.get_all(name, []) for name in ("To", "Cc", "Bcc")]
        told = getaddresses([*recipients, *chain(*headers)])
        assert [address for _, address in told if not is_fine(address)] == []
    found = redirected(message)
    assert found.recipients() == [*chain(*fields(found))]
