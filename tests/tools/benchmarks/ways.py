"""The ways to send that are compared. Each sends a number of messages."""

from __future__ import annotations

import os
import smtplib
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
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


def anew(connect: Callable[[Server], Any], number: int = 1) -> Way:
    """Send so many messages in one call, each time over another connection object."""

    @contextmanager
    def way(server: Server, recipients: int) -> Iterator[Callable[[], int]]:
        yield lambda: connect(server).send_messages(
            [message(recipients) for _ in range(number)]
        )

    return way


def held(connect: Callable[[Server], Any], number: int = 1) -> Way:
    """Send so many messages in one call, over one connection that is held open by hand."""

    @contextmanager
    def way(server: Server, recipients: int) -> Iterator[Callable[[], int]]:
        with connect(server) as connection:
            yield lambda: connection.send_messages(
                [message(recipients) for _ in range(number)]
            )

    return way


@contextmanager
def smtplib_held(server: Server, recipients: int) -> Iterator[Callable[[], int]]:
    """Send a ready message over one open connection of smtplib."""
    one = message(recipients)
    content = one.message().as_bytes().replace(b"\n", b"\r\n")

    def send() -> int:
        connection.sendmail(one.from_email, one.to, content)
        return 1

    with smtplib.SMTP(server.host, server.port) as connection:
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
    FRESH: anew(djangos),
    OURS_FRESH: anew(ours),
    "Django, one open connection": held(djangos),
    RAW: smtplib_held,
    KEPT: anew(kept),
    # A rate that is never reached.
    RATED: anew(partial(kept, rate="99999999/m")),
    OURS_BATCH: held(ours, BATCH),
    PARALLEL: anew(partial(kept, parallel=CONNECTIONS), BATCH * CONNECTIONS),
}
