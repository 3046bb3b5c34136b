"""Sends messages over several connections of one host at the same time."""

from __future__ import annotations

import copy
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from contextvars import Context, copy_context
from functools import partial
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import connections
from django.utils import timezone, translation

from ..delivery import Outcome, Then, clock
from ..exceptions import raise_time_limit
from ..retry import NOT_SENT, may_be_tried_elsewhere, set_delivery

# How many messages for each connection are taken from a generator at a time.
PIECE = 25

# After an interruption: seconds until we look again whether the threads have ended.
POLL = 0.1


def outcomes(
    backend: Any, messages: Iterable[EmailMessage], *, keep_going: bool
) -> Iterator[Outcome]:
    """Yield what becomes of messages that go over up to ``backend.parallel`` connections.

    Successes come first, then errors, and last those errors after which another host may be
    tried. Without ``keep_going``, no message is begun after the first error. Messages under
    way are finished, even after an interruption.
    """
    is_list = isinstance(messages, (list, tuple))
    size = len(messages) if is_list else PIECE * backend.parallel  # type: ignore[arg-type]
    coming = iter(messages)
    error = None
    while error is None:
        taken, error = _next_of(coming, size)
        if not taken and not error:
            return
        piece = _Piece(backend, taken, keep_going=keep_going)
        backend.finished = piece.done
        piece.send()
        yield from sorted(piece.done, key=_rank)
        if piece.interruption:
            raise piece.interruption
        if any(outcome.ends(keep_going=keep_going) for outcome in piece.done):
            return
    raise error


def _next_of(
    coming: Iterator[EmailMessage], size: int
) -> tuple[list[EmailMessage], Exception | None]:
    """Return the next messages, and the error that a generator has raised behind them."""
    taken: list[EmailMessage] = []
    try:
        taken.extend(islice(coming, size))  # keeps what comes before an error
    except Exception as error:
        raise_time_limit(error)
        return taken, error
    return taken, None


def _rank(outcome: Outcome) -> int:
    if outcome.error is None:
        return 0
    return 2 if may_be_tried_elsewhere(outcome.error) else 1


class _Piece:
    """Some messages. Each connection takes the next one when it is free."""

    def __init__(
        self, backend: Any, messages: list[EmailMessage], *, keep_going: bool
    ) -> None:
        self.done: list[Outcome] = []
        self.interruption: BaseException | None = None
        self._backend = backend
        self._keep_going = keep_going
        self._number = min(backend.parallel, len(messages))
        self._waiting = deque(messages)
        self._refusals: list[Exception] = []  # of connections that could not be opened
        self._was_open = False  # whether any connection was
        # Gets an item when the threads have ended. It is written in C: a signal handler that
        # raises while this thread uses it leaves it in order, unlike Lock, Event or Future.
        self._end: SimpleQueue[None] = SimpleQueue()
        self._is_running = False
        self._is_over = False
        # asgiref hides these from other threads, even in a copy of the context.
        self._language = translation.get_language()
        self._timezone = timezone.get_current_timezone()

    def send(self) -> None:
        """Send the messages, until ``done`` has their outcomes."""
        try:
            if self._number > 1:
                self._work_in_threads()
            if self._was_open or not self._refusals:
                # What the threads have left, and all of it if none could start.
                self._refusals.clear()
                self._work(self._backend)
        except BaseException as error:
            self.interruption = error
        if self._waiting and self._refusals and not self.interruption:
            failed = list(self._backend.all_failed(self._waiting, self._refusals[0]))
            self.done += failed if self._keep_going else failed[:1]

    def _work_in_threads(self) -> None:
        """Work over several connections, each in a thread.

        This thread waits, so that a signal handler that raises (Ctrl-C, the time limit of a
        task queue) interrupts no message. Such a handler can leave the locks of an executor
        held for ever, and runs in the main thread only. So another thread has the executor.
        """
        backends = [
            self._backend,
            *(copy.copy(self._backend) for _ in range(self._number - 1)),
        ]
        before = sys.exc_info()[1]  # what the caller handles
        director = Thread(target=self._direct, args=[copy_context(), backends], daemon=True)
        try:
            director.start()
            self._end.get()
        except BaseException as error:
            # Thread.start() can hide the error of the handler that interrupted it.
            hidden = error.__context__ if error.__context__ is not before else None
            if type(error) is RuntimeError and not hidden and director.ident is None:
                return  # at a limit of the system, or when Python exits
            self._stop()
            failure = hidden if isinstance(error, (KeyError, RuntimeError)) else None
            set_delivery(failure or error, NOT_SENT)  # what was under way has its outcome
            if failure:
                raise failure from None
            raise
        director.join()

    def _direct(self, context: Context, backends: Iterable[Any]) -> None:
        """Start a thread for each of these, as far as that is possible, and wait for them."""
        # Noted before it looks whether all is over. _stop() does it the other way round.
        self._is_running = True
        # RuntimeError: at a limit of the system, or when Python exits.
        with suppress(RuntimeError), ThreadPoolExecutor(self._number) as executor:
            for backend in backends:
                executor.submit(context.copy().run, self._help, backend)
        self._is_running = False
        self._end.put(None)

    def _stop(self) -> None:
        """Let no message be begun, and wait for those under way, whatever handlers raise."""
        while self._is_running or not self._is_over:
            with suppress(BaseException):
                self._is_over = True
                self._end.get(timeout=POLL)

    def _help(self, backend: Any) -> None:
        """Work in a thread, with the time zone and the language of the caller's thread."""
        # What is as in any thread is left alone: asgiref has a lock, and a signal handler that
        # raises in the wrong moment (in the main thread) leaves it held for ever.
        is_other_language = self._language != settings.LANGUAGE_CODE
        is_other_timezone = self._timezone is not timezone.get_default_timezone()
        try:
            with (
                translation.override(self._language) if is_other_language else nullcontext(),
                timezone.override(self._timezone) if is_other_timezone else nullcontext(),
            ):
                self._work(backend)
        except BaseException as error:  # of code that makes a message
            self.interruption = error
            self._is_over = True
        finally:
            connections.close_all()  # Django does not close a thread's own

    def _work(self, backend: Any) -> None:
        """Send what is waiting over one connection, and over the next one if that breaks."""
        if not self._waiting or self._is_over:
            return
        try:
            opened = backend.open_loudly()
        except Exception as error:  # the others do its work
            self._refusals.append(error)
            return
        self._was_open = True
        taken: deque[EmailMessage] = deque()
        since = clock()
        try:
            send = partial(backend.deliver, look_ahead=True)
            all_of = backend.within_rate(send, self._take(taken), keep_going=self._keep_going)
            with closing(all_of):
                for outcome in all_of:
                    while taken and taken.popleft() is not outcome.message:
                        pass  # it has no recipients
                    now = clock()
                    self.done.append(outcome._replace(seconds=now - since))
                    since = now
                    if outcome.error and outcome.then is Then.NO_CONNECTION:
                        self._refusals.append(outcome.error)
                    if outcome.ends(keep_going=self._keep_going):
                        self._is_over = True
                        return
            # What its host has not been offered.
            self._waiting.extendleft(reversed(taken))
        finally:
            if opened:
                backend.close()

    def _take(self, taken: deque[EmailMessage]) -> Iterator[EmailMessage]:
        """Yield what is waiting."""
        while not self._is_over:
            try:
                message = self._waiting.popleft()
            except IndexError:
                taken.clear()  # none of these is sent again: each is known or under way
                return
            taken.append(message)
            yield message
