"""What the threads of a process share is changed by one of them at a time.

``test_oauth2.py`` shows it of tokens.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from email_hosts import rate
from email_hosts.smtp.connection import SMTP
from email_hosts.smtp.pool import Pool, PooledConnection
from email_hosts.values import Limit


class Place:
    """Where a thread waits for a second one to come."""

    def __init__(self):
        self.barrier = threading.Barrier(2)
        self.have_met = False

    def enter(self):
        with suppress(threading.BrokenBarrierError):
            self.barrier.wait(0.3)
            self.have_met = True  # pragma: no cover

    def have_met_in(self, *actions):
        """Return whether two threads that do this meet here."""
        with ThreadPoolExecutor(2) as threads:
            for each in [threads.submit(action) for action in actions]:
                each.result()
        return self.have_met


class Key:
    """A key of the pool, which is looked up inside of it."""

    place: Any = None

    def __hash__(self):
        if self.place:
            self.place.enter()
        return 0


@pytest.mark.parametrize("names", ["take take", "park park", "take park", "park close"])
def test_never_two_threads_are_inside_of_the_pool(names):
    """Both would be given the same connection, for example."""
    shared, key = Pool(), Key()

    def add():
        shared.park(PooledConnection(SMTP(), "h:25", key, 1e12), max_idle=10)

    actions = {"take": lambda: shared.take(key), "park": add, "close": shared.close_all}
    add()
    key.place = Place()
    assert not key.place.have_met_in(*(actions[name] for name in names.split()))


class Most(int):
    """How much is kept, which is compared where messages are counted, and nowhere else."""

    place = Place()

    def __lt__(self, number):
        self.place.enter()
        return super().__lt__(number)


def test_never_two_threads_count(monkeypatch):
    """Of two hosts, either. Of one, a limit would let both through."""
    monkeypatch.setattr(rate, "MAX_KEPT", Most(10))

    def count(host):
        rate.take(host, [Limit(10, 86400)])

    assert not Most.place.have_met_in(partial(count, "shop"), partial(count, "club"))
