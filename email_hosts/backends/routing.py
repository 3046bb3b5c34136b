"""Picks a host for each message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from .. import conf
from ..delivery import Outcome, Then, left_of
from ..exceptions import (
    EmailHostDoesNotExist,
    InvalidEmailHost,
    checked_key,
    is_interruption,
    path_of,
)
from ..host import ROUTING_BACKEND
from ..hosts import adopt, connection_to
from ..registry import host_of_sender
from ..retry import NOT_SENT, set_delivery
from .base import Backend, Connections

_is_asking_router: ContextVar[bool] = ContextVar("is_asking_router", default=False)


class RoutingBackend(Backend):
    """The default backend of a project, which sends each message through one of its hosts.

    ``EMAIL_HOSTS_ROUTER`` picks the host. It is a callable or its path: ``router(message)``
    returns a key, a connection, or ``None``. Without one, the host is the one whose
    ``_default_from_email`` matches the sender. A message without a host goes to the host
    ``"default"``. If there is none, ``EmailHostDoesNotExist`` is raised.

    After an error of mail, a list goes on. At its end, the first error is raised.
    """

    path = ROUTING_BACKEND

    @property
    def full_name(self) -> str:
        """Nothing: what the router raises is about no host."""
        return ""

    def outcomes(
        self, messages: Iterable[EmailMessage], *, keep_going: bool
    ) -> Iterator[Outcome]:
        """Yield what becomes of each message at the host that the router picks.

        Each host gets its messages in batches, over one connection. A connection that the
        router returns is closed after its batch, if it was not open before.
        """
        is_list = isinstance(messages, (list, tuple))
        with Connections() as connections:
            batches = [messages] if is_list else ([message] for message in messages)
            for batch in batches:
                for outcome in self._send_batch(batch, connections):
                    # A host that is not valid does not hold back the mail of the others.
                    is_invalid = isinstance(outcome.error, InvalidEmailHost)
                    if is_invalid and outcome.then is Then.END:
                        outcome = outcome._replace(then=Then.NEXT_MESSAGE)
                    yield outcome
                    if outcome.ends(keep_going=is_list or keep_going):
                        return

    def _send_batch(
        self, batch: Iterable[EmailMessage], connections: Connections
    ) -> Iterator[Outcome]:
        # Connections are told apart by identity, because a class may define equality.
        by_host: dict[str | int, tuple[str | BaseEmailBackend, list[EmailMessage]]] = {}
        for message in batch:
            try:
                host = self._ask_router(message)
            except Exception as error:
                yield self.failed(message, error)
            else:
                name = host if isinstance(host, str) else id(host)
                by_host.setdefault(name, (host, []))[1].append(message)
        for host, messages in by_host.values():
            yield from self._send_to(host, messages, connections)

    def _send_to(
        self,
        host: str | BaseEmailBackend,
        messages: Sequence[EmailMessage],
        connections: Connections,
    ) -> Iterator[Outcome]:
        is_new = isinstance(host, str)
        name = host if is_new else id(host)
        connection = connections.get(name)
        try:
            if connection is None:
                connection = connection_to(host) if isinstance(host, str) else adopt(host)
                connections.open(name, connection, is_new=is_new)
        except Exception as error:
            if isinstance(error, EmailHostDoesNotExist):
                why = "no host has its sender"
                if router := conf.router():
                    picked = "no host" if host == "default" else "this key"
                    why = f"{_name_of(router)} returned {picked}"
                error.args = (f"{error}; {why}",)
            elif not isinstance(error, InvalidEmailHost):
                set_delivery(error, NOT_SENT)
            key = host if isinstance(host, str) else getattr(host, "alias", None)
            yield from (connection or self).all_failed(messages, error, key=key)
            return
        try:
            left = messages
            while left:
                known, behind = [], 0  # behind the message that has ended the list
                for outcome in self.through(connection, left, keep_going=True):
                    if outcome.is_final:
                        known.append(outcome.message)
                    yield outcome
                    # One that the host cannot take does so.
                    if isinstance(outcome.error, InvalidEmailHost) and outcome.message:
                        behind = [each is outcome.message for each in left].index(True) + 1
                if not behind:
                    break
                # Where the host does not say which it took, the order does.
                left = left[behind:] if None in known else left_of(left, known)
        finally:
            if not is_new:  # the router may return a new one for each message
                connections.drop(name)

    def _ask_router(self, message: EmailMessage) -> str | BaseEmailBackend:
        """Return the key of the host for a message, or the connection that the router returns.

        Raises ``InvalidEmailHost`` if the router returns a DSN or a ``RoutingBackend``, or
        sends mail that asks the router again, and ``TypeError`` for any other result.
        """
        if _is_asking_router.get():
            raise InvalidEmailHost("the router sends mail through itself")
        try:  # first: a signal handler may raise behind any call
            _is_asking_router.set(True)
            router = conf.router() or host_of_sender
            host = router(message)
        except BaseException as error:
            if is_interruption(error):
                set_delivery(error, NOT_SENT)
            raise
        finally:
            _is_asking_router.set(False)
        if isinstance(host, RoutingBackend):
            raise InvalidEmailHost(
                f"{_name_of(router)} returned a RoutingBackend, which asks the router again"
            )
        if isinstance(host, BaseEmailBackend):
            return host
        if isinstance(host, str | None):
            try:
                return checked_key(host or "default")
            except InvalidEmailHost as error:
                error.args = (f"{_name_of(router)} returned a DSN: {error}",)
                raise
        raise TypeError(
            f"{_name_of(router)} must return the key of a host, a connection or None, not "
            f"{type(host).__name__}"
        )


def _name_of(router: Any) -> str:
    """Return the setting and the name of the router, for an error message."""
    return f"EMAIL_HOSTS_ROUTER ({path_of(router)})"
