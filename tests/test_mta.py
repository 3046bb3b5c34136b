"""Real mail servers get what Django's own backend would give them, once."""

import re
import smtplib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any
from urllib.parse import quote

import mta
import pytest
from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from django.test import override_settings
from mta.debian import Chasquid, Exim
from mta.node import Haraka, SMTPServer
from mta.postfix import Postfix
from scripted import ScriptedServer

from email_hosts.backends import can_be_retried, get_connection

pytestmark = pytest.mark.slow


class Relay:
    """A mail server and how to send through it: with STARTTLS and login, or without."""

    def __init__(self, server, cafile, *, tls):
        self.server = server
        self.options: dict[str, Any] = {"host": "localhost", "port": server.port}
        self.dsn = f"smtp://localhost:{server.port}?timeout=10"
        if tls:
            login = {"username": server.username, "password": server.password}
            self.options |= {"use_tls": True, **login}
            self.dsn = (
                f"submission://{quote(server.username, safe='')}:{server.password}"
                f"@localhost:{server.port}?ssl_cafile={cafile}&timeout=10"
            )

    def delivered(self):
        """Return how often each message has been delivered since the last time."""
        return Counter(map(without_trace, self.server.delivered()))

    def subjects(self):
        """Return how often a message of each subject has been delivered."""
        contents = [one.content.decode() for one in self.server.delivered()]
        return Counter(re.findall(r"^Subject: (.*)\r$", "\n".join(contents), re.MULTILINE))

    @cache  # noqa: B019 (one for all tests)
    def djangos_version(self, *messages):
        """Return what is delivered if Django's backend sends these."""
        # Without an alias, Django 6.1 warns.
        EmailBackend(**self.options, alias="x").send_messages(messages)
        return self.delivered()


# Without a login, chasquid looks for the SPF record of the sender's domain, but asks nobody
# for a name like this (RFC 7686).
SENDERS = "example.onion"
TO = ["someone@example.net", "other@example.net"]


def without_trace(one):
    """Return a message without what is never the same: trace headers, MIME boundaries."""
    content = re.sub(
        rb"\A((Received|Received-SPF|Authentication-Results): .*?\r\n(?=\S))+",
        b"",
        one.content,
        flags=re.DOTALL,
    )
    return one._replace(content=re.sub(rb"={15}\d+==", b"boundary", content))


def new_message(subject, body="Hello", *, sender=f"sender@{SENDERS}", to=TO[:1]):
    """Return a message that is the same each time it is made."""
    headers = {"Date": "Sat, 21 Nov 2026 12:00:00 +0000", "Message-ID": f"<{subject}@x.test>"}
    return EmailMessage(subject, body, sender, to, headers=headers)


def with_attachment(name, content, mimetype):
    message = new_message(name)
    message.attach(name, content, mimetype)
    return message


LINE = "x" * 70 + "\n"
BODIES = ["Hello", "", ".\n..\n.", "Grüße\n", LINE * 10, LINE * 231, LINE * 600]
# Of many sizes, to one recipient or two.
FIFTY = tuple(
    new_message(
        f"m{number}",
        BODIES[number % len(BODIES)] + "y" * number,
        sender=f"sender{number}@{SENDERS}",
        to=TO[: 1 + number % 2],
    )
    for number in range(50)
)


# Without TLS, too, where a server may read at once what was written one after the other, and
# is known not to cope.
KINDS = {
    **{kind.__name__: (kind, True) for kind in (Postfix, SMTPServer, Exim, Haraka, Chasquid)},
    **{f"{kind.__name__} without TLS": (kind, False) for kind in (Haraka, Chasquid)},
}


@pytest.fixture(scope="module", params=KINDS)
def running(request, ca, cafile):
    """One for all tests: it takes a moment to start."""
    kind, tls = KINDS[request.param]
    if reason := kind.why_not():
        pytest.skip(reason)
    with (
        mta.running(kind, ca.issue_cert("localhost")) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("SSL_CERT_FILE", str(cafile))  # Django's backend trusts the system
        yield Relay(server, cafile, tls=tls)


@pytest.fixture
def relay(running):
    """The same, before anything has been delivered.

    It is two hosts: ``relay`` keeps its connections, ``once`` does not.
    """
    running.server.delivered()
    hosts = {"relay": f"{running.dsn}&conn_max_age=600", "once": running.dsn}
    with override_settings(EMAIL_HOSTS=hosts):
        yield running


only_postfix = pytest.mark.parametrize("running", ["Postfix"], indirect=True)


class TestFiftyMessages:
    """A list of fifty messages is sent."""

    @pytest.mark.parametrize(
        ("key", "calls"),
        [
            ("once", lambda: [iter(FIFTY)]),
            ("once", lambda: [FIFTY]),
            ("relay", lambda: [FIFTY[:25], FIFTY[25:]]),
            ("relay", lambda: [[message] for message in FIFTY]),
        ],
        ids=["generator", "list", "two lists", "one by one"],
    )
    def test_are_delivered_as_django_does(self, key, calls, relay):
        """Over one connection."""
        expected = relay.djangos_version(*FIFTY)
        ours = set()
        for messages in calls():
            connection: Any = get_connection(key)
            with connection:
                connection.send_messages(messages)
                ours.add(connection.connection.sock.getsockname())
        assert relay.delivered() == expected
        assert len(ours) == 1

    def test_go_to_the_next_host_if_one_has_stopped(self, relay):
        expected = relay.djangos_version(*FIFTY)
        with ScriptedServer() as spare:
            more = {"spare": f"smtp://127.0.0.1:{spare.port}", "all": "failover:relay,spare"}
            with override_settings(EMAIL_HOSTS=settings.EMAIL_HOSTS | more):
                assert get_connection("all").send_messages([*FIFTY]) == 50
                assert relay.delivered() == expected
                relay.server.stop()
                try:
                    assert get_connection("all").send_messages([*FIFTY]) == 50
                finally:
                    relay.server.start()
        assert [one.sender for one in spare.accepted] == [one.from_email for one in FIFTY]
        assert not relay.delivered()


@only_postfix
@pytest.mark.parametrize("recipients", [1, 50])
def test_batch_arrives_once(recipients, relay):
    to = [f"{number}@example.net" for number in range(recipients)]
    batch = [new_message(f"m{number}", to=to) for number in range(500)]
    (first,) = relay.djangos_version(batch[0])
    assert get_connection("relay").send_messages(batch) == 500
    assert relay.delivered() == Counter(
        first._replace(content=first.content.replace(b"m0", b"m%d" % number))
        for number in range(500)
    )


DOTTED = f".{'x' * 57} é\n..\n" * 8_000  # half a megabyte

CONTENTS = [
    new_message("8-bit", "Grüße, ありがとう\n.Ä\n"),
    new_message("dots", ".\n..\n.\r\n\n...a\n."),
    new_message("IDN", sender=f"a@bücher.{SENDERS}", to=["b@müller.example"]),
    with_attachment("dots.txt", DOTTED, "text/plain"),
    # In ASCII: Django 4.2 can attach no other message.
    with_attachment("dots.eml", "To: x\n\n" + DOTTED.replace("é", ""), "message/rfc822"),
    with_attachment("binary", bytes(range(256)) * 2_000, "application/octet-stream"),
]


@pytest.mark.parametrize(("key", "number"), [("once", 1), ("relay", 2)])
@pytest.mark.parametrize("message", CONTENTS, ids=lambda message: message.subject)
def test_content_is_what_django_delivers(message, key, number, relay):
    (expected,) = relay.djangos_version(message)
    get_connection(key).send_messages([message] * number)
    assert relay.delivered() == {expected: number}


class TestRestart:
    """The server is stopped and started again."""

    def test_between_two_sends_costs_nothing_but_a_connection(self, relay):
        get_connection("relay").send_messages([new_message("before")])
        relay.server.relay()  # it may double what it is relaying
        relay.server.restart()
        get_connection("relay").send_messages([new_message("after")])
        assert relay.subjects() == {"before": 1, "after": 1}

    def test_while_a_connection_is_open_costs_no_message(self, relay):
        with get_connection("relay") as connection:
            connection.send_messages([new_message("before")])
            relay.server.relay()
            relay.server.restart()
            try:
                connection.send_messages([new_message("after")])
            except smtplib.SMTPSenderRefused as goodbye:  # Exim says 421, if it gets to say so
                assert can_be_retried(goodbye)
                connection.send_messages([new_message("after")])
        assert relay.subjects() == {"before": 1, "after": 1}

    @only_postfix
    def test_while_mail_is_sent_loses_and_doubles_nothing(self, relay):
        postfix = relay.server
        postfix.set("defer_transports", "smtp")
        sent: list[str] = []
        reported: list[str] = []
        with ThreadPoolExecutor(max_workers=1) as executor:
            for number in range(300):
                if number == 100:
                    restarting = executor.submit(postfix.restart)
                subject = f"m{number}"
                while subject not in sent + reported:
                    try:
                        get_connection("relay").send_messages([new_message(subject)])
                        sent.append(subject)
                    except OSError as error:
                        if not can_be_retried(error):
                            reported.append(subject)
        restarting.result()
        postfix.set("defer_transports", "")
        postfix.control("flush")
        assert len(sent) > 100
        arrived = relay.subjects()
        assert {subject: arrived.pop(subject) for subject in sent} == dict.fromkeys(sent, 1)
        assert arrived.keys() <= set(reported)
        assert set(arrived.values()) <= {1}
