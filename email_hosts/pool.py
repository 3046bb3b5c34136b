"""Open SMTP connections, parked between one send and the next."""

from __future__ import annotations

import atexit
import os
import smtplib
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from django.core.signals import request_finished

from .connection import is_quiet, say_quit

MAX_PARKED = 10  # connections of one host


@dataclass(eq=False)
class Held:
    """An open connection, and what limits its use."""

    connection: smtplib.SMTP
    expires_at: float
    messages: int = 0
    pid: int = field(default_factory=os.getpid)

    def is_inherited(self) -> bool:
        """Whether it is the parent's: after a fork, both have the same socket."""
        return self.pid != os.getpid()


class Pool:
    """Keeps open connections by host; any thread may take what another has parked."""

    clock = staticmethod(time.monotonic)

    def __init__(self) -> None:
        # For a signal handler, which may send mail while the same thread holds it.
        self._lock = threading.RLock()
        self._parked: dict[Hashable, list[Held]] = {}

    def take(self, host: Hashable) -> Held | None:
        """Return the connection of this host that was parked last, if there is a good one.

        One with something to read is none: an idle server speaks to say goodbye.
        """
        self.close_expired()
        while held := self._pop(host):
            if is_quiet(held.connection):
                return held
            held.connection.close()
        return None

    def park(self, host: Hashable, held: Held) -> None:
        """Keep a connection, which has to be in step, for whoever takes it next."""
        with self._lock:
            parked = self._parked.setdefault(host, [])
            parked.append(held)
            surplus = parked.pop(0) if len(parked) > MAX_PARKED else None
        if surplus:
            say_quit(surplus.connection, wait=False)
        self.close_expired()

    def close_expired(self, **signal: Any) -> None:
        """Close the connections that have become too old."""
        now = self.clock()
        self._close(lambda held: held.expires_at <= now)

    def close_all(self) -> None:
        """Close all connections."""
        self._close(lambda held: True)

    def forget(self) -> None:
        """Drop all connections without a word: in a forked child, they are the parent's."""
        parked, self._parked = self._parked, {}
        self._lock = threading.RLock()  # another thread of the parent may have held it
        for held in [held for several in parked.values() for held in several]:
            held.connection.close()

    def _pop(self, host: Hashable) -> Held | None:
        with self._lock:
            parked = self._parked.get(host)
            return parked.pop() if parked else None

    def _close(self, is_due: Callable[[Held], bool]) -> None:
        closed = []
        with self._lock:
            for host, parked in list(self._parked.items()):
                closed += [held for held in parked if is_due(held)]
                parked[:] = [held for held in parked if not is_due(held)]
                if not parked:
                    self._parked.pop(host, None)
        for held in closed:
            say_quit(held.connection, wait=False)


pool = Pool()
request_finished.connect(pool.close_expired)
atexit.register(pool.close_all)
if hasattr(os, "register_at_fork"):  # pragma: no branch (there is no fork on Windows)
    os.register_at_fork(after_in_child=pool.forget)
