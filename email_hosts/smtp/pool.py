"""Open SMTP connections, parked between one send and the next."""

from __future__ import annotations

import atexit
import os
import smtplib
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from django.core.signals import request_finished

from ..log import debug
from .connection import is_idle, quit_quietly

MAX_PARKED = 10  # connections of one host


@dataclass(eq=False, repr=False)
class PooledConnection:
    """An open connection, and what limits its use."""

    connection: smtplib.SMTP
    server: str  # host and port, for people to read
    expires_at: float = 0  # by the clock of the pool
    messages: int = 0  # that it has been used for
    was_parked: bool = False
    has_given_up: bool = False  # the server, on this session

    def __repr__(self) -> str:
        state = "open" if self.connection.sock else "closed"
        return f"<{type(self).__name__} to {self.server}, {state}, {self.messages} messages>"

    def discard(self, reason: str, *, wait: bool = False) -> None:
        """Close it. ``wait`` gives the server a moment to answer QUIT."""
        debug("%r: discarded, %s", self, reason)
        quit_quietly(self.connection, wait=wait)


class Pool:
    """Keeps open connections by host. Any thread may take what another has parked."""

    clock = staticmethod(time.monotonic)

    def __init__(self) -> None:
        # Reentrant: a signal handler may send mail while its thread holds the lock.
        self._lock = threading.RLock()
        self._parked: dict[Hashable, list[PooledConnection]] = {}

    def __repr__(self) -> str:
        parked = sum(map(len, self._parked.values()))
        return f"<{type(self).__name__}: {parked} parked for {len(self._parked)} hosts>"

    def take(self, host: Hashable) -> PooledConnection | None:
        """Return the connection of this host that was parked last, if there is a good one.

        One with something to read is not good: an idle server only speaks to say goodbye.
        """
        self.close_expired()
        while pooled := self._pop(host):
            if is_idle(pooled.connection):
                pooled.was_parked = True
                debug("%r: taken from the pool", pooled)
                return pooled
            pooled.discard("the server has ended it")
        return None

    def park(self, host: Hashable, pooled: PooledConnection) -> None:
        """Keep a connection, which must be in step, for whoever takes it next."""
        debug("%r: parked", pooled)
        with self._lock:
            parked = self._parked.setdefault(host, [])
            parked.append(pooled)
            surplus = parked.pop(0) if len(parked) > MAX_PARKED else None
        if surplus:
            surplus.discard(f"{MAX_PARKED} others of its host are parked")
        self.close_expired()

    def close_expired(self, **signal: Any) -> None:
        """Close the connections that have become too old."""
        now = self.clock()
        self._close(lambda pooled: pooled.expires_at <= now, "conn_max_age is over")

    def close_all(self) -> None:
        """Close all connections."""
        self._close(lambda pooled: True, "the process ends")

    def forget(self) -> None:
        """Drop all connections without QUIT: in a forked child, they are the parent's."""
        parked, self._parked = self._parked, {}
        self._lock = threading.RLock()  # another thread of the parent may have held it
        for pooled in [pooled for several in parked.values() for pooled in several]:
            pooled.connection.close()

    def _pop(self, host: Hashable) -> PooledConnection | None:
        with self._lock:
            parked = self._parked.get(host)
            return parked.pop() if parked else None

    def _close(self, is_due: Callable[[PooledConnection], bool], reason: str) -> None:
        due: list[PooledConnection] = []
        with self._lock:
            for host, parked in list(self._parked.items()):
                due += filter(is_due, parked)
                parked[:] = [pooled for pooled in parked if not is_due(pooled)]
                if not parked:
                    self._parked.pop(host)
        for pooled in due:
            pooled.discard(reason)


pool = Pool()
request_finished.connect(pool.close_expired)
atexit.register(pool.close_all)
if hasattr(os, "register_at_fork"):  # pragma: no branch (there is no fork on Windows)
    os.register_at_fork(after_in_child=pool.forget)
