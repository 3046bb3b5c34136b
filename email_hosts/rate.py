"""How much a host takes in a time, counted over threads, processes and machines.

The span of a limit is cut into slices of time, and the cache has a count for each. A slice
counts whole as long as the span may reach into it. So no span has more than the limit,
wherever it begins, and a message counts for up to one slice longer than it has to. (The usual
counter, which weights one window before, lets nearly twice the limit through after a burst.)

It never fails and never waits. Where the cache cannot count, the memory of this process does,
for a minute. A call of the cache cannot be interrupted, so the cache needs a timeout of its
own: a quarter of a second for each step.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any, NamedTuple

from django.core.cache import BaseCache, caches

from . import conf
from .exceptions import raise_time_limit, summarize
from .log import warn
from .values import Limit

# Slices of one span. Those of a second are a tenth of it: clocks and caches are no better.
SLICES, OF_A_SECOND = 60, 10

# In seconds.
PATIENCE = 0.5  # how long a take may ask the cache
PAUSE = 60  # how long a cache that has failed is not asked
LEAST = 0.001  # to wait: a float may be just below the end of a slice

# Limits of hosts in memory.
MAX_KEPT = 10_000

clock = time.time  # the only one that machines share
stopwatch = time.monotonic


class Turn(NamedTuple):
    """Whether a host may get messages now: ``seconds`` is 0, and they are counted.

    If not, nothing is counted. ``seconds`` is the time after which to ask again, and ``limit``
    is the one that is reached. The time is ``math.inf`` if more is asked for than the limit.
    """

    seconds: float
    limit: Limit | None = None
    give_back: Callable[[], None] = lambda: None  # call it if the host did not get them


def take(name: str, limits: Sequence[Limit], number: int = 1) -> Turn:
    """Count ``number`` messages or recipients, if the host may get them now.

    ``name`` is that of the count.
    """
    for limit in limits:
        if number > limit.number:
            return Turn(math.inf, limit)
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


def usage(name: str, limits: Sequence[Limit]) -> tuple[int | None, ...]:
    """Return how much of each limit is used, ``None`` where no cache knows."""
    try:
        if cache := _cache():
            return tuple(_Window(name, limit).used(_InCache(cache)) for limit in limits)
    except Exception as error:
        _pause(error)
    return (None,) * len(limits)


def forget() -> None:
    """Forget what this process has counted, and which cache has failed. For tests."""
    global _memory
    _memory = _InMemory()
    _windows.cache_clear()
    _warm_up.cache_clear()
    _failures.clear()


def _take_all(store: _Store, name: str, limits: Sequence[Limit], number: int) -> Turn:
    """Take from all limits or from none."""
    in_cache = isinstance(store, _InCache)
    windows = _windows(in_cache, name, tuple(limits))
    while True:
        now = clock()
        taken: list[tuple[_Window, int]] = []
        refusal = None
        for window in windows:
            time_slice = window.slice_at(now)
            if seconds := window.take(store, time_slice, number):
                refusal = Turn(seconds, window.limit)
                break
            taken.append((window, time_slice))
        now = clock()
        if not refusal and all(window.slice_at(now) == its for window, its in taken):
            return Turn(0, give_back=partial(_give_back, in_cache, taken, number))
        for window, time_slice in taken:
            store.give_back(window, time_slice, number)
        if refusal:
            return refusal
        # Try again: that slice has ended, and others may already have read its count.


def _give_back(in_cache: bool, taken: Iterable[tuple[_Window, int]], number: int) -> None:
    """Subtract what was counted, where it was counted."""
    cache = _cache() if in_cache else None
    if in_cache and not cache:  # it has failed since
        return
    store = _InCache(cache) if cache else _memory_of_process()
    for window, time_slice in taken:
        store.give_back(window, time_slice, number)


@lru_cache(maxsize=MAX_KEPT)
def _windows(in_cache: bool, name: str, limits: tuple[Limit, ...]) -> tuple[_Window, ...]:
    """Return the windows of limits, the longest span first: its refusal lasts longest."""
    longest_first = sorted(limits, key=lambda limit: -limit.span)
    return tuple(_Window(name, limit) for limit in longest_first)


class _Window:
    """The slices of time of one limit of one host."""

    def __init__(self, name: str, limit: Limit) -> None:
        self.limit = limit
        self.lifetime = 2 * limit.span  # of its counts in a cache
        self.slices = OF_A_SECOND if limit.span == 1 else SLICES
        digest = hashlib.sha256(f"{limit.span} {name}".encode()).hexdigest()[:32]
        self.key = f"email_hosts.rate.{digest}"  # all characters suit memcached
        self._past: tuple[int, list[int]] = -1, []

    def slice_at(self, now: float) -> int:
        """Return the number of the slice at this time."""
        return int(now * self.slices / self.limit.span)

    def used(self, store: _Store) -> int:
        """Return the count of all slices that the span may reach into."""
        now = self.slice_at(clock())
        return sum(store.counts(self, range(now - self.slices, now + 1)))

    def take(self, store: _Store, time_slice: int, number: int) -> float:
        """Return 0 and count the number, or return the seconds until there may be room."""
        before = self._counted_before(store, time_slice)
        excess = sum(before) + number - self.limit.number
        if excess > 0:
            (others,) = store.counts(self, [time_slice])
        else:
            # Counts first and judges then, so that others see it meanwhile.
            others = store.count(self, time_slice, number) - number
            if excess + others <= 0:
                return 0
            store.give_back(self, time_slice, number)
        return self._seconds_until_gone(time_slice, excess + others, [*before, others])

    def _counted_before(self, store: _Store, time_slice: int) -> list[int]:
        """Return the counts of the slices before this one.

        They are final, or too high by what is about to be given back. So each process asks
        for them once in a slice.
        """
        known, counts = self._past
        if known != time_slice:
            counts = store.counts(self, range(time_slice - self.slices, time_slice))
            self._past = time_slice, counts
        return counts

    def _seconds_until_gone(self, time_slice: int, excess: int, counts: list[int]) -> float:
        """Return the seconds until the oldest counts, up to the excess, are too old."""
        sums = accumulate(counts)
        age = next((age for age, gone in enumerate(sums, 1) if gone >= excess), len(counts))
        end = (time_slice + age) * self.limit.span / self.slices
        return max(end - clock(), LEAST)


class _InCache:
    """A cache of Django's, in one take. Raises what the cache raises."""

    def __init__(self, cache: BaseCache) -> None:
        self._cache = cache
        self._began = stopwatch()

    @property
    def is_slow(self) -> bool:
        """Whether it has taken longer than it may."""
        return stopwatch() - self._began > PATIENCE

    def counts(self, window: _Window, slices: Iterable[int]) -> list[int]:
        """Return the counts of slices."""
        keys = [f"{window.key}.{each}" for each in slices]
        found = self._ask("get_many", keys)
        return [int(found.get(key, 0)) for key in keys]

    def count(self, window: _Window, time_slice: int, number: int) -> int:
        """Add to the count of a slice, and return it."""
        key = f"{window.key}.{time_slice}"
        try:
            found = self._ask("incr", key, number)
        except ValueError:  # nothing is counted yet
            self._ask("add", key, 0, window.lifetime)
            found = self._ask("incr", key, number)
        self._keep(key, window)
        if type(found) is not int:  # pymemcache: False, for a server that has just failed
            raise TypeError
        return found

    def give_back(self, window: _Window, time_slice: int, number: int) -> None:
        """Subtract from the count of a slice. If that fails, a limit has less for a span."""
        key = f"{window.key}.{time_slice}"
        try:
            self._ask("decr", key, number)
            self._keep(key, window)
        except Exception as error:
            raise_time_limit(error)

    def _keep(self, key: str, window: _Window) -> None:
        # BaseCache.incr() calls set(), which resets the timeout of the key.
        if type(self._cache).incr is BaseCache.incr:
            self._ask("touch", key, window.lifetime)

    def _ask(self, method: str, *arguments: Any) -> Any:
        if self.is_slow:
            raise TimeoutError
        call = partial(getattr(self._cache, method), *arguments)
        try:
            return call()
        except ValueError:  # of incr(): nothing is counted yet
            raise
        except Exception as error:  # the server may have ended an idle connection
            raise_time_limit(error)
        return call()


class _InMemory:
    """The counts of one process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        # Reentrant: a signal handler may send mail while its own thread holds the lock.
        self._lock = threading.RLock()
        # By window and by slice. The window that was used last comes last.
        self._counts: dict[str, dict[int, int]] = {}

    def counts(self, window: _Window, slices: Iterable[int]) -> list[int]:
        """Return the counts of slices."""
        known = self._counts.get(window.key, {})
        return [known.get(each, 0) for each in slices]

    def count(self, window: _Window, time_slice: int, number: int) -> int:
        """Add to the count of a slice, and return it."""
        with self._lock:
            counts = self._counts.get(window.key, {})
            if time_slice not in counts:
                counts = self._begin(window, time_slice)
            counts[time_slice] += number
            return counts[time_slice]

    def give_back(self, window: _Window, time_slice: int, number: int) -> None:
        """Subtract from the count of a slice, if it is still there."""
        with self._lock:
            counts = self._counts.get(window.key, {})
            if time_slice in counts:
                counts[time_slice] -= number

    def _begin(self, window: _Window, time_slice: int) -> dict[int, int]:
        """Begin a slice, and drop what is too old or too much."""
        counts = self._counts.pop(window.key, {})
        oldest = time_slice - window.slices
        begun = {each: count for each, count in counts.items() if each >= oldest}
        begun[time_slice] = 0
        self._counts[window.key] = begun
        if len(self._counts) > MAX_KEPT:
            del self._counts[next(iter(self._counts))]
        return begun


_Store = _InCache | _InMemory

_memory = _InMemory()
_failures: dict[str, list[float]] = {}  # when the cache has failed, for as long as that counts


def _memory_of_process() -> _InMemory:
    """Return the counts of this process. After a fork, there are none."""
    global _memory
    # uWSGI forks in C. Python then does not call what is registered for a fork.
    if _memory.process != os.getpid():
        _memory = _InMemory()
        _windows.cache_clear()
    return _memory


def _cache() -> BaseCache | None:
    """Return the cache, or ``None`` if there is none or it has just failed."""
    if since := _failures.get("cache"):
        if stopwatch() - since[0] < PAUSE:
            return None
        _failures.pop("cache", None)
    alias = conf.rate_cache()
    if not alias:
        return None
    _warm_up(alias, os.getpid())
    return caches[alias]


@lru_cache(maxsize=64)
def _warm_up(alias: str, process: int) -> None:
    """Use a cache once in each process. It imports its client then, which may take seconds."""
    caches[alias].get("email_hosts.rate")


def _pause(error: Exception) -> None:
    """Ask the cache no more for a while. The first thread logs why."""
    raise_time_limit(error)
    _windows.cache_clear()  # what they know may be wrong
    now = [stopwatch()]
    if _failures.setdefault("cache", now) is now:
        warn(
            "EMAIL_HOSTS_CACHE cannot count what hosts with a rate send: %s; for %d seconds, "
            "each process counts for itself",
            summarize(error),
            PAUSE,
        )
