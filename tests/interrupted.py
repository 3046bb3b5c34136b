"""Sends lists over four connections, and interrupts each at a random moment.

A signal handler raises an error, as the time limit of a task queue does. Prints ``fine`` if it
arrived, the lists on it are right, and nothing was sent after the call.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
from collections import Counter
from typing import Any

import django
from django.core.mail import EmailMessage
from scripted import ScriptedServer

django.setup()

from email_hosts.backends import EmailHostsBackend  # noqa: E402 (it needs the settings)

SECONDS = 0.0025  # at most, until it strikes


class TimeLimit(Exception):
    """What a task queue raises in the main thread."""


def strike(number: int, frame: object) -> None:
    raise TimeLimit


def interrupted(connection: EmailHostsBackend, batch: list[EmailMessage]) -> Any:
    """Return the error of a send, or ``None`` if it was quicker.

    Python itself ignores an error in the callback of a weak reference.
    """
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, SECONDS))  # noqa: S311
        connection.send_messages(batch)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except TimeLimit as error:
        return error
    return None


def main() -> None:
    signal.signal(signal.SIGALRM, strike)
    others = threading.active_count()
    arrived = 0
    for _ in range(int(sys.argv[1])):
        batch = [EmailMessage("", "", "s@example.com", [f"{i}@x.example"]) for i in range(30)]
        with ScriptedServer() as server:
            connection = EmailHostsBackend("127.0.0.1", server.port, parallel=4, timeout=20)
            error = interrupted(connection, batch)
            server.wait_for_clients_to_go()
            accepted = [one.recipients[0] for one in server.accepted]
        if hasattr(error, "sent"):
            assert sorted(accepted) == sorted(one.to[0] for one in error.sent), "wrong lists"
            assert Counter(map(id, error.sent + error.unsent)) == Counter(map(id, batch))
            arrived += 1
        else:
            # It struck before the send began, or when it was over.
            assert len(accepted) in (0, len(batch)), "no lists"
    for thread in threading.enumerate()[others:]:
        if thread.is_alive():  # CPython lists threads whose start was interrupted, too
            thread.join(20)
        assert not thread.is_alive(), thread
    assert arrived, "no send was interrupted"
    print("fine")


main()
