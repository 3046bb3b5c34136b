"""A real mail server gets what Django's own backend would give it, once. ``-m mta``

Postfix accepts the mail, with STARTTLS and login, and relays it to a server of the tests.
"""

from __future__ import annotations

import re
import smtplib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import postfix
import pytest
import trustme
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from django.test import override_settings
from scripted import Accepted, ScriptedServer

from email_hosts.backends import can_be_retried, get_connection

pytestmark = [
    pytest.mark.mta,
    pytest.mark.skipif(bool(postfix.why_not()), reason=postfix.why_not()),
]


class Relay:
    """A Postfix, the host that sends through it, and the server that it relays to."""

    def __init__(self, mta: postfix.Postfix, behind: ScriptedServer, cafile: Path) -> None:
        self.mta = mta
        self.behind = behind
        self.login = {"username": postfix.USERNAME, "password": postfix.PASSWORD}
        self.dsn = (
            f"submission://{postfix.USERNAME}:{postfix.PASSWORD}@localhost:{mta.port}"
            f"?ssl_cafile={cafile}&conn_max_age=600"
        )

    def djangos(self) -> EmailBackend:
        """Return Django's own backend."""
        options = {"host": "localhost", "port": self.mta.port, "use_tls": True, **self.login}
        return EmailBackend(**options, alias="x")  # without an alias, Django 6.1 warns

    def arrived(self) -> list[Accepted]:
        """Return what has arrived, once nothing is on its way any more."""
        self.mta.deliver()
        arrived = [without_trace(one) for one in self.behind.accepted]
        self.behind.accepted.clear()
        return arrived

    def subjects(self) -> Counter[str]:
        """Return how often each message has arrived."""
        contents = [one.content.decode() for one in self.arrived()]
        return Counter(re.findall(r"^Subject: (.*)\r$", "\n".join(contents), re.MULTILINE))


def without_trace(one: Accepted) -> Accepted:
    """Return a message without what is never the same: Postfix's header, MIME boundaries."""
    content = re.sub(rb"\AReceived: .*?\r\n(?=\S)", b"", one.content, flags=re.DOTALL)
    return one._replace(content=re.sub(rb"={15}\d+==", b"boundary", content))


def new_message(
    subject: str,
    body: str = "Hello",
    *,
    sender: str = "sender@example.com",
    to: Sequence[str] = ("someone@example.net",),
) -> EmailMessage:
    """Return a message that is the same each time it is made."""
    headers = {
        "Date": "Sat, 21 Nov 2026 12:00:00 +0000",
        "Message-ID": f"<{subject}@x.example>",
    }
    return EmailMessage(subject, body, sender, to, headers=headers)


@pytest.fixture(scope="module")
def running(ca: trustme.CA, cafile: Path) -> Iterator[Relay]:
    """One for all tests: it takes a moment to start."""
    certificate = ca.issue_cert("localhost")
    with (
        ScriptedServer() as behind,
        postfix.Postfix(certificate, relay_port=behind.port) as mta,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("SSL_CERT_FILE", str(cafile))  # Django's backend trusts the system
        yield Relay(mta, behind, cafile)


@pytest.fixture
def relay(running: Relay) -> Iterator[Relay]:
    """The relay, before anything has arrived, as the host ``relay``."""
    running.behind.accepted.clear()
    with override_settings(EMAIL_HOSTS={"relay": running.dsn}):
        yield running


@pytest.mark.parametrize("recipients", [1, 50])
def test_batch_arrives_once(recipients: int, relay: Relay) -> None:
    to = [f"{number}@example.net" for number in range(recipients)]
    batch = [new_message(f"m{number}", to=to) for number in range(500)]
    relay.djangos().send_messages(batch[:1])
    (first,) = relay.arrived()
    assert get_connection("relay").send_messages(batch) == 500
    assert Counter(relay.arrived()) == Counter(
        first._replace(content=first.content.replace(b"m0", b"m%d" % number))
        for number in range(500)
    )


def with_attachment(name: str, content: str | bytes, mimetype: str) -> EmailMessage:
    """Return a message with an attachment."""
    message = new_message(name)
    message.attach(name, content, mimetype)
    return message


DOTTED = f".{'x' * 57} é\n..\n" * 32_000  # two megabytes


@pytest.mark.parametrize(
    "message",
    [
        new_message("8-bit", "Grüße, ありがとう\n.Ä\n"),
        new_message("dots", ".\n..\n.\r\n\n...a\n."),
        new_message("IDN", sender="a@bücher.example", to=["b@müller.example"]),
        with_attachment("dots.txt", DOTTED, "text/plain"),
        # In ASCII: Django 4.2 can attach no other message.
        with_attachment("dots.eml", "To: x\n\n" + DOTTED.replace("é", ""), "message/rfc822"),
        with_attachment("binary", bytes(range(256)) * 8_000, "application/octet-stream"),
    ],
    ids=lambda message: message.subject,
)
def test_content_is_what_django_delivers(message: EmailMessage, relay: Relay) -> None:
    relay.djangos().send_messages([message])
    expected = relay.arrived()
    get_connection("relay").send_messages([message, message])
    get_connection("relay").send_messages([message])
    assert relay.arrived() == 3 * expected


class TestRestart:
    """Postfix is stopped and started again."""

    def test_between_two_sends_costs_nothing_but_a_connection(self, relay: Relay) -> None:
        get_connection("relay").send_messages([new_message("before")])
        relay.mta.deliver()  # it may double what it is relaying
        relay.mta.restart()
        get_connection("relay").send_messages([new_message("after")])
        assert relay.subjects() == {"before": 1, "after": 1}

    def test_while_a_connection_is_open_is_an_error_that_can_be_retried(
        self, relay: Relay
    ) -> None:
        with get_connection("relay") as connection:
            connection.send_messages([new_message("before")])
            relay.mta.deliver()
            relay.mta.restart()
            with pytest.raises(smtplib.SMTPServerDisconnected) as caught:
                connection.send_messages([new_message("after")])
            assert can_be_retried(caught.value)
            connection.send_messages([new_message("after")])
        assert relay.subjects() == {"before": 1, "after": 1}

    def test_while_mail_is_sent_loses_and_doubles_nothing(self, relay: Relay) -> None:
        relay.mta.set("defer_transports", "smtp")
        sent: list[str] = []
        reported: list[str] = []
        many, over = threading.Event(), threading.Event()

        def send() -> None:
            for number in range(300):
                subject = f"m{number}"
                while subject not in sent + reported and not over.is_set():
                    try:
                        get_connection("relay").send_messages([new_message(subject)])
                        sent.append(subject)
                    except OSError as error:
                        if not can_be_retried(error):
                            reported.append(subject)
                if number == 100:
                    many.set()

        with ThreadPoolExecutor(max_workers=1) as executor:
            sending = executor.submit(send)
            try:
                assert many.wait(60)
                relay.mta.restart()
                sending.result(60)
            finally:
                over.set()
        relay.mta.set("defer_transports", "")
        relay.mta.control("flush")
        assert len(sent) > 100
        arrived = relay.subjects()
        assert {subject: arrived.pop(subject) for subject in sent} == dict.fromkeys(sent, 1)
        assert arrived.keys() <= set(reported)
        assert set(arrived.values()) <= {1}
