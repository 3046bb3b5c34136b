"""Outside of production: nobody but those who are allowed gets mail."""

import email
import pickle
import smtplib
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from decimal import Decimal
from email import policy
from email.utils import getaddresses
from itertools import chain
from typing import Any
from unittest import mock

import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from email_hosts.backends import EmailHostsBackend, HostBackend, get_connection
from email_hosts.exceptions import InvalidEmailHost

QA = "qa@example.com"
ORIGINAL = "X-Original-To"
OPTIONS: dict[str, Any] = {
    "redirect_to": QA,
    "allowed_recipients": ["example.org", "boss@example.net"],
}
QUERY = f"_redirect_to={QA}&_allowed_recipients=example.org,boss@example.net"
LOCMEM = "django.core.mail.backends.locmem.EmailBackend"


class Relay(EmailBackend):
    """A project's own."""


def host(**options: Any) -> Any:
    """Return a host that redirects."""
    return HostBackend(LOCMEM, **{**OPTIONS, **options})


def fields(message: EmailMessage) -> tuple[list[str], list[str], list[str]]:
    return message.to, message.cc, message.bcc


# Recipients that might be read as somebody else, by somebody.
NOT_SURE = [
    "Boss@example.net",
    "me@sub.example.org",
    "me@notexample.org",
    "me@example.org.evil.example",
    "me@example.org.",
    "me@example.org, you@x.example",
    "me@example.org; you@x.example",
    "me@example.org you@x.example",
    "=?utf-8?q?you=40x.example=2C?=@example.org",
    "me.=?utf-8?q?you?=@example.org",
    "me@example.org <you@x.example>",
    '"me@example.org" <you@x.example>, x@example.org',
    "<you@x.example> me@example.org",
    "<you@x.example><me@example.org>",
    "me@example.org (comment)",
    "you@x.example (me@example.org)",
    '"you@x.example"@example.org',
    '"a\\" <you@x.example>, b" <me@example.org>',
    "=?utf-8?q?you=40x=2Eexample=2C?= <me@example.org>",
    "@example.org:you@x.example",
    "you@x.example@example.org",
    "group: me@example.org;",
    "me@example.org\nBcc: you@x.example",
    "Me\r\nBcc: you@x.example <me@example.org>",
    *("\nme@example.org", "me@example.org\r", "Me\u2028 <me@example.org>"),
    '"Me"\n<me@example.org>',
    "müller@example.org",
    "me@[example.org]",
    *("example.org", "@example.org", "me", "<>", "\N{KELVIN SIGN}"),
]


class TestRecipients:
    """Some stay. One address stands in the place of all others."""

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (["me@EXAMPLE.org"], ["me@EXAMPLE.org"]),
            (["Me <me@example.org>"], ["Me <me@example.org>"]),
            (["Dr. Müller <me@example.org>"], ["Dr. Müller <me@example.org>"]),
            (['"Me, myself" <me@example.org>'], ['"Me, myself" <me@example.org>']),
            ([" me+x@example.org "], [" me+x@example.org "]),
            (["boss@Example.Net"], ["boss@Example.Net"]),
            (["you@example.net"], [QA]),
            (["you@x.example", "they@x.example"], [QA]),
            (["you@x.example", "me@example.org"], [QA, "me@example.org"]),
            (["me@example.org", "you@x.example"], ["me@example.org", QA]),
            (["you@x.example", QA], [QA]),
            ([QA], [QA]),
            ([f"QA <{QA}>", "you@x.example"], [f"QA <{QA}>"]),
            (["me@example.org", ""], ["me@example.org"]),
            *(([recipient], [QA]) for recipient in NOT_SURE),
        ],
    )
    def test_stay_if_it_is_sure_that_they_are_allowed(self, given, expected, new_message):
        message = host().apply_host(new_message(to=given))
        assert message.to == message.recipients() == expected

    @pytest.mark.parametrize(
        ("allowed", "recipient", "stays"),
        [
            ("bücher.example", "a@BÜCHER.example", True),
            ("bücher.example", "a@XN--bcher-kva.example", True),
            ("a@xn--bcher-kva.example", "a@BÜCHER.example", True),
            ("a@xn--bcher-kva.example", "b@bücher.example", False),
            ("bücher.example", "a@bu\u0308cher.example", False),
            ("bücher.example", "a@bucher.example", False),
            ("bücher.example", "a@mehr.bücher.example", False),
            # Of "straße", IDNA 2003 makes another name than IDNA 2008.
            ("xn--strae-oqa.example", "a@xn--strae-oqa.example", True),
            ("xn--strae-oqa.example", "a@straße.example", False),
            ("strasse.example", "a@straße.example", False),
            ("", "a@example.org", False),
        ],
    )
    def test_are_in_a_domain_of_another_script(self, allowed, recipient, stays, new_message):
        one = host(allowed_recipients=[allowed] if allowed else [])
        message = one.apply_host(new_message(to=[recipient]))
        assert message.recipients() == ([recipient] if stays else [QA])

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ((["a@x.example"], ["me@example.org"], ["b@x.example"]), "{QA}|me@example.org|"),
            ((["me@example.org"], ["a@x.example"], ["b@x.example"]), "me@example.org|{QA}|"),
            (([], [], ["a@x.example", "me@example.org"]), "||{QA},me@example.org"),
            (([QA], ["a@x.example"], ["b@x.example"]), "{QA}||"),
            (([], [], []), "||"),
            (([None, ""], [], []), "||"),
        ],
    )
    def test_stay_in_their_field(self, given, expected, new_message):
        to, cc, bcc = given
        message = host().apply_host(new_message(to=to, cc=cc, bcc=bcc))
        assert "|".join(map(",".join, fields(message))) == expected.format(QA=QA)
        assert message.recipients() == [*chain(*fields(message))]


class TestOriginal:
    """The recipients that a message would have are in one header."""

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (
                {"to": ["A <a@x.example>"], "cc": ["me@example.org"], "bcc": ["b@x.example"]},
                "A <a@x.example>, me@example.org, b@x.example",
            ),
            ({"to": ["me@example.org"]}, None),
            ({"to": ["me@example.org"], "headers": {ORIGINAL: "mine"}}, "mine"),
            ({"to": ["a@x.example"], "headers": {"x-original-to": "mine"}}, "a@x.example"),
        ],
    )
    def test_are_told_where_somebody_is_redirected(self, options, expected, new_message):
        message = host().apply_host(new_message(**options)).message()
        assert message.get_all(ORIGINAL, [None]) == [expected]

    @pytest.mark.parametrize("recipient", ["a@x.example\r\nBcc: b@x.example", "a\x85b", "ä@b"])
    def test_add_no_other_header(self, recipient, new_message):
        plain, other = (
            email.message_from_bytes(
                host().apply_host(new_message(to=[to])).message().as_bytes(),
                policy=policy.default,
            )
            for to in ("a@x.example", recipient)
        )
        assert other.keys() == plain.keys()
        assert other["To"] == QA


@pytest.mark.parametrize(
    "name",
    [
        *("To", "CC", "Bcc", "Resent-To", "resent-cc", "Resent-Bcc", "To ", "Cc\t"),
        *("X-SMTPAPI", "X-MSYS-API", "X-MC-BccAddress"),
    ],
)
@pytest.mark.parametrize(("to", "shown"), [("a@x.example", QA), ("me@example.org", None)])
def test_headers_with_recipients_are_left_out(name, to, shown, new_message):
    """They would show somebody else, or tell a backend of him."""
    message = new_message(to=[to], headers={name: "you@x.example", "X-Shop": "1"})
    found = host().apply_host(message).message()
    assert b"you@x.example" not in found.as_bytes()
    assert (found["To"], found["X-Shop"]) == (shown or to, "1")
    assert message.extra_headers == {name: "you@x.example", "X-Shop": "1"}


class Suppressing(EmailMessage):
    """Knows better who the recipients are."""

    people = ("A <a@x.example>", "b@x.example", "me@example.org", "boss@example.net")

    def recipients(self):
        return list(self.people)


class TestOverriddenRecipients:
    """What ``recipients()`` returns is the truth."""

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (
                (["x@x.example", "you@example.org"], ["Me <me@example.org>"], ["a@x.example"]),
                ([QA], ["Me <me@example.org>"], ["boss@example.net"]),
            ),
            (([], [], []), ([], [], ["me@example.org", "boss@example.net", QA])),
        ],
    )
    def test_decides_in_the_place_of_the_fields(self, given, expected):
        to, cc, bcc = given
        message = Suppressing("Hello", to=to, cc=cc, bcc=bcc)
        before = {**vars(message)}
        redirected = host().apply_host(message)
        assert fields(redirected) == expected
        assert redirected.extra_headers[ORIGINAL] == ", ".join(Suppressing.people)
        assert vars(message) == before
        copied = pickle.loads(pickle.dumps(redirected))
        assert copied.recipients() == redirected.recipients() == [*chain(*expected)]

    def test_may_be_nobody(self, monkeypatch):
        monkeypatch.setattr(Suppressing, "people", ())
        redirected = host().apply_host(Suppressing("Hello", to=["a@x.example"]))
        assert (fields(redirected), redirected.recipients()) == (([], [], []), [])


class ReadOnly(EmailMessage):
    """Has its recipients from elsewhere, and lets nobody set them."""

    to = property(lambda self: ["a@x.example"])

    def __init__(self, *args, **options):
        EmailMessage.__init__(self, *args, **options)

    def __setattr__(self, name, value):
        if name != "to":
            super().__setattr__(name, value)


class ReadOnlyProperty(EmailMessage):
    """Raises an error where somebody sets them."""

    recipients = property(lambda self: lambda: ["a@x.example"])


class Ignoring(EmailMessage):
    """Keeps what it was made with."""

    def __setattr__(self, name, value):
        vars(self).setdefault(name, value)


class Slotted(Suppressing):
    """Has a slot that shadows what is set."""

    @property
    def recipients(self):
        return lambda: ["a@x.example"]

    @recipients.setter
    def recipients(self, value):
        pass


class TwoFaced(str):
    """An address that is another one when it is looked at again."""

    looks = 0
    limit = 1

    def __str__(self):
        self.looks += 1
        return "me@example.org" if self.looks < self.limit else "a@x.example"

    def __new__(cls, limit):
        self = super().__new__(cls, "a@x.example")
        self.limit = limit
        return self


class TestStubbornMessage:
    """One whose recipients cannot be replaced is refused, and goes to nobody."""

    @pytest.mark.parametrize("kind", [ReadOnly, ReadOnlyProperty, Ignoring, Slotted])
    def test_is_refused_where_it_would_be_redirected(self, kind, serve):
        server = serve()
        message = kind("Hello", to=["a@x.example"])
        address = ("127.0.0.1", server.port)
        with pytest.raises(InvalidEmailHost, match=r'\["shop"\]'):
            EmailHostsBackend(*address, alias="shop", **OPTIONS).send_messages([message])
        assert server.accepted == []
        assert EmailHostsBackend(*address).send_messages([message]) == 1

    @pytest.mark.parametrize("limit", range(1, 9))
    def test_address_that_changes_goes_to_nobody_else(self, limit, serve):
        server = serve()
        backend = EmailHostsBackend("127.0.0.1", server.port, **OPTIONS)
        with suppress(InvalidEmailHost):
            backend.send_messages([EmailMessage("Hello", to=[TwoFaced(limit)])])
        told = {recipient for one in server.accepted for recipient in one.recipients}
        assert told <= {QA, "me@example.org"}
        assert not any(b"\nTo: a@x.example" in one.content for one in server.accepted)


@pytest.fixture
def send(serve, settings) -> Callable[..., Any]:
    """Send messages through SMTP, and return the recipients and the headers of each."""

    def send(*messages: EmailMessage, key: str = "shop", **options: Any) -> Any:
        server = serve()
        address = f"smtp://127.0.0.1:{server.port}?"
        settings.EMAIL_HOSTS = {
            "shop": address + QUERY,
            "spare": f"{address}_redirect_to=spare@example.com",
            "django": f"backend://{__name__}.Relay?host=127.0.0.1&port={server.port}&{QUERY}",
            "all": "failover:shop,spare",
            "outer": f"failover:bare?{QUERY}",
            "bare": address,
        }
        connection = get_connection(key, **options)
        assert connection.send_messages(messages) == len(messages)
        connection.close()  # Django's backend leaves that to its user
        return [
            (
                list(one.recipients),
                email.message_from_bytes(one.content, policy=policy.default),
            )
            for one in server.accepted
        ]

    return send


class TestEnvelope:
    """It is that of the header, and nobody else is told to the server."""

    @pytest.mark.parametrize("key", ["shop", "django", "outer", "all"])
    def test_has_those_of_the_header(self, key, send, new_message):
        people = ["you@x.example", "Me <me@example.org>"]
        message = new_message(to=people, bcc=["b@x.example"])
        ((recipients, received),) = send(message, key=key)
        assert recipients == [QA, "me@example.org"]
        assert received["To"] == f"{QA}, Me <me@example.org>"
        assert received[ORIGINAL] == "you@x.example, Me <me@example.org>, b@x.example"
        assert received["Bcc"] is None

    @pytest.mark.parametrize("options", [{}, {"parallel": 3}])
    def test_is_so_for_each_message(self, options, send, new_message):
        messages = [new_message(to=[f"{number}@x.example"]) for number in range(60)]
        received = send(*messages, **options)
        assert {tuple(recipients) for recipients, _ in received} == {(QA,)}
        assert {each[ORIGINAL] for _, each in received} == {m.to[0] for m in messages}

    def test_is_so_for_a_thousand_recipients(self, send, new_message):
        people = [f"someone{number}@x.example" for number in range(1000)]
        ((recipients, received),) = send(new_message(bcc=people, to=[]))
        assert recipients == [QA]
        assert received[ORIGINAL].split(", ") == people

    def test_is_for_nobody_if_the_message_is(self, serve, new_message):
        server = serve()
        backend = EmailHostsBackend("127.0.0.1", server.port, **OPTIONS)
        assert backend.send_messages([new_message(to=[])]) == 0
        assert server.accepted == []


class TestFailover:
    """Each member has its own idea of who may get mail."""

    @pytest.fixture
    def spare(self, serve, settings):
        """The server of the host that comes next. The first one is down."""
        first, second = serve(lambda step, _: "451 later" if step == "MAIL" else None), serve()
        settings.EMAIL_HOSTS = {
            "shop": f"smtp://127.0.0.1:{first.port}?{QUERY}",
            "spare": f"smtp://127.0.0.1:{second.port}?_redirect_to=spare@example.com"
            "&_allowed_recipients=x.example",
            "all": "failover:shop,spare",
        }
        return second

    def test_next_host_redirects_the_message_of_the_caller(self, spare, new_message):
        people = ["me@example.org", "you@x.example"]
        assert get_connection("all").send_messages([new_message(to=people)]) == 1
        (received,) = spare.accepted
        assert received.recipients == ("spare@example.com", "you@x.example")
        assert b"X-Original-To: me@example.org, you@x.example" in received.content

    def test_refused_message_is_not_for_the_next_host(self, spare, message):
        """Which may not redirect."""
        message.merge_data = {}
        with pytest.raises(InvalidEmailHost, match=r'\["shop"\]: .*merge_data'):
            get_connection("all").send_messages([message])
        assert spare.accepted == []


class Unset:
    """Anymail's "not set" is a class."""


LAZY = gettext_lazy("a@x.example")


class TestAnymailAttributes:
    """What makes a provider send to others is refused."""

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("merge_data", {"a@x.example": {}}),
            ("merge_data", {}),
            ("merge_metadata", {}),
            ("merge_headers", {}),
            ("esp_extra", {"personalizations": [{"to": [{"email": "a@x.example"}]}]}),
            ("esp_extra", {"bcc": ("a", LAZY)}),
            ("esp_extra", SimpleLazyObject(lambda: {"a": SimpleLazyObject(lambda: LAZY)})),
            ("esp_extra", {"a@x.example": 1}),
            ("esp_extra", {"to": iter(["a@x.example"])}),
        ],
    )
    def test_is_refused_with_what_to_do(self, name, value, message):
        setattr(message, name, value)
        with pytest.raises(InvalidEmailHost) as caught:
            host(alias="shop").apply_host(message)
        text = str(caught.value)
        assert text.startswith(
            "EMAIL_HOSTS[\"shop\"]: option '_redirect_to' cannot be combined with "
        )
        assert f"{name} in the message" in text
        assert "a@x.example" not in text
        assert host(redirect_to="", allowed_recipients=[]).apply_host(message) is message

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("merge_data", None),
            ("merge_data", Unset),
            ("merge_global_data", {"a": "b"}),
            ("esp_extra", {"o:tag": ["shop", gettext_lazy("club")]}),
            ("esp_extra", {"o:at": datetime.now(timezone.utc), "price": Decimal("1.5")}),
            ("esp_extra", {"track": True, "group": {5}, "x": None}),
            ("esp_extra", Unset),
        ],
    )
    def test_is_fine_if_it_does_not(self, name, value, message):
        setattr(message, name, value)
        assert host().apply_host(message).recipients() == [QA]

    @pytest.mark.parametrize("name", ["to", "cc", "bcc", "merge_data"])
    def test_is_refused_among_the_defaults_of_a_project(self, name):
        backend = host().wrapped
        backend.send_defaults = {name: ["archive@x.example"]}
        with pytest.raises(InvalidEmailHost, match=f"with {name} in SEND_DEFAULTS"):
            HostBackend(backend, **OPTIONS)
        assert HostBackend(backend).wrapped is backend


LOCAL_PARTS = st.sampled_from(["me", "boss", "you", "qa", '"a b"', "Boss", "ä", ""])
DOMAINS = st.sampled_from(
    [
        "example.org",
        "example.net",
        "EXAMPLE.ORG",
        "x.example",
        "sub.example.org",
        "example.com",
    ]
)
ADDRESSES = st.builds("{}@{}".format, LOCAL_PARTS, DOMAINS)
PIECES = st.lists(
    ADDRESSES | st.text(max_size=5) | st.sampled_from([*'<>(),;:"\\ \n', "=?utf-8?q?", "?="]),
    max_size=6,
).map("".join)
PEOPLE = st.lists(ADDRESSES | PIECES, max_size=4)


def is_fine(address: str) -> bool:
    local_part, _, domain = address.rpartition("@")
    return address == QA or (
        domain.lower() == "example.org"
        or (local_part == "boss" and domain.lower() == "example.net")
    )


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
    redirected = host().apply_host(message)
    assert redirected.recipients() == [*chain(*fields(redirected))]
