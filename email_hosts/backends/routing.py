"""Picks a host for each message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from itertools import islice
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.locmem import EmailBackend as LocmemBackend

from .. import conf, host_lookup, hosts, signals
from ..dsn import checked_key
from ..exceptions import InvalidEmailHost, summarize
from ..keyword_options import names_mailer
from ..log import warn
from ..options import HOST_OPTION_NAMES
from ..testing import capture
from ..tracebacks import clear_frames
from .base import HostMixin, close_quietly, refuse_unknown
from .failover import FailoverBackend
from .outbox import OutboxBackend

MAX_BATCH = 100  # messages

_is_asking_router: ContextVar[bool] = ContextVar("is_asking_router", default=False)


class RoutingBackend(HostMixin):
    """The default backend of a project, which sends each message through one of its hosts.

    ``EMAIL_HOSTS_ROUTER`` picks the host. It is a callable or its path: ``router(message)``
    returns a key, a connection, or ``None``. Without one, ``host_of_sender`` picks the host. A
    message without a host goes to the host ``"default"``. If there is none,
    ``EmailHostDoesNotExist`` is raised.
    """

    asks_router = True

    @clear_frames
    @names_mailer
    def __init__(
        self,
        *,
        alias: str | None = None,
        fail_silently: bool = False,
        **others: Any,
    ) -> None:
        super().__init__()
        if alias is not None:
            refuse_unknown(RoutingBackend, others)
        # Without an alias it is EMAIL_BACKEND. Callers such as send_mail() pass it options
        # that Django's backends ignore if they do not know them. No host may get these.
        self.alias = alias
        self.fail_silently = fail_silently

    @clear_frames
    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Send the messages. Return how many were accepted.

        Each host gets its messages in batches, over one connection. An error of one host does
        not hold back the mail of the others: the first error is raised at the end.

        A connection that the router returns is closed after its batch if it was not open
        before.
        """
        connections: dict[str, BaseEmailBackend] = {}
        first: Exception | None = None
        sent = 0
        try:
            for batch in _batches(email_messages):
                accepted, errors = self._send_batch(batch, connections)
                sent += accepted
                if errors and not (first or self.fail_silently):
                    first = errors.pop(0)
                _log_ignored(errors)
        except BaseException:  # from the iterable, and raised in place of the first
            _log_ignored([first] if first else [])
            raise
        finally:
            for connection in connections.values():
                close_quietly(connection)
        if first:
            raise first
        return sent

    def _send_batch(
        self, batch: list[EmailMessage], connections: dict[str, BaseEmailBackend]
    ) -> tuple[int, list[Exception]]:
        """Return how many messages were accepted, and the errors of the others."""
        errors: list[Exception] = []
        # Connections are told apart by identity, because a class may define equality.
        by_host: dict[str | int, tuple[str | BaseEmailBackend, list[EmailMessage]]] = {}
        for message in batch:
            try:
                host = _ask_router(message)
            except Exception as error:
                signals.tell_failed(self, message, error, alias=None)
                errors.append(error)
            else:
                name = host if isinstance(host, str) else id(host)
                by_host.setdefault(name, (host, []))[1].append(message)
        sent = 0
        for host, messages in by_host.values():
            try:
                sent += self._send_to(host, messages, connections)
            except Exception as error:
                errors.append(error)
        return sent, errors

    def _send_to(
        self,
        host: str | BaseEmailBackend,
        messages: list[EmailMessage],
        connections: dict[str, BaseEmailBackend],
    ) -> int:
        """Send the messages through a host, or over a connection from the router.

        A connection that was closed is closed again, because the router may return a new one
        for each message.
        """
        opened = None
        try:
            if isinstance(host, str):
                connection = self._connection(host, connections)
            else:
                connection = _captured(host) if _goes_to_outbox(host) else host
                opened = connection.open()
        except Exception as error:
            alias = host if isinstance(host, str) else getattr(host, "alias", None)
            signals.tell_failed(self, messages[0], error, alias=alias)
            raise
        try:
            return connection.send_messages(messages) or 0
        finally:
            if opened:
                close_quietly(connection)

    def _connection(
        self, key: str, connections: dict[str, BaseEmailBackend]
    ) -> BaseEmailBackend:
        """Return the open connection to this host. Open it the first time."""
        if key not in connections:
            connection = hosts.get_host(key, fail_silently=self.fail_silently)
            connection.open()
            connections[key] = connection
        return connections[key]


def _goes_to_outbox(connection: BaseEmailBackend) -> bool:
    """Whether tests capture the mail of a connection that the router itself has made.

    A failover is not captured as a whole, because its hosts are captured.
    """
    if isinstance(connection, LocmemBackend | FailoverBackend):
        return False
    return capture.captures_mail() and not capture.is_real()


def _captured(connection: Any) -> OutboxBackend:
    """Return an outbox that changes a message as this connection does."""
    options = {}
    if hosts.is_host(connection):
        options = {name: getattr(connection, name) for name in HOST_OPTION_NAMES}
    return OutboxBackend(alias=getattr(connection, "alias", None), **options)


def _log_ignored(errors: list[Exception]) -> None:
    for error in errors:
        warn("router: %s, ignored", summarize(error))


def _batches(messages: Iterable[EmailMessage]) -> Iterator[list[EmailMessage]]:
    """Yield a list in pieces, and the messages of any other iterable one by one.

    A generator may wait for its next message, or hold more than fits into memory.
    """
    size = MAX_BATCH if isinstance(messages, (list, tuple)) else 1
    coming = iter(messages)
    while batch := list(islice(coming, size)):
        yield batch


def host_of_sender(message: EmailMessage) -> str | None:
    """Return the key of the host whose ``_default_from_email`` matches the sender.

    A host with the same address comes first, then the first host with the same domain.
    """
    return host_lookup.current().host_of(message.from_email)


def _ask_router(message: EmailMessage) -> str | BaseEmailBackend:
    """Return the key of the host for a message, or the connection that the router returns.

    Raises ``InvalidEmailHost`` if the router returns a DSN or a ``RoutingBackend``, or
    sends mail that asks the router again, and ``TypeError`` for any other result.
    """
    if _is_asking_router.get():
        raise InvalidEmailHost("the router sends mail through itself")
    token = _is_asking_router.set(True)
    try:
        router = conf.router() or host_of_sender
        host = router(message)
    finally:
        _is_asking_router.reset(token)
    if isinstance(host, RoutingBackend):
        raise InvalidEmailHost(f"{_name_of(router)} returned a connection that asks it again")
    if isinstance(host, BaseEmailBackend):
        return host
    if isinstance(host, str | None):
        return checked_key(host or "default")
    raise TypeError(
        f"{_name_of(router)} must return the key of a host, a connection or None, not "
        f"{type(host).__name__}"
    )


def _name_of(router: Any) -> str:
    """Return the setting and the name of the router, for an error message."""
    named = router if hasattr(router, "__qualname__") else type(router)
    return f"EMAIL_HOSTS_ROUTER ({named.__module__}.{named.__qualname__})"
