"""Sends messages in a process of its own, for the tests of rates that count over processes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.test import override_settings

from email_hosts import rate

THREADS = 8


class SharedClock:
    """Time that all processes share. It passes while one of them sleeps."""

    def __init__(self, value):
        self._value = value
        self._seen = threading.local()

    def __call__(self):
        self._seen.now = self._value.value
        return self._seen.now

    def sleep(self, seconds):
        until = self._seen.now + seconds
        with self._value.get_lock():
            self._value.value = max(self._value.value, until)

    @property
    def last(self):
        """What this thread has seen last."""
        return self._seen.now


def send(caches, value, limits, messages, *, threads=THREADS):
    """Return when each message had its turn, as pairs of the message and the time."""
    module: Any = rate
    module.clock = clock = SharedClock(value)
    module.sleep = clock.sleep
    module.stopwatch = lambda: 0.0  # a busy machine makes no cache slow

    def send_one(message):
        rate.wait_for_turn("shop", limits, 1, 1e9, alias="shop")
        return message, clock.last

    with (
        override_settings(CACHES=caches, EMAIL_HOSTS_CACHE=caches and "default"),
        ThreadPoolExecutor(threads) as pool,
    ):
        found = list(pool.map(send_one, messages))
        assert rate._failures == {}
        return found


def send_and_tell(found, *arguments):  # pragma: no cover (it needs Redis or Memcached)
    """Put what ``send`` returns into a queue."""
    found.put(send(*arguments))
