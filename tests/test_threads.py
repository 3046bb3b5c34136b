"""What the threads of a process share is changed by one of them at a time.

``test_oauth2_tokens.py`` shows it of tokens.
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from email_hosts import rate
from email_hosts.rate import Limit, take
from email_hosts.smtp.connection import SMTP
from email_hosts.smtp.pool import Pool, PooledConnection


class Crossing:
    """A key at which a thread waits, inside of the pool, for a second one to come there."""

    def __init__(self):
        self.barrier = None
        self.have_met = False

    def __hash__(self):
        if self.barrier:
            with suppress(threading.BrokenBarrierError):
                self.barrier.wait(0.3)
                self.have_met = True  # pragma: no cover
        return 0


@pytest.mark.parametrize("names", ["take take", "park park", "take park", "park close"])
def test_never_two_threads_are_inside_of_the_pool(names):
    """Both would be given the same connection, for example."""
    shared, key = Pool(), Crossing()

    def add():
        shared.park(PooledConnection(SMTP(), "h:25", key, 1e12), max_idle=10)

    actions = {"take": lambda: shared.take(key), "park": add, "close": shared.close_all}
    add()
    key.barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        for each in [threads.submit(actions[name]) for name in names.split()]:
            each.result()
    assert not key.have_met


@pytest.fixture
def switches():
    """Let Python switch threads at nearly each step."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switches")
def test_threads_take_no_more_than_a_limit(monkeypatch):
    monkeypatch.setattr(rate, "clock", lambda: 1e9)

    def count(_):
        return sum(take("shop", [Limit(5000, 86400)]) == 0 for _ in range(1000))

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(count, range(8))) <= 5000
