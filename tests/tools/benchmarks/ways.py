"""The ways to send that are compared. Each gives what sends a number of messages."""

import os
import smtplib
import ssl
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend

from email_hosts.backends import EmailHostsBackend

BATCH = 25
CONNECTIONS = 4
BODY = "Sending mail is waiting for the server.\n" * 20


def messages(recipients, number):
    """Return so many messages of about a kilobyte to so many recipients."""
    to = [f"recipient{each}@example.net" for each in range(recipients)]
    return [EmailMessage("Subject", BODY, "sender@example.com", to) for _ in range(number)]


def djangos(server):
    """Return Django's own backend, closed."""
    return EmailBackend(**server, use_tls=True, timeout=60, alias="bench")


def ours(server, **options):
    """Return the backend of a host, closed."""
    # Named here: the system's authorities are loaded once, perhaps before this was set.
    options["ssl_cafile"] = os.environ.get("SSL_CERT_FILE")
    return EmailHostsBackend(**server, use_tls=True, timeout=60, **options)


# Keeps its connections.
kept = partial(ours, conn_max_age=3600, conn_max_messages=10**8)


@contextmanager
def anew(server, recipients, connect, number=1):
    """Send so many messages in one call, each time over another connection object."""
    yield lambda: connect(server).send_messages(messages(recipients, number))


@contextmanager
def held(server, recipients, connect, number=1):
    """Send so many messages in one call, over one connection that is held open by hand."""
    with connect(server) as connection:
        yield lambda: connection.send_messages(messages(recipients, number))


@contextmanager
def smtplib_held(server, recipients):
    """Send a ready message over one open connection of smtplib."""
    (one,) = messages(recipients, 1)
    content = one.message().as_bytes().replace(b"\n", b"\r\n")

    def send():
        connection.sendmail(one.from_email, one.to, content)
        return 1

    with smtplib.SMTP(server["host"], server["port"]) as connection:
        connection.starttls(context=ssl.create_default_context())
        connection.login(server["username"], server["password"])
        yield send


RAW = "smtplib, one open connection"
FRESH = "Django, a new connection each"
OURS_FRESH = "email_hosts, a new connection each"
KEPT = "email_hosts, conn_max_age"
OURS_BATCH = f"email_hosts, batches of {BATCH}"
PARALLEL = f"email_hosts, parallel={CONNECTIONS}"
RATED = partial(kept, rate="99999999/m")  # which is never reached
SHARED = partial(kept, parallel=CONNECTIONS)
# Each gets the options of a server and a number of recipients. What it gives, ready, returns
# how many messages it has sent.
WAYS: dict[str, Any] = {
    FRESH: partial(anew, connect=djangos),
    OURS_FRESH: partial(anew, connect=ours),
    "Django, one open connection": partial(held, connect=djangos),
    RAW: smtplib_held,
    KEPT: partial(anew, connect=kept),
    "email_hosts, conn_max_age and rate": partial(anew, connect=RATED),
    OURS_BATCH: partial(held, connect=ours, number=BATCH),
    PARALLEL: partial(anew, connect=SHARED, number=BATCH * CONNECTIONS),
}
