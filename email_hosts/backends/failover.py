"""Several hosts as one: in order, the next where one fails, or each in turn."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from .. import hosts
from ..circle import another_way, handing_over_to, not_in_a_circle
from ..dsn import keys_of
from ..exceptions import AllHostsFailed, InvalidEmailHost, without_text
from ..log import warn
from ..retry import can_be_retried

clock = time.monotonic

# What a host can raise before it gets a message: Django's backends, and those of others.
# Not Exception: a time limit of the caller's, Celery's say, is no fault of the host.
UNUSABLE = (OSError, ValueError, TypeError, ImportError, ImproperlyConfigured)


class FailoverBackend(BaseEmailBackend):
    """Sends each message through the first of its hosts that takes it.

    ``hosts`` are keys. One that has just failed comes last for ``retry`` seconds. With
    ``rotate``, each message starts at the next host. The next one is tried only if this
    one surely did not take the message; any other error is the caller's.

    Raises ``AllHostsFailed`` if none could be used, and ``InvalidEmailHost`` for options
    that do not fit.
    """

    sends_through_hosts = True

    def __init__(
        self,
        hosts: Iterable[str],
        retry: float = 60,
        rotate: bool = False,
        *,
        alias: str | None = None,
        fail_silently: bool = False,
        _ignore_unknown_kwargs: object = None,  # private: from Django 6.1's get_connection()
    ) -> None:
        super().__init__()
        self.hosts = keys_of(hosts)
        if not self.hosts or not retry > 0:
            raise InvalidEmailHost(
                "it needs hosts, and 'retry' in seconds above 0", alias=alias
            )
        self.retry = retry
        self.rotate = rotate
        self.alias = alias
        self.fail_silently = fail_silently

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Send the messages; return how many were accepted."""
        sent = 0
        standing = _standing((self.alias, self.hosts))
        with _Connections() as connections:
            for message in email_messages:
                try:
                    with not_in_a_circle(self._name):
                        sent += self._send(message, standing, connections)
                except Exception as error:
                    if not self.fail_silently:
                        raise
                    warn(
                        "%s: %s, passed over by fail_silently",
                        self._name,
                        without_text(error),
                    )
        return sent

    @property
    def _name(self) -> str:
        return f'host "{self.alias or ",".join(self.hosts)}"'

    def _send(
        self, message: EmailMessage, standing: _Standing, connections: _Connections
    ) -> int:
        errors: dict[str, Exception] = {}
        for key in standing.order(self.hosts, rotate=self.rotate):
            try:
                with another_way():
                    connection = connections.open(key)
            except UNUSABLE as error:  # nothing has been sent
                failure: Exception = error
            else:
                try:
                    with handing_over_to(connection):
                        sent = connection.send_messages([message])
                except Exception as error:
                    connections.drop(key)
                    if not can_be_retried(error):
                        raise
                    failure = error
                else:
                    standing.succeeded(key)
                    return sent or 0
            errors[key] = failure
            standing.failed(key, self.retry)
            warn('%s: host "%s" failed: %s', self._name, key, without_text(failure))
        raise AllHostsFailed(errors, alias=self.alias)


class _Standing:
    """Which hosts are passed over, and whose turn it is, for the whole process."""

    def __init__(self) -> None:
        # For a signal handler, which may send mail while the same thread holds it.
        self._lock = threading.RLock()
        self._down_until: dict[str, float] = {}
        self._turn: int | None = None

    def order(self, keys: tuple[str, ...], *, rotate: bool) -> list[str]:
        """Return the hosts in the order in which to try them, those that are down last."""
        with self._lock:
            if rotate:
                # At random at first: the processes of a site should not all start with one.
                turn = random.randrange(len(keys)) if self._turn is None else self._turn  # noqa: S311
                self._turn = (turn + 1) % len(keys)
                keys = keys[turn:] + keys[:turn]
            now = clock()
            return sorted(keys, key=lambda key: self._down_until.get(key, 0) > now)

    def failed(self, key: str, retry: float) -> None:
        """Pass the host over for so many seconds."""
        with self._lock:
            self._down_until[key] = clock() + retry

    def succeeded(self, key: str) -> None:
        """Have the host in its place again."""
        with self._lock:
            self._down_until.pop(key, None)


_standings: dict[object, _Standing] = {}
if hasattr(os, "register_at_fork"):  # pragma: no branch (there is no fork on Windows)
    # Another thread of the parent may have held a lock.
    os.register_at_fork(after_in_child=_standings.clear)


def _standing(host: object) -> _Standing:
    return _standings.setdefault(host, _Standing())


class _Connections:
    """The hosts that a batch has opened, closed at its end."""

    def __init__(self) -> None:
        self._open: dict[str, BaseEmailBackend] = {}

    def __enter__(self) -> _Connections:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for key in list(self._open):
            self.drop(key)

    def open(self, key: str) -> BaseEmailBackend:
        """Return the open connection of this host."""
        if key not in self._open:
            connection = hosts.get_host(key)
            connection.open()
            self._open[key] = connection
        return self._open[key]

    def drop(self, key: str) -> None:
        """Close the connection of this host; raises nothing, for it has done its work."""
        with suppress(Exception):
            self._open.pop(key).close()
