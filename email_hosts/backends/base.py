"""What a host does to a message, on any backend."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import lru_cache
from itertools import chain
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend

from .. import conf, hosts, signals
from ..dsn import default_port
from ..exceptions import InvalidEmailHost
from ..keyword_options import OF_REDIRECT, names_mailer
from ..options import (
    HOST_OPTION_NAMES,
    checked_host_options,
    did_you_mean,
    missing_headers,
)
from ..smtp.errors import mark
from ..smtp.redaction import Redactor
from ..tracebacks import clear_frames
from .redirect import FIELDS, redirected, refuse_to_go_past

DEFAULT_TIMEOUT = 60  # seconds

# Attributes of a message that a host sets on its copy.
OF_HOST = {"from_email", "reply_to", "envelope_sender", "extra_headers", "recipients", *FIELDS}


class HostMixin(BaseEmailBackend):
    """Makes a backend a host: it changes messages, has a key, and keeps no login in a pickle.

    ``take_host_options`` sets what it does to a message.
    """

    applies_host = True
    has_members = False  # whether it sends through the hosts that its option 'hosts' names
    asks_router = False
    alias: str | None = None
    # Whether it delivers to mail.outbox, where tests want to see the original recipients.
    is_outbox = False
    default_from_email = ""
    server_email = ""
    reply_to = ""
    envelope_from = ""
    headers: Mapping[str, str] = {}
    redirect_to = ""
    allowed_recipients: Sequence[str] = ()
    # The key, from which unpickling makes another connection. None if the connection
    # has options that the key does not stand for.
    pickled_key: str | None = None

    def __reduce_ex__(self, protocol: object) -> Any:
        """Return what ``pickle`` keeps: neither the login nor an open socket.

        Raises ``TypeError`` for a connection that the key alone does not describe.
        """
        if self.pickled_key is None:
            raise TypeError(
                "a connection cannot be pickled if it has options of its own or comes from "
                "a DSN, for its login would be in the pickle; pass the key of the host, and "
                "call get_connection(key) where the message is sent"
            )
        return hosts.get_connection, (self.pickled_key,)

    def __copy__(self) -> Any:
        """Return another connection with the same options."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __deepcopy__(self, memo: object) -> Any:
        """Return the same connection, so that a deep copy of a message keeps it.

        Django's in-memory backend makes deep copies of messages.
        """
        return self

    def apply_host(self, message: EmailMessage) -> EmailMessage:
        """Return the message as this host sends it.

        A message that the host must change is copied first. The caller's message stays as it
        was, and a backend that keeps messages (an outbox, a queue) keeps them as they are
        sent. Raises ``InvalidEmailHost`` for a message that cannot be redirected.
        """
        changes = self._additions(message)
        if self.redirect_to and not self.is_outbox:
            refuse_to_go_past(
                lambda name: getattr(message, name, None), "the message", self.alias
            )
            headers = changes.get("extra_headers", message.extra_headers)
            changes |= redirected(message, headers, self.redirect_to, self.allowed_recipients)
        if changes:
            message = copy.copy(message)
            for name, value in changes.items():
                setattr(message, name, value)
        return message

    def take_host_options(self, options: dict[str, Any]) -> None:
        """Move the host options from these options to attributes of this backend.

        Raises ``InvalidEmailHost`` for a value that is not valid.
        """
        try:
            checked = checked_host_options(options)
        except ValueError as error:
            raise InvalidEmailHost(str(error)) from None
        for name in HOST_OPTION_NAMES:
            options.pop(name, None)
        for name, value in checked.items():
            setattr(self, name, value)

    def _additions(self, message: EmailMessage) -> dict[str, Any]:
        """Return the attributes of the message that this host sets, except its recipients."""
        changes: dict[str, Any] = {}
        present = {name.lower() for name in message.extra_headers}
        sender = self._sender_for(message)
        if sender:
            changes["from_email"] = sender
        if self.reply_to and not message.reply_to and "reply-to" not in present:
            changes["reply_to"] = [self.reply_to]
        headers = missing_headers(self.headers, present)
        own = getattr(message, "envelope_sender", None)  # Anymail's name for it
        envelope = own if own and isinstance(own, str) else self.envelope_from
        sender = sender or message.from_email
        if not envelope or "from" in present:
            pass  # Django: with a From header, from_email is the envelope sender
        elif sender and isinstance(self, EmailBackend):  # or the wrapped backend is one
            changes["from_email"], headers["From"] = envelope, sender
        elif envelope != own:
            changes["envelope_sender"] = envelope
        if headers:
            changes["extra_headers"] = {**message.extra_headers, **headers}
        return changes

    def _sender_for(self, message: EmailMessage) -> str:
        from_email = message.from_email
        if from_email is None and getattr(message, "template_id", None):
            return ""  # Anymail: the sender of the template
        default_from_email, server_email = conf.project_senders()
        if self.default_from_email and from_email in ("", None, default_from_email):
            return self.default_from_email
        if self.server_email and from_email == server_email:
            return self.server_email
        return ""


def refuse_unknown(backend: type, options: dict[str, Any], *more: str) -> None:
    """Raise ``InvalidEmailHost`` for options that a backend does not have.

    It has the options that its constructor names, and ``more``.
    """
    # Private: what Django 6.1's own get_connection() wants a backend to ignore.
    unknown = options.keys() - options.pop("_ignore_unknown_kwargs", set())
    if unknown:
        name = min(unknown)
        if name in HOST_OPTION_NAMES:
            hint = "; write the mailer as a HostBackend, with this backend in its OPTIONS"
        else:
            own = inspect.signature(backend).parameters.keys() - {"others"}
            hint = did_you_mean(name, [*sorted(own), *more])
        raise InvalidEmailHost(f"unknown option {name!r}{hint}")


class HostBackend(HostMixin):
    """Makes any other backend a host, by wrapping it.

    ``backend`` is the backend itself, or its path, with its own options among ``options``. You
    can read and set its attributes here, and ``isinstance()`` sees its class.
    """

    wrapped: Any = None

    @clear_frames
    @names_mailer
    def __init__(
        self,
        backend: str | BaseEmailBackend = "",
        *,
        alias: str | None = None,
        **options: Any,
    ) -> None:
        # No super().__init__(): it sets ``fail_silently``, which the wrapped backend has.
        self.take_host_options(options)
        if isinstance(backend, str):
            backend = _construct(backend, alias, options)
        self.wrapped = backend
        self.alias = self.wrapped.alias = alias or None
        if self.redirect_to:
            defaults = getattr(self.wrapped, "send_defaults", {})
            refuse_to_go_past(defaults.get, "SEND_DEFAULTS", self.alias, *FIELDS)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._has(name):
            super().__setattr__(name, value)
        else:
            setattr(self.wrapped, name, value)

    def __delattr__(self, name: str) -> None:
        if self._has(name):
            super().__delattr__(name)
        else:
            delattr(self.wrapped, name)

    def _has(self, name: str) -> bool:
        """Whether an attribute is the host's own, and not one of the wrapped backend."""
        # A subclass may set its attributes before there is a wrapped backend.
        return hasattr(type(self), name) or name in vars(self) or self.wrapped is None

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The class of the wrapped backend, for ``isinstance()``."""
        return type(self.wrapped)

    @property
    def fail_silently(self) -> bool:
        """Whether the wrapped backend swallows errors."""
        # Not every backend has it. Reading it from one without it warns in Django 6.1.
        return bool(vars(self.wrapped).get("fail_silently", False))

    @fail_silently.setter
    def fail_silently(self, value: bool) -> None:
        self.wrapped.fail_silently = value

    def __copy__(self) -> Any:
        """Return another connection with the same options."""
        other = super().__copy__()
        other.wrapped = copy.copy(self.wrapped)
        return other

    @clear_frames
    def open(self) -> bool | None:
        """Open the wrapped backend; return what it returns."""
        try:
            opened: bool | None = self.wrapped.open()
        except Exception as error:  # whatever its class, nothing has been sent
            mark(error, body_was_sent=False)
            self._redact(error)
            raise
        return opened

    def close(self) -> None:
        """Close the wrapped backend."""
        self.wrapped.close()

    def _redact(self, error: Exception) -> None:
        """Remove the login from what a server replied to Django's SMTP backend."""
        if isinstance(self.wrapped, EmailBackend) and isinstance(error, OSError):
            username, password = self.wrapped.username, self.wrapped.password
            Redactor(username or "", password or "").redact_error(error)

    @clear_frames
    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Send the messages through the wrapped backend. Return how many it took.

        What the backend sets on a message, such as Anymail's ``anymail_status``, is
        copied to the caller's message.
        """
        if not isinstance(email_messages, (list, tuple)):
            return self._send_one_by_one(iter(email_messages))
        messages = list(email_messages)
        batch = list(map(self._applied, messages))
        try:
            sent = self._send(messages, batch)
        except Exception as error:
            self._redact(error)
            self._tell_failed(messages, error)
            raise
        self._tell_sent(messages, sent)
        return sent

    def _applied(self, message: EmailMessage) -> EmailMessage:
        try:
            return self.apply_host(message)
        except Exception as error:
            signals.tell(self, message, error)
            raise

    def _send(self, messages: list[EmailMessage], batch: list[EmailMessage]) -> int:
        before = [dict(vars(sent)) for sent in batch]
        tells_itself = hosts.is_host(self.wrapped)
        try:
            with signals.on_behalf_of(messages, batch) if tells_itself else nullcontext():
                # A copy, because the backend may change the list.
                return int(self.wrapped.send_messages(list(batch)) or 0)
        finally:
            for message, sent, old in zip(messages, batch, before, strict=True):
                if sent is not message:
                    _copy_changes(old, vars(sent), message)

    def _tell_sent(self, messages: list[EmailMessage], number: int) -> None:
        """Send the signals for a batch. The backend took this many of its messages."""
        if not signals.are_received() or hosts.is_host(self.wrapped):  # sends its own
            return
        with_recipients = [message for message in messages if message.recipients()]
        if number < len(with_recipients):
            self._tell_failed(messages, None)
        else:
            for message in with_recipients:
                signals.tell(self, message)

    def _tell_failed(self, messages: list[EmailMessage], error: Exception | None) -> None:
        """Send one signal for a batch if it is not known which messages were sent."""
        if not hosts.is_host(self.wrapped):
            message = messages[0] if len(messages) == 1 else None
            signals.tell_failed(self, message, error, alias=self.alias)

    def _send_one_by_one(self, coming: Iterator[EmailMessage]) -> int:
        """Send each message before the next one is asked for, over one connection.

        A generator may wait for its next message, or hold more than fits into memory.
        """
        first = next(coming, None)
        if first is None:
            return 0
        try:
            opened = self.open()
        except Exception as error:
            self._tell_failed([first], error)
            raise
        try:
            return sum(self.send_messages([message]) for message in chain([first], coming))
        finally:
            if opened:
                self.close()


def close_quietly(connection: BaseEmailBackend) -> None:
    """Close a connection. Raises nothing: what was accepted stays accepted."""
    with suppress(Exception):
        connection.close()


def _construct(path: str, alias: str | None, options: dict[str, Any]) -> Any:
    """Return the backend of a path, without the settings of the project's mail server."""
    if not path:
        raise InvalidEmailHost("option 'backend' must name the backend to wrap")
    backend_class: Any = hosts.import_backend(path)
    # With an alias, Django's backends do not read the settings that MAILERS replaces. Before
    # Django 6.1 they take no alias. Remove the condition once we require 6.1.
    named = {"alias": alias or ""} if conf.DJANGO_HAS_MAILERS else {}
    _refuse_misspelt_redirect(backend_class, options)
    if not issubclass(backend_class, EmailBackend):
        return backend_class(**named, **options)
    # Checked here, because Django raises ValueError in a frame that holds the password.
    port = default_port(options.get("use_ssl"), options.get("use_tls"))
    # The credentials of the project's mail server are not meant for another one. The
    # constructor of a subclass may not take all of these, or set some itself.
    transport = {"use_ssl": False, "use_tls": False}
    empty = dict.fromkeys(("username", "password", "ssl_keyfile", "ssl_certfile"), "")
    try:
        backend = backend_class(**named, **{**transport, **empty, **options})
    except TypeError:
        backend = backend_class(**named, **options)
    defaults = {**transport, "port": port, "timeout": DEFAULT_TIMEOUT}
    for option, value in conf.global_smtp_options().items():
        if not options.get(option) and getattr(backend, option, None) in (value, None):
            setattr(backend, option, defaults.get(option, ""))
    if not backend.host:
        raise InvalidEmailHost("option 'host' is missing")
    return backend


def _refuse_misspelt_redirect(backend_class: type, options: Iterable[str]) -> None:
    """Refuse an option that was probably meant to redirect.

    Before Django 6.1, backends ignore unknown options, and your customers would get the mail.
    """
    for name in options:
        hint = _hint_at_redirect(name)
        if hint and name not in inspect.signature(backend_class).parameters:
            raise InvalidEmailHost(f"unknown option {name!r}{hint}")


@lru_cache(maxsize=1024)
def _hint_at_redirect(name: str) -> str:
    return did_you_mean(name, OF_REDIRECT, cutoff=0.8)


def _copy_changes(old: dict[str, Any], new: dict[str, Any], message: EmailMessage) -> None:
    """Set on the caller's message what a backend has set on its copy.

    This leaves out what a host sets, because another thread may be sending the same message.
    """
    for name, value in new.items():
        if name not in OF_HOST and value is not old.get(name, old):
            setattr(message, name, value)
