"""How much a host takes in a time, counted over threads, processes and machines.

The span of a limit is cut into slices of time, and the cache has a count for each. A slice
counts whole as long as the span may reach into it. So no span has more than the limit,
wherever it begins, and a message counts for up to one slice longer than it has to. (The usual
counter, which weights one window before, lets nearly twice the limit through after a burst.)

It never fails, and waits only in ``wait_for_turn``. Where the cache cannot count, the memory
of this process does, for a minute. A call of the cache cannot be interrupted, so the cache
needs a timeout of its own: a quarter of a second for each step.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from django.core.cache import BaseCache, caches

from . import conf
from .exceptions import RateLimited, raise_time_limit, summarize
from .log import warn
from .values import Limit, limits

__all__ = ["Limit", "limits", "take", "usage", "wait_for_turn"]

# Slices of one span. Those of a second are a tenth of it: clocks and caches are no better.
SLICES, OF_A_SECOND = 60, 10

# In seconds. How long a take may ask the cache, how long one that failed is not asked, and
# the least to wait, because a float may be just below the end of a slice.
PATIENCE, PAUSE, LEAST = 0.5, 60, 0.001

# Counts in memory, and limits of hosts of which the past is known.
MAX_KEPT = 10_000

clock = time.time  # the only one that machines share
stopwatch = time.monotonic
sleep = time.sleep


def take(name: str, limits: Sequence[Limit], number: int = 1) -> float:
    """Return 0, and count ``number`` messages or recipients, if the host may get them now.

    Otherwise count nothing, and return the seconds after which to ask again: ``math.inf`` if
    a limit is less than the number. ``name`` is that of the count.
    """
    return _take(name, limits, number)[0]


def wait_for_turn(
    name: str, limits: Sequence[Limit], number: int, timeout: float, *, alias: str | None
) -> None:
    """Wait until ``take`` returns 0. No lock is held meanwhile.

    Raises ``RateLimited``, at once, if that is in more than ``timeout`` seconds. With a
    timeout of 0, it never waits.
    """
    left = timeout
    while True:
        seconds, limit = _take(name, limits, number)
        if seconds == 0:
            return
        if seconds > left:
            reason = (
                f"its limit of {limit} is reached; ask again in {math.ceil(seconds)} s"
                if seconds < math.inf
                else f"a message to {number} recipients can never be sent with its limit of "
                f"{limit}"
            )
            raise RateLimited(reason, alias=alias, retry_after=seconds)
        sleep(seconds)
        left -= seconds


def usage(name: str, limits: Sequence[Limit]) -> tuple[int | None, ...]:
    """Return how much of each limit is used, ``None`` where no cache knows."""
    try:
        if cache := _cache():
            store, now = _InCache(cache), clock()
            return tuple(_Count(store, name, limit, now).used() for limit in limits)
    except Exception as error:
        _pause(error)
    return (None,) * len(limits)


def forget() -> None:
    """Forget what this process has counted, and which cache has failed. For tests."""
    global _memory
    _memory = _InMemory()
    _past_in_cache.clear()
    _failures.clear()


def _take(name: str, limits: Sequence[Limit], number: int) -> tuple[float, Limit | None]:
    """Return the seconds, and the limit that says so."""
    for limit in limits:
        if number > limit.number:
            return math.inf, limit
    try:
        if cache := _cache():
            store = _InCache(cache)
            found = _take_all(store, name, limits, number)
            if store.is_slow:
                _pause(TimeoutError())
            return found
    except Exception as error:
        _pause(error)
    return _take_all(_memory_of_process(), name, limits, number)


def _take_all(
    store: _InCache | _InMemory, name: str, limits: Sequence[Limit], number: int
) -> tuple[float, Limit | None]:
    """Take from all limits or from none. The longest span refuses first, and for longest."""
    longest_first = sorted(limits, key=lambda limit: -limit.span)
    while True:
        now = clock()
        taken: list[_Count] = []
        refusal = None
        for limit in longest_first:
            count = _Count(store, name, limit, now)
            seconds = count.take(number)
            if seconds > 0:
                refusal = seconds, limit
                break
            taken.append(count)
        now = clock()
        if refusal is None and all(count.is_of(now) for count in taken):
            return 0, None
        for count in taken:
            count.give_back(number)
        if refusal is not None:
            return refusal
        # Try again: that slice has ended, and others may already have read its count.


class _Count:
    """What is counted for one limit of one host, at one moment."""

    def __init__(
        self, store: _InCache | _InMemory, name: str, limit: Limit, now: float
    ) -> None:
        self._store = store
        self._limit = limit
        self._slices = OF_A_SECOND if limit.span == 1 else SLICES
        digest = hashlib.sha256(f"{limit.span} {name}".encode()).hexdigest()[:32]
        self._prefix = f"email_hosts.rate.{digest}"
        self._slice = self._slice_of(now)
        self._lifetime = 2 * limit.span

    @property
    def key(self) -> str:
        """The key of the current slice. All characters suit memcached."""
        return f"{self._prefix}.{self._slice}"

    def used(self) -> int:
        """Return the count of all slices that the span may reach into."""
        return sum(self._past()) + self._store.counts([self.key])[0]

    def is_of(self, now: float) -> bool:
        """Whether the slice has not ended yet."""
        return self._slice == self._slice_of(now)

    def take(self, number: int) -> float:
        """Return 0 and count the number, or return the seconds until there may be room."""
        past = self._past()
        excess = sum(past) + number - self._limit.number
        if excess > 0:
            others = self._store.counts([self.key])[0]
        else:
            # Counts first and judges then, so that others see it meanwhile.
            others = self._store.count(self.key, number, self._lifetime) - number
            if excess + others <= 0:
                return 0
            self.give_back(number)
        return self._seconds_until_gone(excess + others, [*past, others])

    def give_back(self, number: int) -> None:
        """Subtract what was taken."""
        self._store.give_back(self.key, number, self._lifetime)

    def _slice_of(self, now: float) -> int:
        return int(now * self._slices / self._limit.span)

    def _past(self) -> list[int]:
        """Return the counts of the slices before this one.

        They are final, or too high by what is about to be given back. So each process asks
        for them once in a slice.
        """
        known, counts = self._store.past.get(self._prefix, (None, []))
        if known != self._slice:
            before = range(self._slice - self._slices, self._slice)
            counts = self._store.counts([f"{self._prefix}.{each}" for each in before])
            if len(self._store.past) >= MAX_KEPT:
                self._store.past.clear()
            self._store.past[self._prefix] = self._slice, counts
        return counts

    def _seconds_until_gone(self, excess: int, counts: list[int]) -> float:
        """Return the seconds until so much of these counts, the oldest first, is too old."""
        sums = accumulate(counts)
        age = next((age for age, gone in enumerate(sums, 1) if gone >= excess), len(counts))
        end = (self._slice + age) * self._limit.span / self._slices
        return max(end - clock(), LEAST)


class _InCache:
    """A cache of Django's, in one take. Raises what the cache raises."""

    def __init__(self, cache: BaseCache) -> None:
        self._cache = cache
        self._began = stopwatch()
        self.past = _past_in_cache
        # BaseCache.incr() calls set(), which resets the timeout of the key.
        self._has_no_incr = type(cache).incr is BaseCache.incr

    @property
    def is_slow(self) -> bool:
        """Whether it has taken longer than it may."""
        return stopwatch() - self._began > PATIENCE

    def counts(self, keys: list[str]) -> list[int]:
        """Return the counts of slices."""
        found = self._ask("get_many", keys)
        return [int(found.get(key, 0)) for key in keys]

    def count(self, key: str, number: int, lifetime: int) -> int:
        """Add to the count of a slice, and return it."""
        try:
            found = self._ask("incr", key, number)
        except ValueError:  # nothing is counted yet
            self._ask("add", key, 0, lifetime)
            found = self._ask("incr", key, number)
        self._keep(key, lifetime)
        if type(found) is not int:  # pymemcache: False, for a server that has just failed
            raise TypeError
        return found

    def give_back(self, key: str, number: int, lifetime: int) -> None:
        """Subtract from the count of a slice. If that fails, a limit has less for a span."""
        try:
            self._ask("decr", key, number)
            self._keep(key, lifetime)
        except Exception as error:
            raise_time_limit(error)

    def _keep(self, key: str, lifetime: int) -> None:
        if self._has_no_incr:
            self._ask("touch", key, lifetime)

    def _ask(self, method: str, *arguments: Any) -> Any:
        if self.is_slow:
            raise TimeoutError
        return getattr(self._cache, method)(*arguments)


class _InMemory:
    """The counts of one process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.past: dict[str, tuple[int, list[int]]] = {}
        # Reentrant: a signal handler may send mail while its own thread holds the lock.
        self._lock = threading.RLock()
        self._counts: dict[str, tuple[int, float]] = {}  # and when they are of no more use

    def counts(self, keys: list[str]) -> list[int]:
        """Return the counts of slices."""
        return [self._counts.get(key, (0, 0))[0] for key in keys]

    def count(self, key: str, number: int, lifetime: int) -> int:
        """Add to the count of a slice, and return it."""
        with self._lock:
            if key not in self._counts and len(self._counts) >= MAX_KEPT:
                self._tidy()
            counted, until = self._counts.get(key, (0, clock() + lifetime))
            self._counts[key] = counted + number, until
            return counted + number

    def give_back(self, key: str, number: int, lifetime: int) -> None:
        """Subtract from the count of a slice."""
        self.count(key, -number, lifetime)

    def _tidy(self) -> None:
        """Drop what is of no more use, and the older half of the rest if that is too much."""
        now = clock()
        kept = {key: each for key, each in self._counts.items() if each[1] > now}
        self._counts = dict(list(kept.items())[-MAX_KEPT // 2 :])


_memory = _InMemory()
_past_in_cache: dict[str, tuple[int, list[int]]] = {}
_failures: dict[str, list[float]] = {}  # when the cache has failed, for as long as that counts


def _memory_of_process() -> _InMemory:
    """Return the counts of this process. After a fork, there are none."""
    global _memory
    # uWSGI forks in C. Python then does not call what is registered for a fork.
    if _memory.process != os.getpid():
        _memory = _InMemory()
    return _memory


def _cache() -> BaseCache | None:
    """Return the cache, or ``None`` if there is none or it has just failed."""
    if since := _failures.get("cache"):
        if stopwatch() - since[0] < PAUSE:
            return None
        _failures.pop("cache", None)
    alias = conf.rate_cache()
    return caches[alias] if alias else None


def _pause(error: Exception) -> None:
    """Ask the cache no more for a while, and log why: one of all threads does so."""
    raise_time_limit(error)
    _past_in_cache.clear()  # it may be wrong
    now = [stopwatch()]
    if _failures.setdefault("cache", now) is now:
        warn(
            "EMAIL_HOSTS_CACHE cannot count what hosts with a rate send: %s; for %d seconds, "
            "each process counts for itself",
            summarize(error),
            PAUSE,
        )
