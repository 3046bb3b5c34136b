"""What all backends of this app have in common: one way to send, and to be copied."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from contextvars import ContextVar
from typing import Any, cast

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.utils.module_loading import import_string

from .. import conf
from ..boundary import CLIENTS, boundary
from ..delivery import Outcome, Report, Then, has_recipients, in_doubt, left_of, note_doubt
from ..exceptions import checked_flag, name_host, shown
from ..host import Host, with_options
from ..retry import PERHAPS, delivery_of
from ..rules import RULES, Notes, Rule, applied
from ..values import Limit

# The backends that are sending in this context. Each is in a list of its own, which is emptied
# when its send ends.
_sending: ContextVar[tuple[list[BaseEmailBackend], ...]] = ContextVar("sending", default=())


class Backend(BaseEmailBackend):
    """A backend of this app. It applies the options of its host, and has one way to send.

    A subclass has ``deliver`` or ``outcomes``, and the path by which a host names it.
    """

    path: str
    rules: tuple[Rule, ...] = RULES
    alias: str | None = None
    default_from_email: str
    server_email: str
    fail_silently: bool = False
    # Outcomes of parallel connections, which are known before the report has taken them in.
    finished: Sequence[Outcome] = ()
    # The server's replies to recipients whom it has refused.
    refused_recipients: dict[str, tuple[int, bytes]]
    # The key, from which unpickling makes another connection. None if the connection
    # has options that the key does not stand for.
    pickled_key: str | None = None
    rate: tuple[Limit, ...]
    rate_by: str
    _package = ""  # of a backend that is not ours, which may have errors of its own
    may_wait = True  # for the turn of a message, where the host has a rate

    @boundary
    def __init__(
        self, *, alias: str | None = None, fail_silently: bool = False, **options: Any
    ) -> None:
        by_hand = Host(alias, self.path, {}, setting="MAILERS")
        self.configure(with_options(by_hand, conf.without_ignored(options, by_hand)))
        self.fail_silently = checked_flag(fail_silently)

    @classmethod
    def from_host(cls, host: Host) -> Any:
        """Return a new backend. The options of the host are not checked again."""
        backend = cls.__new__(cls)
        backend.configure(host)
        return backend

    def configure(self, host: Host) -> None:
        """Set the options of a host as attributes of this backend."""
        self.alias = host.key
        self.refused_recipients = {}
        for name, option in host.table.items():
            value = host.options.get(name, option.default)
            # The host is shared by all its connections.
            setattr(self, name, copy.copy(value))

    @property
    def name(self) -> str:
        """How messages for people name it. Without a secret."""
        return f'host "{shown(self.alias)}"' if self.alias is not None else type(self).__name__

    @property
    def full_name(self) -> str:
        """Its name on errors: with the server, if it has one."""
        return self.name

    def outcomes(
        self, messages: Iterable[EmailMessage], *, keep_going: bool
    ) -> Iterator[Outcome]:
        """Yield what becomes of messages that have recipients.

        The rest is tried after an error only with ``keep_going``, and not if there is no
        connection: ``outcomes_of()`` knows what becomes of it then. A message of a list may be
        made before the one before it is accepted. Any other iterable is asked for a message
        when the one before it has its outcome.
        """
        return self.within_rate(self.deliver, messages, keep_going=keep_going)

    def deliver(
        self, messages: Iterable[EmailMessage], *, keep_going: bool
    ) -> Iterator[Outcome]:
        """Yield the same, of messages whose turn has come."""
        raise NotImplementedError

    def within_rate(
        self,
        send: Callable[..., Iterator[Outcome]],
        messages: Iterable[EmailMessage],
        *,
        keep_going: bool,
    ) -> Iterator[Outcome]:
        """Yield what ``send`` yields. With a rate, each message waits for its turn."""
        if not self.rate:
            return send(messages, keep_going=keep_going)
        # By its path: only hosts with a rate need this module.
        in_turn = import_string("email_hosts.backends.limited.outcomes")
        return cast("Iterator[Outcome]", in_turn(self, send, messages, keep_going=keep_going))

    def failed(
        self, message: EmailMessage | None, error: Exception, *, key: str | None = None
    ) -> Outcome:
        """Return the outcome of a message that this error has stopped.

        ``key`` is that of another host, which this one could not open.
        """
        name_host(error, self.full_name if key is None else f'host "{shown(key)}"')
        alias = self.alias if key is None else key
        then = Then.NEXT_MESSAGE if self.is_of_mail(error) else Then.END
        return Outcome(message, alias, error, then=then, name=self.name)

    def all_failed(
        self, messages: Iterable[EmailMessage], error: Exception, *, key: str | None = None
    ) -> Iterator[Outcome]:
        """Yield the outcome of each message that has recipients, after such an error."""
        for message in filter(has_recipients, messages):
            yield self.failed(message, error, key=key)._replace(was_offered=False)

    def unreachable(self, message: EmailMessage, error: Exception) -> Outcome:
        """Return the outcome of a message for which there is no connection, nor for others."""
        failed = self.failed(message, error)
        then = Then.END if failed.then is Then.END else Then.NO_CONNECTION
        return failed._replace(then=then, was_offered=delivery_of(error) == PERHAPS)

    def is_of_mail(self, error: Exception) -> bool:
        """Whether an error is one of sending mail. Others, like a time limit, end a send."""
        package = type(error).__module__.partition(".")[0]
        return isinstance(error, OSError) or package in {"anymail", self._package, *CLIENTS}

    @boundary
    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Send the messages. Return how many were accepted.

        Raises the first error. With ``fail_silently``, errors of mail are logged instead. The
        error for a list or tuple has the attributes ``sent`` and ``unsent``, lists of its
        messages, if these are known. Of the latter, ``failed`` has those that must not be
        sent again. Signals are sent at the end of a list, and after each message of any other
        iterable.
        """
        if isinstance(email_messages, EmailMessage):
            raise TypeError("it takes a list of messages; write send_messages([message])")
        if is_sending(self):
            # A log handler, message() or a generator sends over this object during another
            # send. It gets a connection of its own. A backend that is not ours may share the
            # rest with its copy: a file, or the session of an HTTP client.
            return int(copy.copy(self).send_messages(email_messages))
        report = Report(self, email_messages)
        try:
            try:
                is_list = report.messages is not None
                coming = email_messages if is_list else report.timed(email_messages)
                outcomes = outcomes_of(self, coming, keep_going=self.fail_silently)
                with closing(outcomes):  # type: ignore[type-var]
                    for outcome in outcomes:
                        report.add(outcome)
                        if not is_list:
                            report.tell()
            except BaseException as error:
                report.interrupt(error)
            report.tell()
        except BaseException as error:  # Ctrl-C in a receiver
            report.error = error
        self.refused_recipients, self.finished = report.refused, ()
        if report.error is not None:
            report.note_sent_and_unsent()
            raise report.error
        return report.sent

    def apply_host(self, message: EmailMessage) -> EmailMessage:
        """Return the message as this host sends it. Yours stays as it was.

        Raises ``InvalidEmailHost`` for a message that cannot be redirected.
        """
        return applied(message, self, self.rules)

    def through(
        self, connection: Backend, messages: Sequence[EmailMessage], *, keep_going: bool
    ) -> Iterator[Outcome]:
        """Yield what becomes of messages at another host, which gets this host's copies."""
        copies, notes = [], {}
        for message in messages:
            try:
                applied = self.apply_host(message)
            except Exception as error:
                yield self.failed(message, error)
                if not keep_going:
                    return
            else:
                copies.append(applied)
                notes[id(applied)] = message, Notes(message, applied)
        try:
            for outcome in outcomes_of(connection, copies, keep_going=keep_going):
                about = notes.get(id(outcome.message))
                for _, note in [about] if about else notes.values():
                    note.give_back()
                if outcome.then is Then.NO_CONNECTION:  # it has told of all its messages
                    outcome = outcome._replace(then=Then.NEXT_MESSAGE)
                yield outcome._replace(message=about and about[0])
        except BaseException as interruption:
            if about := notes.get(id(in_doubt(interruption))):
                interruption.in_doubt = about[0]  # type: ignore[attr-defined]
            raise

    def __reduce_ex__(self, protocol: object) -> Any:
        """Return what ``pickle`` keeps: neither the login nor an open socket.

        Raises ``TypeError`` for a connection that the key alone does not describe.
        """
        if self.pickled_key is None:
            raise TypeError(
                "a connection cannot be pickled if it has options of its own or comes from "
                "a DSN, because the pickle would hold its login; pass the key of the host, "
                "and call get_connection(key) where the message is sent"
            )
        return import_string("email_hosts.backends.get_connection"), (self.pickled_key,)

    def __copy__(self) -> Any:
        """Return another connection with the same options."""
        other = object.__new__(type(self))
        vars(other).update(vars(self), refused_recipients={})
        return other

    def __deepcopy__(self, memo: object) -> Any:
        """Return the same connection, so that a deep copy of a message keeps it.

        Django's in-memory backend makes deep copies of messages.
        """
        return self


def outcomes_of(
    connection: Backend, messages: Iterable[EmailMessage], *, keep_going: bool
) -> Iterator[Outcome]:
    """Yield what becomes of messages at a host, which counts as sending meanwhile.

    So does a host that another one sends through, because a message may hold its connection.
    With ``keep_going``, a connection that cannot be opened is the outcome of each message that
    is left of a list.
    """
    note: list[BaseEmailBackend] = [connection]
    is_list = isinstance(messages, (list, tuple))
    known: list[EmailMessage | None] = []
    error = None
    try:
        _sending.set((*filter(None, _sending.get()), note))
        with closing(connection.outcomes(messages, keep_going=keep_going)) as all_of:  # type: ignore[type-var]
            for outcome in all_of:
                if outcome.then is Then.NO_CONNECTION:
                    error = outcome.error
                told = [outcome.message] if outcome.is_final else []
                yield outcome
                del outcome
                if is_list:  # a generator may have no end
                    known += told  # after the yield, which an interruption may prevent
        if is_list and keep_going and error:
            yield from connection.all_failed(left_of(messages, known), error)
    except GeneratorExit:
        raise
    except BaseException as interruption:
        if is_list:
            note_doubt(interruption, left_of(messages, known))
        raise
    finally:
        error = None  # whose frames know this one: a reference cycle
        # An interruption may delay this until the generator is closed. To set the variable
        # again would then undo what has been set meanwhile.
        note.clear()


def is_sending(backend: BaseEmailBackend) -> bool:
    """Whether this is called inside of a send over this object."""
    return any(each is backend for note in _sending.get() for each in note)


def close_quietly(backend: Backend, close: Callable[[], Any]) -> None:
    """Call ``close``. An error of mail is ignored: what was accepted stays accepted."""
    try:
        close()
    except Exception as error:
        if not backend.is_of_mail(error):
            raise


class Connections:
    """The connections that one call uses. At the end, it closes those that it has opened."""

    def __init__(self) -> None:
        self._known: dict[object, Backend] = {}
        self._to_close: dict[object, Backend] = {}

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with ExitStack() as each_of_them:
            for connection in self._to_close.values():
                each_of_them.callback(close_quietly, connection, connection.close)

    def get(self, key: object) -> Backend | None:
        """Return the open connection of this key, if there is one."""
        return self._known.get(key)

    def open(self, key: object, connection: Backend, *, is_new: bool = True) -> None:
        """Open a connection, and keep it as the one of this key.

        One that is not new is closed at the end only if it was not open before.
        """
        if connection.open() or is_new:
            self._to_close[key] = connection
        self._known[key] = connection

    def drop(self, key: object) -> None:
        """Close the connection of this key after an error, so that the next one is new."""
        self._known.pop(key, None)
        if connection := self._to_close.pop(key, None):
            close_quietly(connection, connection.close)
