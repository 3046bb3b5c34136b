"""Sends through a host that takes only so many messages in a time: the option ``rate``."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import chain
from typing import Any

from django.core.mail import EmailMessage

from .. import rate
from ..delivery import Outcome, has_recipients
from ..exceptions import RateLimited
from ..retry import NOT_SENT, set_delivery
from ..values import RECIPIENTS, Limit
from .smtp import DEFAULT_TIMEOUT

# In seconds. While a message waits for longer, no connection is kept open.
KEEP_OPEN = 5

# By how much a wait may exceed the timeout. A message counts for 61 seconds in a limit per
# minute, for which the default timeout is enough.
GRACE = 1.02

sleep = time.sleep


def outcomes(
    backend: Any,
    send: Callable[..., Iterator[Outcome]],
    messages: Iterable[EmailMessage],
    *,
    keep_going: bool,
) -> Iterator[Outcome]:
    """Yield what becomes of messages that are sent when their turn has come.

    ``send`` sends them over one connection. A message that would have to wait
    for longer than ``timeout`` seconds (by more than ``GRACE``) is not sent, and fails with
    ``RateLimited``.
    """
    queue = _Queue(backend, messages, keep_going=keep_going)
    while True:
        sent = send(queue.turns(), keep_going=keep_going)
        with closing(sent):  # type: ignore[type-var]
            for outcome in sent:
                if outcome.is_final and not outcome.was_offered:
                    queue.give_back()
                yield from queue.take_late()
                yield outcome
        yield from queue.take_late()
        if not queue.held:
            return


class _Queue:
    """Messages that wait for their turn."""

    def __init__(
        self, backend: Any, messages: Iterable[EmailMessage], *, keep_going: bool
    ) -> None:
        self.held: list[EmailMessage] = []  # one that waits until the connection is closed
        self._backend = backend
        self._coming = iter(messages)
        self._keep_going = keep_going
        self._waited = 0.0  # by the message whose turn is next
        self._late: deque[Outcome] = deque()
        self.give_back: Callable[[], None]  # the turn of the message that is being sent
        self._name = str(backend.alias)
        if backend.alias is None:
            self._name = f"{backend.full_name} {getattr(backend, 'username', '')}"

    def turns(self) -> Iterator[EmailMessage]:
        """Yield each message when its turn has come, up to one that has to wait for long.

        The next call begins with that one, so it waits without a connection.
        """
        backend, is_connected = self._backend, False
        by_recipients = backend.rate_by == RECIPIENTS
        held, self.held = self.held, []
        for message in chain(held, self._coming):
            if by_recipients:
                number = len(message.recipients())
            else:  # no boolean: Redis refuses it
                number = int(has_recipients(message))
            while True:
                turn = rate.take(self._name, backend.rate, number)
                if turn.seconds == 0 or turn.seconds > self._patience - self._waited:
                    break
                if is_connected and turn.seconds > KEEP_OPEN:
                    self.held = [message]
                    return
                try:
                    sleep(turn.seconds)
                except BaseException as interruption:
                    set_delivery(interruption, NOT_SENT)
                    raise
                self._waited += turn.seconds
            self._waited = 0
            if turn.seconds == 0:
                is_connected = True
                self.give_back = turn.give_back
                yield message
                continue
            reason = _reason(turn.limit, number, turn.seconds)
            error = RateLimited(reason, alias=backend.alias, retry_after=turn.seconds)
            self._late.append(backend.failed(message, error))
            if not self._keep_going:
                return

    def take_late(self) -> Iterator[Outcome]:
        """Yield the outcomes of messages whose turn would come too late."""
        while self._late:
            yield self._late.popleft()

    @property
    def _patience(self) -> float:
        """How many seconds a message may wait. A failover asks the next host instead."""
        if not self._backend.may_wait:
            return 0
        timeout = getattr(self._backend, "timeout", None)  # another backend may have two
        return GRACE * (timeout if isinstance(timeout, (int, float)) else DEFAULT_TIMEOUT)


def _reason(limit: Limit | None, number: int, seconds: float) -> str:
    if seconds < math.inf:
        return f"its limit of {limit} is reached; ask again in {math.ceil(seconds)} s"
    return f"a message to {number} recipients can never be sent with its limit of {limit}"
