"""Sends through several hosts: the next one after a failure, or each in turn."""

from __future__ import annotations

import itertools
import math
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage

from ..boundary import boundary
from ..delivery import Outcome, Then
from ..exceptions import AllHostsFailed, RateLimited, shown, summarize
from ..host import FAILOVER_BACKEND
from ..hosts import connection_to
from ..log import warn
from ..retry import NOT_SENT, is_too_much, may_be_tried_elsewhere, set_delivery
from .base import Backend, Connections

clock = time.monotonic

MANY = 1_000_000  # far more than there are hosts, so that each is as likely as another

# What a host that cannot be opened raises. Other errors, such as the time limit of a task
# queue, are not the fault of the host.
UNUSABLE = (
    *(OSError, ValueError, TypeError, AttributeError, LookupError, ImportError),
    ImproperlyConfigured,
)


class FailoverBackend(Backend):
    """Sends each message through the first of its hosts that takes it.

    ``hosts`` are keys. A host that has just failed comes last for ``retry`` seconds. With
    ``rotate``, each message starts at the next host. The next host is tried only if this one
    certainly did not take the message. Any other error is raised.

    Raises ``AllHostsFailed`` if no host could be used, and ``InvalidEmailHost`` for options
    that are not valid.
    """

    path = FAILOVER_BACKEND
    hosts: tuple[str, ...]
    retry: float
    rotate: bool

    @boundary
    def __init__(self, hosts: str | Iterable[str] = (), **options: Any) -> None:
        super().__init__(hosts=hosts, **options)

    @property
    def name(self) -> str:
        """How messages for people name it."""
        return f'host "{shown(self.alias or ",".join(self.hosts))}"'

    def deliver(
        self, messages: Iterable[EmailMessage], *, keep_going: bool
    ) -> Iterator[Outcome]:
        """Yield what becomes of each message at each host that it is offered to."""
        health = _healths.setdefault((self.alias, tuple(self.hosts)), _HostHealth())
        with Connections() as connections:
            for message in messages:
                for outcome in self._offer(message, health, connections):
                    yield outcome
                    if outcome.ends(keep_going=keep_going):
                        return

    def _offer(
        self, message: EmailMessage, health: _HostHealth, connections: Connections
    ) -> Iterator[Outcome]:
        errors: dict[str, Exception] = {}
        for key, may_wait in self._attempts(health, errors):
            last = None
            for last in self._ask(key, message, connections, may_wait=may_wait):
                if not last.is_final:  # of a host of several
                    yield last
            if last is None or last.error is None:
                health.down_until.pop(key, None)
                yield from filter(None, [last])
                return
            connections.drop(key)
            if last.then is Then.END or not may_be_tried_elsewhere(last.error):
                yield last
                return
            yield last._replace(then=Then.NEXT_HOST)
            errors[key] = last.error
            # A host that is full is not down, nor is one for which the message is too large.
            if not isinstance(last.error, RateLimited) and not is_too_much(last.error):
                health.down_until[key] = clock() + self.retry
                warn('%s: host "%s" failed: %s', self.name, shown(key), summarize(last.error))
        yield self.failed(message, AllHostsFailed(errors, alias=self.alias))

    def _attempts(
        self, health: _HostHealth, errors: Mapping[str, Exception]
    ) -> Iterator[tuple[str, bool]]:
        """Yield each host to ask, and whether the message may wait there for its turn.

        It waits only if no host is free, and where its turn comes first.
        """
        for key in health.order(tuple(self.hosts), rotate=self.rotate):
            yield key, False
        full = {
            key: error.retry_after
            for key, error in errors.items()
            if isinstance(error, RateLimited) and error.retry_after < math.inf
        }
        for key in sorted(full, key=full.__getitem__) if self.may_wait else ():
            yield key, True

    def _ask(
        self, key: str, message: EmailMessage, connections: Connections, *, may_wait: bool
    ) -> Iterator[Outcome]:
        """Yield what becomes of a message at one host."""
        connection = connections.get(key)
        try:
            if connection is None:
                connection = connection_to(key)
                connections.open(key, connection)
            connection.may_wait = may_wait
        except Exception as error:
            set_delivery(error, NOT_SENT)
            failed = (connection or self).failed(message, error, key=key)
            is_unusable = isinstance(error, UNUSABLE)
            yield failed._replace(then=Then.NEXT_MESSAGE) if is_unusable else failed
        else:
            yield from self.through(connection, [message], keep_going=False)


class _HostHealth:
    """Which hosts are down and whose turn it is, for the whole process.

    It needs no lock: each change is one call, which another thread does not come into.
    """

    def __init__(self) -> None:
        self.down_until: dict[str, float] = {}
        # Random at first, so that processes do not all start with one host.
        self._turns = itertools.count(random.randrange(MANY))  # noqa: S311

    def order(self, keys: tuple[str, ...], *, rotate: bool) -> list[str]:
        """Return the hosts in the order in which to try them, those that are down last."""
        if rotate:
            turn = next(self._turns) % len(keys)
            keys = keys[turn:] + keys[:turn]
        now = clock()
        return sorted(keys, key=lambda key: self.down_until.get(key, 0) > now)


_healths: dict[object, _HostHealth] = {}
if hasattr(os, "register_at_fork"):  # pragma: no branch (there is no fork on Windows)
    # So that the children do not all have the same turn.
    os.register_at_fork(after_in_child=_healths.clear)
