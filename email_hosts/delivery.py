"""Outcomes of messages, and the report that counts them, logs them and has signals sent."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Any, NamedTuple

from django.core.mail import EmailMessage

from . import signals
from .exceptions import AllHostsFailed, raise_time_limit, shown, summarize
from .log import warn
from .retry import NOT_SENT, PERHAPS, can_be_retried, delivery_of, set_delivery

Refused = Mapping[str, tuple[int, bytes]]

clock = time.perf_counter

NOBODY: Refused = MappingProxyType({})

# What the error for a list has as attributes.
SENT_AND_UNSENT = {"sent", "unsent", "failed"}


class Then(Enum):
    """What follows an outcome."""

    NEXT_HOST = auto()  # another outcome of the same message
    NEXT_MESSAGE = auto()  # after an error, only where the send goes on
    NO_CONNECTION = auto()  # the other messages of this host have the same error
    END = auto()  # of the send, because the error is not one of mail


class Outcome(NamedTuple):
    """What became of a message, the caller's own object.

    ``message`` is ``None`` if nobody knows which of several were accepted. ``alias`` is the
    key of the host that was asked. ``refused`` are the server's replies to recipients
    who do not get it.
    """

    message: EmailMessage | None
    alias: str | None
    error: Exception | None = None
    refused: Refused = NOBODY
    then: Then = Then.NEXT_MESSAGE
    seconds: float | None = None  # what the send took; None until the report knows
    was_offered: bool = True  # false: the host has not seen the message
    number: int = 1  # how many messages were accepted, without an error
    name: str = ""  # how the log names a host without a key

    @property
    def is_final(self) -> bool:
        """Whether it is the last one of its message."""
        return self.then is not Then.NEXT_HOST

    def ends(self, *, keep_going: bool) -> bool:
        """Whether nothing more is sent after it."""
        is_error = self.error is not None and self.is_final
        return self.then is Then.END or (is_error and not keep_going)


class Report:
    """Takes in the outcomes of one call: counts, logs and signals them, and keeps an error."""

    def __init__(self, backend: Any, messages: Iterable[EmailMessage]) -> None:
        self.sent = 0
        # What is known of each message is kept for a list. A generator may have no end.
        self.messages = messages if isinstance(messages, (list, tuple)) else None
        self.refused: dict[str, tuple[int, bytes]] = {}
        self._backend = backend
        self._fail_silently = bool(backend.fail_silently)
        self.error: BaseException | None = None  # to raise at the end
        self._since = clock()
        self._is_known = True  # which messages were sent
        self._logged: Exception | None = None
        self._outcomes: list[Outcome] = []
        self._in_doubt: EmailMessage | None = None  # it was under way when the send ended
        self._news: list[Outcome] = []

    def timed(self, messages: Iterable[EmailMessage]) -> Iterator[EmailMessage]:
        """Yield the messages. The time of a send does not include waiting for a generator."""
        for message in messages:
            self._since = clock()
            yield message

    def add(self, outcome: Outcome) -> None:
        """Take in an outcome."""
        now = clock()
        if outcome.seconds is None:
            outcome = outcome._replace(seconds=now - self._since)
        self._since = now
        self._news.append(outcome)
        self._is_known = self._is_known and outcome.message is not None
        error = outcome.error
        if outcome.is_final:
            self.refused.update(outcome.refused)
            if self.messages is not None:
                self._outcomes.append(outcome)
        if error is None:
            self.sent += outcome.number
        elif outcome.then is Then.END:
            self.error = error  # whatever happened before
        elif outcome.is_final and not self._fail_silently:
            self.error = self.error or error

    def interrupt(self, error: BaseException) -> None:
        """Take in what has ended the send in its midst, such as Ctrl-C or a time limit."""
        if self.messages is not None:
            taken = set(map(id, self._outcomes))  # of parallel connections, all are known
            for outcome in self._backend.finished:
                if id(outcome) not in taken:
                    self.add(outcome)
            known = [each.message for each in self._outcomes]
            note_doubt(error, left_of(self.messages, known))
        self.error = error
        self._in_doubt = in_doubt(error)

    def tell(self) -> None:
        """Log and signal what is new. No reply of a server may be outstanding."""
        news, self._news = self._news, []
        for outcome in news:
            self._log(outcome)
            if outcome.message is None and outcome.error is None:
                continue  # nobody knows which messages were accepted
            if not isinstance(outcome.error, AllHostsFailed):  # its hosts have told already
                signals.tell(type(self._backend), outcome)

    def note_sent_and_unsent(self) -> None:
        """Set ``sent`` and ``unsent`` on the error: lists of the messages of a list.

        Of the latter, ``failed`` has those that must not be sent again. Nothing is set if
        nobody knows which were sent.
        """
        error: Any = self.error
        if vars(error).keys() >= SENT_AND_UNSENT:  # of a send inside of this one
            for name in SENT_AND_UNSENT:
                delattr(error, name)
        vars(error).pop("in_doubt", None)
        if self.messages is None or not self._is_known:
            return
        sent = [each.message for each in self._outcomes if each.error is None]
        error.unsent = left_of(self.messages, sent)
        error.sent = left_of(self.messages, error.unsent)
        error.failed = [each.message for each in filter(_is_for_good, self._outcomes)]
        error.failed += [each for each in error.unsent if each is self._in_doubt][:1]
        if not any(map(has_recipients, error.unsent)):  # all was done when it came
            set_delivery(error, PERHAPS)

    def _log(self, outcome: Outcome) -> None:
        name = outcome.name or self._backend.name
        if outcome.alias is not None:
            name = f'host "{shown(outcome.alias)}"'
        if outcome.refused and outcome.is_final:
            codes = sorted({code for code, _ in outcome.refused.values()})
            warn("%s: refused recipients: %d %s", name, len(outcome.refused), codes)
        error = outcome.error
        # One error may have stopped many messages.
        if error and outcome.is_final and error not in (self.error, self._logged):
            self._logged = error
            ignored = "ignored by fail_silently" if self._fail_silently else "not raised"
            warn("%s: %s, %s", name, summarize(error), ignored)


def _is_for_good(outcome: Outcome) -> bool:
    """Whether somebody may have a message that failed, or nobody ever takes it."""
    if outcome.error is None or can_be_retried(outcome.error):
        return False
    # Doubt is about the message that was offered. Others may have the same error.
    return outcome.was_offered or delivery_of(outcome.error) != PERHAPS


def note_doubt(error: BaseException, left: Iterable[EmailMessage]) -> None:
    """Note on what has interrupted a send which message was under way: the first of these.

    Not if that is noted already, or nobody can have it.
    """
    if delivery_of(error) != NOT_SENT and in_doubt(error) is None:
        error.in_doubt = next(filter(has_recipients, left), None)  # type: ignore[attr-defined]


def in_doubt(error: BaseException) -> EmailMessage | None:
    """Return the message that is noted, if there is one."""
    return getattr(error, "in_doubt", None)


def has_recipients(message: EmailMessage) -> bool:
    """Whether it goes to anybody. What sends the message raises what this does not."""
    try:
        return bool(message.recipients())
    except Exception as error:  # a subclass may override it
        raise_time_limit(error)
        return True


def left_of(
    messages: Iterable[EmailMessage], known: Iterable[EmailMessage | None]
) -> list[EmailMessage]:
    """Return the messages that are not among the known ones. One may be there twice."""
    number = Counter(map(id, known))
    left = []
    for message in messages:
        if number[id(message)] > 0:
            number[id(message)] -= 1
        else:
            left.append(message)
    return left
