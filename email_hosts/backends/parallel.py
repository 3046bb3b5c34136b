"""Messages over several connections of one host at the same time."""

from __future__ import annotations

import copy
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from contextvars import copy_context
from itertools import islice
from typing import Any

from django.core.mail import EmailMessage
from django.db import connections

from ..retry import may_be_tried_elsewhere
from ..smtp.connection import is_closed

# A generator is taken in pieces of this number of messages for each connection.
PIECE = 25


def send_in_parallel(backend: Any, messages: Iterable[EmailMessage]) -> int:
    """Send the messages over up to ``backend.parallel`` connections, in any order.

    Return how many were accepted. The first error ends it, after what is under way. It is
    raised with ``sent`` and ``unsent``, lists of these messages (of a generator, those of the
    last piece). One that failed is in ``unsent``. If several failed, and one of them may have
    been delivered, the error of that one is raised.
    """
    is_at_hand = isinstance(messages, (list, tuple))
    size = len(messages) if is_at_hand else PIECE * backend.parallel  # type: ignore[arg-type]
    coming = iter(messages)
    sent = 0
    while piece := list(islice(coming, size)):
        sent += _Spread(backend, piece).send()
    return sent


class _Spread:
    """The messages of one call. Each connection takes the next one when it is free."""

    def __init__(self, backend: Any, messages: list[EmailMessage]) -> None:
        self._backend = backend
        self._messages = messages
        self._waiting = deque(messages)
        self._sent: list[EmailMessage] = []
        self._errors: list[Exception] = []
        self._is_over = False

    def send(self) -> int:
        """Send the messages, or raise the error that ended it."""
        threads = []
        try:
            for _ in range(min(self._backend.parallel, len(self._messages)) - 1):
                # In a copy of the context, which holds the active language, for example.
                thread = threading.Thread(target=copy_context().run, args=[self._help])
                thread.start()
                threads.append(thread)
            self._work(self._backend)
        except BaseException:
            self._is_over = True
            raise
        finally:
            for thread in threads:
                _join(thread)
        # What another connection has given back.
        self._work(self._backend)
        if self._errors:
            raise self._error()
        return len(self._sent)

    def _help(self) -> None:
        """Work over another connection. If it cannot be opened, the others do its work."""
        backend = copy.copy(self._backend)
        try:
            self._work(backend, is_needed=False)
        finally:
            self._backend.refused_recipients.update(backend.refused_recipients)
            connections.close_all()  # Django keeps those of a thread until it is told

    def _work(self, backend: Any, *, is_needed: bool = True) -> None:
        """Send what is waiting over one connection, and over the next one if that breaks."""
        while self._waiting and not self._is_over:
            taken: deque[EmailMessage] = deque()
            has_sent = False
            try:
                with closing(
                    backend.deliver(self._take(taken), can_look_ahead=True)
                ) as results:
                    for message, error in results:
                        has_sent = True
                        taken.popleft()
                        if error is None:
                            self._sent.append(message)
                        elif not backend.fail_silently:
                            self._fail(error)
                            break
                        else:
                            backend.log_failure(error)
                            if is_closed(backend.connection):
                                break
            except Exception as error:  # of opening, or of making a message
                if is_needed or not isinstance(error, OSError):
                    self._fail(error)
            self._waiting.extendleft(reversed(taken))
            if not has_sent:
                return

    def _take(self, taken: deque[EmailMessage]) -> Iterator[EmailMessage]:
        """Yield what is waiting, and note it, for the case that it has to be given back."""
        while not self._is_over:
            try:
                message = self._waiting.popleft()
            except IndexError:
                return
            if message.recipients():
                taken.append(message)
                yield message

    def _fail(self, error: Exception) -> None:
        self._errors.append(error)
        self._is_over = True

    def _error(self) -> Exception:
        """Return the error to raise, with what was sent and what was not."""
        doubtful = (each for each in self._errors if not may_be_tried_elsewhere(each))
        error: Any = next(doubtful, self._errors[0])
        sent = Counter(map(id, self._sent))
        error.sent, error.unsent = [], []
        for message in self._messages:
            (error.sent if sent[id(message)] > 0 else error.unsent).append(message)
            sent[id(message)] -= 1
        return error  # type: ignore[no-any-return]


def _join(thread: threading.Thread) -> None:
    """Wait for a thread, so that nothing is sent after the call, not even after Ctrl-C."""
    while thread.is_alive():
        with suppress(KeyboardInterrupt):
            thread.join()
