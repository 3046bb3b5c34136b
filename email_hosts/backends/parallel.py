"""Sends messages over several connections of one host at the same time."""

from __future__ import annotations

import copy
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, nullcontext, suppress
from contextvars import copy_context
from itertools import islice
from queue import SimpleQueue
from typing import Any

from django.core.mail import EmailMessage
from django.db import connections
from django.utils import timezone, translation

from .. import signals
from ..retry import may_be_tried_elsewhere
from ..smtp.connection import Reply, is_closed

# How many messages for each connection are taken from a generator at a time.
PIECE = 25


def send_in_parallel(backend: Any, messages: Iterable[EmailMessage]) -> int:
    """Send the messages over up to ``backend.parallel`` connections, in any order.

    Return how many were accepted. After the first error, no further message is begun.
    The error has the attributes ``sent`` and ``unsent``, lists of these messages (of a
    generator, those of the last piece). A message that failed is in ``unsent``. If
    several failed, and one of them may have been delivered, its error is raised.
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
        self._errors: list[BaseException] = []
        self._refusals: list[OSError] = []
        self._ignored: list[OSError] = []  # the same, with fail_silently
        # Results for which the caller's thread sends signals, and None from each thread that
        # ends.
        self._results: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()
        self._was_open = False  # whether any connection was
        # asgiref hides these from other threads, even in a copy of the context.
        self._language = translation.get_language()
        self._timezone = timezone.get_current_timezone()
        self._refused: dict[str, Reply] = backend.refused_recipients
        self._is_over = False

    def send(self) -> int:
        """Send the messages, or raise the error that stopped it."""
        number = min(self._backend.parallel, len(self._messages))
        if number > 1:
            self._start_and_wait(number)
        if number == 1 or self._was_open:
            self._refusals.clear()
            self._work(self._backend)  # after the threads: what they have not sent
        if self._waiting:
            for error in [*self._refusals, *self._ignored][: not self._errors]:
                self._results.put((self._waiting[0], error))
            self._errors += self._refusals[:1]
        self._tell_the_rest()
        if self._errors:
            raise self._error()
        return len(self._sent)

    def _start_and_wait(self, number: int) -> None:
        """Work over this number of connections, each in a thread.

        This thread waits, so that a signal handler that raises (Ctrl-C, the time limit of a
        task queue) interrupts no message. It also calls the receivers of signals.
        """
        others = [copy.copy(self._backend) for _ in range(number - 1)]
        threads = [
            _Thread(self._help, backend, self._results) for backend in (self._backend, *others)
        ]
        try:
            for thread in threads:
                thread.start()
            for _ in threads:
                for result in iter(self._results.get, None):
                    self._tell(*result)
        except BaseException as error:
            self._is_over = True
            self._errors.insert(0, error)
            for thread in threads:
                thread.wait_for_its_end()

    def _help(self, backend: Any) -> None:
        """Work in a thread, with the time zone and the language of the caller's thread."""
        is_same = translation.get_language() == self._language
        try:
            with (
                nullcontext() if is_same else translation.override(self._language),
                timezone.override(self._timezone),
            ):
                self._work(backend)
        finally:
            connections.close_all()  # Django does not close a thread's own

    def _work(self, backend: Any) -> None:
        """Send what is waiting over one connection, and over the next one if that breaks."""
        has_broken = True
        while has_broken and self._waiting and not self._is_over:
            has_broken = False
            taken: deque[EmailMessage] = deque()
            try:
                results = backend.deliver(self._take(), taken, can_look_ahead=True)
                with closing(results):
                    for result in results:
                        self._was_open = True
                        self._results.put(result)
                        if result.error is None:
                            self._sent.append(result.message)
                        elif not backend.fail_silently:
                            self._fail(result.error)
                            break
                        else:
                            backend.log_failure(result.error)
                            has_broken = is_closed(backend.connection)
                            if has_broken:
                                break
                if taken and backend.ignored:
                    self._ignored.append(backend.ignored)
            except OSError as error:  # from opening: the others do its work
                self._refusals.append(error)
            except BaseException as error:  # from making a message
                self._fail(error)
                for message in islice(taken, 1):
                    self._results.put((message, error))
            self._waiting.extendleft(reversed(taken))

    def _take(self) -> Iterator[EmailMessage]:
        """Yield what is waiting."""
        while not self._is_over:
            try:
                message = self._waiting.popleft()
            except IndexError:
                return
            if message.recipients():
                yield message

    def _fail(self, error: BaseException) -> None:
        self._errors.append(error)
        self._is_over = True

    def _tell_the_rest(self) -> None:
        """Send the signals that are left: of this thread, or after an interruption."""
        try:
            while not self._results.empty():
                if result := self._results.get():
                    self._tell(*result)
        except BaseException as error:  # from a receiver
            self._errors.insert(0, error)

    def _tell(
        self, message: EmailMessage, error: Any, refused: Mapping[str, Reply] = signals.NOBODY
    ) -> None:
        """Send the signal of a result. Keep its refused recipients.

        A receiver may send over this backend, too, and so replace them.
        """
        self._refused.update(refused)
        try:
            signals.tell(self._backend, message, error, refused)
        finally:
            self._backend.refused_recipients = self._refused

    def _error(self) -> BaseException:
        """Return the error to raise, with what was sent and what was not."""
        doubtful = (each for each in self._errors if not may_be_tried_elsewhere(each))
        error: Any = next(doubtful, self._errors[0])
        sent = Counter(map(id, self._sent))
        error.sent, error.unsent = [], []
        for message in self._messages:
            (error.sent if sent[id(message)] > 0 else error.unsent).append(message)
            sent[id(message)] -= 1
        return error  # type: ignore[no-any-return]


class _Thread(threading.Thread):
    """Calls a function with this argument, in a copy of the context.

    At the end, it puts ``None`` into ``results``.
    """

    def __init__(
        self, function: Callable[[Any], None], argument: Any, results: SimpleQueue[Any]
    ) -> None:
        super().__init__(target=copy_context().run, args=[function, argument])
        self._results = results
        self.has_ended = threading.Event()

    def run(self) -> None:
        """Call the function."""
        try:
            super().run()
        finally:
            self.has_ended.set()
            self._results.put(None)

    def wait_for_its_end(self) -> None:
        """Wait, whatever signal handlers raise. An unstarted thread sends nothing.

        Not with ``join()``: before Python 3.13, an error in it marks the thread as ended.
        """
        while self.ident is not None and not self.has_ended.is_set():
            with suppress(BaseException):  # the first one is raised in the end
                self.has_ended.wait()
