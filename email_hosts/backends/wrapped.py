"""Makes any other backend a host."""

from __future__ import annotations

import copy
import difflib
import inspect
import re
import smtplib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend

from .. import conf
from ..boundary import boundary
from ..delivery import Outcome, clock, has_recipients
from ..exceptions import InvalidEmailHost, path_of, summarize
from ..host import Host, checked_path, class_at, default_port
from ..log import warn
from ..options import HOST_OPTIONS, SMTP_OPTIONS, did_you_mean
from ..retry import NOT_SENT, PERHAPS, is_answer, set_delivery
from ..rules import SMTP_RULES, Notes, copied
from ..rules.redirect import FIELDS, refuse_other_recipients
from ..smtp.redaction import Redactor
from .base import Backend, close_quietly, is_sending
from .smtp import DEFAULT_TIMEOUT


class HostBackend(Backend):
    """Makes any other backend a host, by wrapping it.

    ``backend`` is the backend itself, or the path of its class. ``options`` are those of the
    host, and with a path also those of the backend. You can read the attributes of the wrapped
    backend here. To set them, use ``wrapped``.
    """

    wrapped: Any = None

    @boundary
    def __init__(self, backend: str | BaseEmailBackend = "", **options: Any) -> None:
        if hasattr(backend, "send_messages") and not isinstance(backend, type):
            self.wrapped = backend
        self.path = checked_path(backend) if self.wrapped is None else path_of(backend)
        super().__init__(**options)

    def configure(self, host: Host) -> None:
        """Set the options of a host, and make the backend that it wraps unless it is given."""
        super().configure(host)
        if is_made_here := self.wrapped is None:
            self.wrapped = _construct(host)
        self._package = type(self.wrapped).__module__.partition(".")[0]
        if isinstance(self.wrapped, EmailBackend):
            self.rules = SMTP_RULES
        if is_made_here or host.key:
            self.wrapped.alias = host.key  # None without a key, and not ""
        if self.redirect_to:
            defaults = getattr(self.wrapped, "send_defaults", {})
            refuse_other_recipients(defaults.get, "SEND_DEFAULTS", self.alias, *FIELDS)

    @property
    def name(self) -> str:
        """How messages for people name it. ``""`` if there is nothing that it could wrap."""
        if self.alias is None:
            return "" if self.wrapped is None else path_of(self.wrapped)
        return super().name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    def is_of_mail(self, error: Exception) -> bool:
        """Whether an error is one of sending mail, or a provider's answer."""
        return super().is_of_mail(error) or is_answer(error)

    def __copy__(self) -> Any:
        """Return another connection with the same options."""
        other = super().__copy__()
        other.wrapped = copy.copy(self.wrapped)
        if isinstance(other.wrapped, EmailBackend):
            other.wrapped.connection = None
            other.wrapped._lock = threading.RLock()  # Private: the lock of Django's backend
        return other

    @boundary
    def open(self) -> bool | None:
        """Open the wrapped backend; return what it returns.

        ``None`` may also mean an error of mail that ``fail_silently`` ignores and logs.
        """
        try:
            return self._open()
        except Exception as error:
            if not (self.fail_silently and self.is_of_mail(error)):
                raise
            warn("%s: %s, ignored by fail_silently", self.name, summarize(error))
            return None

    def close(self) -> None:
        """Close the wrapped backend. Inside of a send over this object, it does nothing."""
        if not is_sending(self):
            self.wrapped.close()

    def deliver(
        self, messages: Iterable[EmailMessage], *, keep_going: bool
    ) -> Iterator[Outcome]:
        """Yield what becomes of the messages.

        A list is one call of the wrapped backend. Its error does not say which messages were
        sent. So with ``keep_going``, each message has a call of its own.
        """
        wraps_ours = isinstance(self.wrapped, Backend)
        if isinstance(messages, (list, tuple)) and not keep_going and not wraps_ours:
            yield from self._send(messages)
            return
        is_open, opened = False, None
        try:
            for message in messages:
                if not is_open:
                    try:
                        is_open, opened = True, self._open() or opened
                    except Exception as error:
                        yield self.unreachable(message, error)
                        return
                for outcome in (
                    self.through(self.wrapped, [message], keep_going=False)
                    if wraps_ours
                    else self._send([message])
                ):
                    yield outcome
                    if outcome.ends(keep_going=keep_going):
                        return
                    if self._has_lost_connection():
                        close_quietly(self, self.wrapped.close)
                        is_open = False
        finally:
            if opened:
                close_quietly(self, self.wrapped.close)

    def _has_lost_connection(self) -> bool:
        """Whether smtplib has closed it. Django's backend would go on over it."""
        connection = getattr(self.wrapped, "connection", None)
        return isinstance(connection, smtplib.SMTP) and connection.sock is None

    def _send(self, messages: Sequence[EmailMessage]) -> Iterator[Outcome]:
        copies = []
        for message in messages:
            try:
                copies.append(_without_connection(self.apply_host(message)))
            except Exception as error:
                yield self.failed(message, error)._replace(was_offered=False)
                return
        notes = list(map(Notes, messages, copies))
        sent = list(filter(has_recipients, messages))
        began = clock()
        try:
            taken = self._call(list(copies))  # the backend may change the list
        except Exception as error:
            self._redact(error)
            if not self.is_of_mail(error):  # it may come from another send, in a log handler
                set_delivery(error, PERHAPS)
            yield self.failed(messages[0] if len(messages) == 1 else None, error)
            return
        except BaseException:
            yield Outcome(None, self.alias, number=0)  # nobody knows which were sent
            raise
        finally:
            for note in notes:
                note.give_back()
        # What queues return (a list of tasks, True, None) says nothing about numbers.
        if isinstance(taken, int) and taken is not True and taken < len(sent):
            yield Outcome(None, self.alias, number=max(taken, 0))
            return
        seconds = clock() - began  # of the list
        for message in sent:
            yield Outcome(message, self.alias, seconds=seconds)

    @boundary  # a receiver of a signal may get an error that the caller does not
    def _open(self) -> bool | None:
        try:
            opened: bool | None = self.wrapped.open()
        except Exception as error:
            set_delivery(error, NOT_SENT)  # whatever its class
            self._redact(error)
            raise
        return opened

    @boundary
    def _call(self, messages: list[EmailMessage]) -> Any:
        return self.wrapped.send_messages(messages)

    def _redact(self, error: Exception) -> None:
        """Remove the login from what a server replied to Django's SMTP backend."""
        if isinstance(self.wrapped, EmailBackend) and isinstance(error, OSError):
            username, password = self.wrapped.username, self.wrapped.password
            Redactor(username or "", password or "").redact_error(error)


def _without_connection(message: EmailMessage) -> EmailMessage:
    """Return the message without a connection of ours, which ``send_mail()`` gives it.

    A queue may pickle the message. Where it is sent later, the queue would get it again.
    """
    names = ("connection", "_connection")  # Private: the latter, since Django 6.1
    ours = [name for name in names if isinstance(vars(message).get(name), Backend)]
    if ours:
        message = copied(message)
        vars(message).update(dict.fromkeys(ours))
    return message


def _construct(host: Host) -> Any:
    """Return the backend of a host, without the settings of the project's mail server."""
    backend_class: Any = class_at(host.backend)
    options = {name: value for name, value in host.options.items() if name not in HOST_OPTIONS}
    _refuse_misspelt_redirect(backend_class, *options)
    # With an alias, Django's backends do not read the settings that MAILERS replaces. Before
    # Django 6.1 they take no alias. Remove the condition once we require 6.1.
    named = {"alias": host.key or ""} if conf.DJANGO_HAS_MAILERS else {}
    if host.backend.startswith("anymail."):
        return _of_anymail(backend_class, named, options)
    if not issubclass(backend_class, EmailBackend):
        return _of_any_package(backend_class, named, options)
    # The credentials of the project's mail server are not meant for another one. The
    # constructor of a subclass may not take all of these, or set some itself.
    transport = {"use_ssl": False, "use_tls": False}
    empty = dict.fromkeys(("username", "password", "ssl_keyfile", "ssl_certfile"), "")
    try:
        backend = backend_class(**named, **{**transport, **empty, **options})
    except TypeError:
        backend = backend_class(**named, **options)
    defaults = {**transport, "port": default_port(options), "timeout": DEFAULT_TIMEOUT}
    for option, value in conf.global_smtp_options().items():
        if not options.get(option) and getattr(backend, option, None) in (value, None):
            setattr(backend, option, defaults.get(option, ""))
    if not backend.host:
        raise InvalidEmailHost("option 'host' is missing")
    return backend


def _of_any_package(
    backend_class: Any, named: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    """Return a backend of any package.

    A constructor that does not know Django 6.1 yet refuses the alias, or passes it on together
    with ``fail_silently``, which Django refuses.
    """
    try:
        return backend_class(**named, **options)
    except (TypeError, ImproperlyConfigured) as error:
        text = str(error).removeprefix(f"MAILERS[{named.get('alias')!r}]: ")
        refused = {*re.findall(r"'(\w+)'", text)}
        if not named or not refused or refused - {"alias", "fail_silently"}:
            raise
    return backend_class(**options)  # pragma: mailers-only


@lru_cache(maxsize=1024)  # each new connection asks again
def _refuse_misspelt_redirect(backend_class: type, *names: str) -> None:
    """Refuse an option that was probably meant to redirect.

    Before Django 6.1, backends ignore unknown options, and your customers would get the mail.
    """
    of_redirect = [name for name, each in HOST_OPTIONS.items() if not each.can_be_removed]
    for name in names:
        hint = did_you_mean(name, of_redirect, cutoff=0.8)
        if hint and name not in inspect.signature(backend_class).parameters:
            raise InvalidEmailHost(f"unknown option {name!r}{hint}")


class _Rest(BaseEmailBackend):
    """Stands behind a backend of Anymail, and keeps the options that it passes on."""

    def __init__(self, **options: Any) -> None:
        self.rest = options


# The names of options that a class of Anymail has been found to know. Finding out takes as
# long as making the backend.
_known: set[tuple[type, frozenset[str]]] = set()


def _of_anymail(
    backend_class: Any, named: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    """Return a backend of Anymail, without a mistake in its options."""
    names = backend_class, frozenset(options)
    if names in _known:
        with suppress(ImproperlyConfigured):  # told below, in our words
            return backend_class(**named, **options)
    _refuse_mistakes(backend_class, options)
    _known.add(names)
    return backend_class(**named, **options)


def _refuse_mistakes(backend_class: Any, options: Mapping[str, Any]) -> None:
    """Refuse an option that Anymail does not know, and the lack of one that it needs.

    Before Django 6.1, it ignores unknown options. Where it misses one, it names its settings.
    """
    try:
        trial: Any = type("Trial", (backend_class, _Rest), {})(**options)
    except ImproperlyConfigured as error:
        setting = re.search(r"ANYMAIL = \{'(\w+)'", str(error))
        if setting is None:
            raise
    else:
        # Anymail 14 passes on what it reads later, too.
        for unknown in [name for name in trial.rest if name not in vars(trial)]:
            if not unknown.islower():  # it may be the end of a key
                raise InvalidEmailHost(
                    "the text after an ampersand is not an option; percent-encode an "
                    "ampersand that belongs to a value"
                )
            hint = did_you_mean(unknown, vars(trial), cutoff=0.8)
            if unknown in SMTP_OPTIONS:
                hint = "; it is for SMTP hosts only"
            raise InvalidEmailHost(f"unknown option {unknown!r}{hint}")
        return
    provider = backend_class.esp_name.upper().replace(" ", "_")
    missing = setting[1].removeprefix(f"{provider}_").lower()
    for misspelt in difflib.get_close_matches(missing, options, n=1, cutoff=0.7):
        raise InvalidEmailHost(f"unknown option {misspelt!r}; did you mean '{missing}'?")
    raise InvalidEmailHost(f"option '{missing}' is missing; in a DSN, write ?{missing}=...")
