"""Sends through several hosts: the next one after a failure, or each in turn."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from .. import hosts, signals
from ..dsn import keys_of
from ..exceptions import AllHostsFailed, InvalidEmailHost, shown, summarize
from ..keyword_options import checked, names_mailer
from ..log import warn
from ..options import boolean, seconds
from ..retry import may_be_tried_elsewhere
from ..smtp.errors import body_was_sent
from ..tracebacks import clear_frames
from .base import HostMixin, close_quietly, refuse_unknown

clock = time.monotonic

# What a host that cannot be opened raises. Other errors, such as the time limit of a task
# queue, are not the fault of the host.
UNUSABLE = (OSError, ValueError, TypeError, ImportError, ImproperlyConfigured)


class FailoverBackend(HostMixin):
    """Sends each message through the first of its hosts that takes it.

    ``hosts`` are keys. A host that has just failed comes last for ``retry`` seconds. With
    ``rotate``, each message starts at the next host. The next host is tried only if this one
    certainly did not take the message. Any other error is raised.

    Raises ``AllHostsFailed`` if no host could be used, and ``InvalidEmailHost`` for options
    that are not valid.
    """

    has_members = True

    @clear_frames
    @names_mailer
    @checked({"retry": seconds, "rotate": boolean})
    def __init__(
        self,
        hosts: Iterable[str] = (),
        retry: float = 60,
        rotate: bool = False,
        *,
        alias: str | None = None,
        fail_silently: bool = False,
        **others: Any,
    ) -> None:
        super().__init__()
        # Without an alias it is EMAIL_BACKEND, and callers pass it the options of Django's
        # backends.
        if alias is not None:
            refuse_unknown(FailoverBackend, others)
        self.hosts = keys_of(hosts)
        if not self.hosts:
            raise InvalidEmailHost("option 'hosts' must name hosts")
        self.retry = retry
        self.rotate = rotate
        self.alias = alias
        self.fail_silently = fail_silently

    @clear_frames
    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Send the messages. Return how many were accepted."""
        sent = 0
        health = _healths.setdefault((self.alias, self.hosts), _HostHealth())
        connections: dict[str, BaseEmailBackend] = {}
        try:
            for message in email_messages:
                try:
                    sent += self._send(message, health, connections)
                except Exception as error:
                    if not self.fail_silently:
                        raise
                    warn("%s: %s, ignored by fail_silently", self._name, summarize(error))
        finally:
            for connection in connections.values():
                close_quietly(connection)
        return sent

    @property
    def _name(self) -> str:
        return f'host "{shown(self.alias or ",".join(self.hosts))}"'

    def _send(
        self,
        message: EmailMessage,
        health: _HostHealth,
        connections: dict[str, BaseEmailBackend],
    ) -> int:
        errors: dict[str, Exception] = {}
        for key in health.order(self.hosts, rotate=self.rotate):
            is_open = key in connections
            try:
                if not is_open:
                    connections[key] = self._open(key, message)
                    is_open = True
                sent = connections[key].send_messages([message])
            except Exception as error:
                if is_open:
                    close_quietly(connections.pop(key))
                if not _next_host_gets_it(error, was_open=is_open):
                    raise
                errors[key] = error
            else:
                health.succeeded(key)
                return sent or 0
            health.failed(key, self.retry)
            failed, reason = shown(key), summarize(errors[key])
            warn('%s: host "%s" failed: %s', self._name, failed, reason)
        raise AllHostsFailed(errors, alias=self.alias)

    def _open(self, key: str, message: EmailMessage) -> BaseEmailBackend:
        """Return an open connection to a host, for this message and those after it."""
        try:
            connection = hosts.get_host(key)
            connection.open()
        except Exception as error:
            signals.tell_failed(self, message, error, alias=key)
            raise
        return connection


def _next_host_gets_it(error: Exception, *, was_open: bool) -> bool:
    """Whether the next host gets the message: only if certainly nobody has it yet."""
    if was_open:
        return may_be_tried_elsewhere(error)
    return isinstance(error, UNUSABLE) or not body_was_sent(error)


class _HostHealth:
    """Which hosts are down and whose turn it is, for the whole process."""

    def __init__(self) -> None:
        # Reentrant: a signal handler may send mail while its own thread holds the lock.
        self._lock = threading.RLock()
        self._down_until: dict[str, float] = {}
        self._turn: int | None = None

    def order(self, keys: tuple[str, ...], *, rotate: bool) -> list[str]:
        """Return the hosts in the order in which to try them, those that are down last."""
        with self._lock:
            if rotate:
                # Random at first, so that processes do not all start with one host.
                turn = random.randrange(len(keys)) if self._turn is None else self._turn  # noqa: S311
                self._turn = (turn + 1) % len(keys)
                keys = keys[turn:] + keys[:turn]
            now = clock()
            return sorted(keys, key=lambda key: self._down_until.get(key, 0) > now)

    def failed(self, key: str, retry: float) -> None:
        """Try the host last for this number of seconds."""
        with self._lock:
            self._down_until[key] = clock() + retry

    def succeeded(self, key: str) -> None:
        """Try the host in its turn again."""
        with self._lock:
            self._down_until.pop(key, None)


_healths: dict[object, _HostHealth] = {}
if hasattr(os, "register_at_fork"):  # pragma: no branch (there is no fork on Windows)
    # Another thread of the parent may have held a lock.
    os.register_at_fork(after_in_child=_healths.clear)
