"""The ways to send that are compared. Each sends a number of messages."""

from __future__ import annotations

import os
import smtplib
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend

from email_hosts.backends import EmailHostsBackend
from email_hosts.smtp.connection import SMTP

BATCH = 25
CONNECTIONS = 4
BODY = "Sending mail is waiting for the server.\n" * 20


class Server(NamedTuple):
    """Where to send to."""

    host: str
    port: int
    username: str
    password: str


# What to send with, ready; it returns how many messages it has sent.
Way = Callable[[Server, int], AbstractContextManager[Callable[[], int]]]


def message(recipients: int) -> EmailMessage:
    """Return a message of about a kilobyte to so many recipients."""
    to = [f"recipient{number}@example.net" for number in range(recipients)]
    return EmailMessage("Subject", BODY, "sender@example.com", to)


def djangos(server: Server) -> EmailBackend:
    """Return Django's own backend, closed."""
    return EmailBackend(**server._asdict(), use_tls=True, timeout=60, alias="bench")


def ours(server: Server, **options: Any) -> EmailHostsBackend:
    """Return the backend of a host, closed."""
    # Named here: the system's authorities are loaded once, perhaps before this was set.
    options["ssl_cafile"] = os.environ.get("SSL_CERT_FILE")
    return EmailHostsBackend(**server._asdict(), use_tls=True, timeout=60, **options)


def kept(server: Server, **options: Any) -> EmailHostsBackend:
    """Return the backend of a host that keeps its connections, closed."""
    return ours(server, conn_max_age=3600, conn_max_messages=10**8, **options)


@contextmanager
def stepwise() -> Iterator[None]:
    """Let no server offer PIPELINING."""
    has_extn = SMTP.has_extn
    with mock.patch.object(
        SMTP, "has_extn", lambda self, name: name != "pipelining" and has_extn(self, name)
    ):
        yield


@contextmanager
def django_fresh(server: Server, recipients: int) -> Iterator[Callable[[], int]]:
    """Send each message through a new connection, as ``EmailMessage.send()`` does."""
    yield lambda: djangos(server).send_messages([message(recipients)])


@contextmanager
def django_held(server: Server, recipients: int) -> Iterator[Callable[[], int]]:
    """Send each message over one connection, held open by hand."""
    with djangos(server) as connection:
        yield lambda: connection.send_messages([message(recipients)])


@contextmanager
def ours_fresh(server: Server, recipients: int) -> Iterator[Callable[[], int]]:
    """Send each message through a new connection."""
    yield lambda: ours(server).send_messages([message(recipients)])


@contextmanager
def ours_kept(server: Server, recipients: int) -> Iterator[Callable[[], int]]:
    """Send each message on its own, with ``conn_max_age``."""
    yield lambda: kept(server).send_messages([message(recipients)])


@contextmanager
def ours_rated(server: Server, recipients: int) -> Iterator[Callable[[], int]]:
    """The same with a rate that is never reached."""
    yield lambda: kept(server, rate="99999999/m").send_messages([message(recipients)])


@contextmanager
def ours_batch(server: Server, recipients: int) -> Iterator[Callable[[], int]]:
    """Send 25 messages in one ``send_messages`` on an open connection."""
    with ours(server) as connection:
        yield lambda: connection.send_messages([message(recipients) for _ in range(BATCH)])


@contextmanager
def ours_parallel(server: Server, recipients: int) -> Iterator[Callable[[], int]]:
    """Send 25 messages for each of four kept connections in one ``send_messages``."""
    number = BATCH * CONNECTIONS
    yield lambda: kept(server, parallel=CONNECTIONS).send_messages(
        [message(recipients) for _ in range(number)]
    )


@contextmanager
def smtplib_held(server: Server, recipients: int) -> Iterator[Callable[[], int]]:
    """Send a ready message over one open connection of smtplib."""
    one = message(recipients)
    content = one.message().as_bytes().replace(b"\n", b"\r\n")

    def send() -> int:
        connection.sendmail(one.from_email, one.to, content)
        return 1

    with ExitStack() as stack:
        connection = stack.enter_context(smtplib.SMTP(server.host, server.port))
        connection.starttls(context=ssl.create_default_context())
        connection.login(server.username, server.password)
        yield send


RAW = "smtplib, one open connection"
FRESH = "Django, a new connection each"
OURS_FRESH = "email_hosts, a new connection each"
KEPT = "email_hosts, conn_max_age"
RATED = "email_hosts, conn_max_age and rate"
OURS_BATCH = f"email_hosts, batches of {BATCH}"
PARALLEL = f"email_hosts, parallel={CONNECTIONS}"
WAYS: dict[str, Way] = {
    FRESH: django_fresh,
    OURS_FRESH: ours_fresh,
    "Django, one open connection": django_held,
    RAW: smtplib_held,
    KEPT: ours_kept,
    RATED: ours_rated,
    OURS_BATCH: ours_batch,
    PARALLEL: ours_parallel,
}
