"""Sends through a host that takes only so many messages in a time: the option ``rate``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import chain
from typing import Any

from django.core.mail import EmailMessage

from .. import rate
from ..delivery import Outcome
from ..exceptions import RateLimited
from ..values import RECIPIENTS
from .smtp import DEFAULT_TIMEOUT

# In seconds. While a message waits for longer, no connection is kept open.
KEEP_OPEN = 5


def outcomes(
    backend: Any,
    send: Callable[..., Iterator[Outcome]],
    messages: Iterable[EmailMessage],
    *,
    keep_going: bool,
) -> Iterator[Outcome]:
    """Yield what becomes of messages that are sent when their turn has come.

    ``send`` sends them over one connection. A message that would have to wait
    for longer than ``timeout`` seconds is not sent, and fails with ``RateLimited``.
    """
    queue = _Queue(backend, messages, keep_going=keep_going)
    is_over = False
    while not is_over:
        sent = send(queue.turns(), keep_going=keep_going)
        with closing(sent):  # type: ignore[type-var]
            for outcome in sent:
                is_over = is_over or outcome.ends(keep_going=keep_going)
                yield from queue.take_late()
                yield outcome
        yield from queue.take_late()
        # The connection is closed or parked now.
        is_over = is_over or not queue.wait()


class _Queue:
    """Messages that wait for their turn."""

    def __init__(
        self, backend: Any, messages: Iterable[EmailMessage], *, keep_going: bool
    ) -> None:
        self._backend = backend
        self._coming = iter(messages)
        self._keep_going = keep_going
        self._held: EmailMessage | None = None  # for longer than a connection is kept open
        self._seconds = 0.0  # until its turn
        self._waited = 0.0  # by the message whose turn is next
        self._late: deque[Outcome] = deque()
        self._name = str(backend.alias)
        if backend.alias is None:
            self._name = f"{backend.full_name} {getattr(backend, 'username', '')}"

    def turns(self) -> Iterator[EmailMessage]:
        """Yield each message when its turn has come, up to one that has to wait for long."""
        held, self._held = [self._held] if self._held else [], None
        for message in chain(held, self._coming):
            by_recipients = self._backend.rate_by == RECIPIENTS
            number = len(message.recipients()) if by_recipients else 1
            seconds = rate.take(self._name, self._backend.rate, number)
            if seconds > 0:
                left = self._timeout - self._waited
                if KEEP_OPEN < seconds <= left:
                    self._held, self._seconds = message, seconds
                    return
                if not self._has_its_turn(message, number, left):
                    if not self._keep_going:
                        return
                    continue
            self._waited = 0
            yield message

    def wait(self) -> bool:
        """Wait for the turn of the message that is held. Return whether there is one."""
        if self._held is None:
            return False
        rate.sleep(self._seconds)
        self._waited += self._seconds
        return True

    def take_late(self) -> Iterator[Outcome]:
        """Yield the outcomes of messages whose turn would come too late."""
        while self._late:
            yield self._late.popleft()

    def _has_its_turn(self, message: EmailMessage, number: int, left: float) -> bool:
        backend = self._backend
        try:
            rate.wait_for_turn(self._name, backend.rate, number, left, alias=backend.alias)
        except RateLimited as error:
            self._late.append(backend.failed(message, error))
            self._waited = 0
            return False
        return True

    @property
    def _timeout(self) -> float:
        """How many seconds a message may wait. A failover asks the next host instead."""
        if not self._backend.may_wait:
            return 0
        return float(getattr(self._backend, "timeout", None) or DEFAULT_TIMEOUT)
