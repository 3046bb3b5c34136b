"""SMTP sessions, parked between one send and the next."""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from django.core.signals import request_finished

from ..log import debug
from .connection import is_idle, quit_quietly

MAX_PARKED = 100  # connections of all hosts together


@dataclass(eq=False, repr=False)
class PooledConnection:
    """An open connection, and what limits its use."""

    connection: Any  # an smtplib.SMTP, unless it was set from outside
    server: str  # host and port, for people to read
    pool_key: Hashable = None  # connections with equal ones are interchangeable
    expires_at: float = 0  # by the clock of the pool
    messages: int = 0  # how many it has been used for
    was_parked: bool = False
    token: str = ""  # the OAuth 2.0 token that it has logged in with
    process: int = field(default_factory=lambda: os.getpid())  # which has opened it

    @property
    def may_have_ended(self) -> bool:
        """Whether the server may have ended it since an earlier send."""
        return self.pool_key is not None and self.messages > 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self.server}, {self.messages} messages>"

    def problem(self) -> str:
        """Return why it cannot be used again, or ``""`` if it can. Its class must be ours."""
        if not self.is_of_this_process():
            return "it belongs to another process"
        if not self.connection.is_clean:
            return "its last transaction was not clean"
        return "" if is_idle(self.connection) else "the server has ended it"

    def discard(self, reason: str, *, wait: bool = False) -> None:
        """Close it. ``wait`` gives the server a moment to answer QUIT."""
        debug("%r: discarded, %s", self, reason)
        if self.is_of_this_process():
            quit_quietly(self.connection, wait=wait)
        else:  # without QUIT, because the parent still uses it
            self.connection.close()

    def is_of_this_process(self) -> bool:
        """Whether this process has opened it, and not its parent."""
        # uWSGI forks in C. Python then does not call what is registered for a fork.
        return self.process == os.getpid()


class PoolKey(tuple[object, ...]):
    """The options that a parked connection depends on. Its ``repr`` does not show them."""

    __slots__ = ()
    __repr__ = object.__repr__


class Pool:
    """Keeps open connections by host. Any thread may take what another has parked.

    Each call costs the same with one host and with ten thousand.
    """

    clock = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        # Reentrant: a signal handler may send mail while its own thread holds the lock.
        self._lock = threading.RLock()
        # All parked connections, the least recently used first, and the same by host. A
        # signal handler may raise between any two steps, so one may lack a connection.
        self._parked: dict[PooledConnection, None] = {}
        self._by_key: dict[Hashable, list[PooledConnection]] = {}
        self._next_expiry = math.inf

    def __repr__(self) -> str:
        parked, hosts = len(self._parked), len(self._by_key)
        return f"<{type(self).__name__}: {parked} parked for {hosts} hosts>"

    def take(self, pool_key: Hashable) -> PooledConnection | None:
        """Return the connection of this host that was parked last, if there is a good one.

        One with unread data is not good: an idle server sends nothing but a goodbye.
        """
        self.close_expired()
        while pooled := self._pop(pool_key):
            problem = pooled.problem()
            if not problem:
                pooled.was_parked = True
                debug("%r: taken from the pool", pooled)
                return pooled
            pooled.discard(problem)
        return None

    def park(self, pooled: PooledConnection, *, max_idle: int) -> None:
        """Keep a connection, which must be in step, for whoever takes it next.

        At most ``max_idle`` of its host are kept. The least recently used one leaves first.
        """
        debug("%r: parked", pooled)
        surplus = None
        with self._lock:
            self._next_expiry = min(self._next_expiry, pooled.expires_at)
            self._parked[pooled] = None
            of_key = self._by_key.setdefault(pooled.pool_key, [])
            of_key.append(pooled)
            if len(of_key) > max_idle:
                surplus = of_key[0]
            elif len(self._parked) > MAX_PARKED:
                surplus = next(iter(self._parked))
            if surplus:
                self._remove(surplus)
        if surplus:
            surplus.discard("enough others are parked")
        self.close_expired()

    def close_expired(self, **signal: Any) -> None:
        """Close the connections that have become too old."""
        now = self.clock()
        if now >= self._next_expiry:
            self._close("conn_max_age is over", due_by=now)

    def close_all(self) -> None:
        """Close all connections."""
        self._close("the process ends", due_by=math.inf)

    def forget(self) -> None:
        """Drop all connections without QUIT: in a forked child, they are the parent's."""
        parked = self._parked
        self._reset()  # the lock, too: another thread of the parent may have held it
        for pooled in parked:
            pooled.connection.close()

    def _pop(self, pool_key: Hashable) -> PooledConnection | None:
        with self._lock:
            of_key = self._by_key.get(pool_key)
            return self._remove(of_key[-1]) if of_key else None

    def _remove(self, pooled: PooledConnection) -> PooledConnection:
        of_key = self._by_key.get(pooled.pool_key, [])
        with suppress(ValueError):
            of_key.remove(pooled)
        if not of_key:
            self._by_key.pop(pooled.pool_key, None)
        self._parked.pop(pooled, None)
        return pooled

    def _close(self, reason: str, *, due_by: float) -> None:
        with self._lock:
            due = [pooled for pooled in self._parked if pooled.expires_at <= due_by]
            for pooled in due:
                self._remove(pooled)
            expiries = (pooled.expires_at for pooled in self._parked)
            self._next_expiry = min(expiries, default=math.inf)
        for pooled in due:
            pooled.discard(reason)


pool = Pool()
request_finished.connect(pool.close_expired)
atexit.register(pool.close_all)
if hasattr(os, "register_at_fork"):  # pragma: no branch (there is no fork on Windows)
    os.register_at_fork(after_in_child=pool.forget)
