"""An SMTP host: Django's backend, with the host's own options and sender."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from itertools import chain
from typing import Any

from django.core.mail import EmailMessage

from .. import signals
from ..dsn import default_port
from ..exceptions import InvalidEmailHost, shown, summarize
from ..keyword_options import checked, names_mailer
from ..log import warn
from ..oauth2.token_sources import source_of
from ..options import HOST_OPTION_NAMES, OAUTH2_OPTIONS, SMTP_OPTIONS
from ..smtp import pipelining
from ..smtp.connection import (
    Allow,
    Reply,
    can_pipeline,
    is_closed,
)
from ..smtp.errors import has_given_up, mark, mark_unless_known
from ..smtp.pipelining import PLAIN_ADDRESS, Envelope, RecordingConnection
from ..smtp.pool import PooledConnection, pool
from ..tracebacks import clear_frames
from .base import DEFAULT_TIMEOUT, HostMixin, refuse_unknown
from .parallel import send_in_parallel
from .smtp_connector import SMTPConnector

# source_of() checks the others. They are secrets, or callables.
PLAIN_OPTIONS = {
    name: converter for name, converter in SMTP_OPTIONS.items() if name not in OAUTH2_OPTIONS
}

# Attributes that hold the state of a send and of its connection.
OF_A_SEND = ("connection", "_pooled", "_token", "refused_recipients", "ignored")


class EmailHostsBackend(HostMixin, SMTPConnector):
    """Sends through one SMTP host.

    An option that is not given does not fall back to a setting such as
    ``EMAIL_HOST_USER``, so no credential reaches a server that it was not meant for.
    ``timeout`` is in seconds, for each network step. ``others`` are host options.
    Raises ``InvalidEmailHost`` for options that are not valid.
    """

    connection: Any  # smtplib.SMTP while open, else None. You may set it, as in Django.
    _pooled: PooledConnection | None = None  # what the pool knows about it

    @clear_frames
    @names_mailer
    @checked(PLAIN_OPTIONS)
    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        use_tls: bool | None = None,
        fail_silently: bool = False,
        use_ssl: bool | None = None,
        timeout: float | None = None,
        ssl_keyfile: str | None = None,
        ssl_certfile: str | None = None,
        *,
        ssl_cafile: str | None = None,
        local_hostname: str | None = None,
        conn_max_age: float | None = None,
        conn_max_messages: int = 100,
        conn_max_idle: int = 10,
        parallel: int = 1,
        oauth2: str | Callable[..., str] | None = None,
        oauth2_token_url: str | None = None,
        oauth2_client_id: str | None = None,
        oauth2_client_secret: str | None = None,
        oauth2_scope: str | None = None,
        oauth2_refresh_token: str | None = None,
        allow: Allow | None = None,
        alias: str | None = None,
        **others: Any,
    ) -> None:
        self.take_host_options(others)
        refuse_unknown(EmailHostsBackend, others, *HOST_OPTION_NAMES)
        for name, value in {"host": host, "username": username, "password": password}.items():
            if value and not isinstance(value, str):
                problem = f"option '{name}' must be text, not {type(value).__name__}"
                raise InvalidEmailHost(problem)
        if not host:
            raise InvalidEmailHost("option 'host' is missing")
        port_of_transport = default_port(use_ssl, use_tls)
        port = port or port_of_transport
        self.oauth2 = source_of(
            {
                "username": username,
                "password": password,
                "use_tls": use_tls,
                "use_ssl": use_ssl,
                "oauth2": oauth2,
                "oauth2_token_url": oauth2_token_url,
                "oauth2_client_id": oauth2_client_id,
                "oauth2_client_secret": oauth2_client_secret,
                "oauth2_scope": oauth2_scope,
                "oauth2_refresh_token": oauth2_refresh_token,
            }
        )
        if allow and allow(host, port) is not True:
            raise InvalidEmailHost("the server is not allowed")
        # Never None: for that, Django's backend may read a setting.
        super().__init__(
            host=host,
            port=port,
            username=username or "",
            password=password or "",
            use_tls=bool(use_tls),
            fail_silently=fail_silently,
            use_ssl=bool(use_ssl),
            timeout=timeout or DEFAULT_TIMEOUT,
            ssl_keyfile=ssl_keyfile or "",
            ssl_certfile=ssl_certfile or "",
            alias=alias or "",
        )
        self.alias = alias
        self.ssl_cafile = ssl_cafile or ""
        self.local_hostname = local_hostname or ""
        self.conn_max_age = conn_max_age
        self.conn_max_messages = conn_max_messages
        self.conn_max_idle = conn_max_idle
        self.parallel = parallel
        self.allow = allow
        self.refused_recipients: dict[str, Reply] = {}
        self.ignored: OSError | None = None  # why it is not open, with fail_silently

    def __copy__(self) -> EmailHostsBackend:
        """Return another connection with the same options, closed as a new one is."""
        other: EmailHostsBackend = super().__copy__()
        other.connection = None
        other.refused_recipients = {}
        other._lock = threading.RLock()  # Private: the lock of Django's backend
        return other

    @clear_frames
    def open(self) -> bool | None:
        """Connect and log in, unless it is open. Return whether that was needed.

        With ``conn_max_age``, a parked connection saves both. ``None`` means a failure
        that ``fail_silently`` ignores and logs. Raises ``OSError``, the base of all
        errors of smtplib and ssl. Raises ``InvalidEmailHost``, even with
        ``fail_silently``, for a certificate or a login that cannot be used.
        """
        with self._lock:
            if self.connection:
                return False
            parked = pool.take(self._pool_key) if self.conn_max_age else None
            return self._use(parked)

    def close(self) -> None:
        """Park the connection if it can be used again, else send QUIT and disconnect.

        Raises nothing: the messages that the server has accepted stay accepted.
        """
        with self._lock:
            pooled, self.connection, self._pooled = self._in_use(), None, None
        if pooled is None:
            return
        if reason := self._reason_not_to_park(pooled):
            pooled.discard(reason, wait=True)
        else:
            pool.park(pooled, max_idle=self.conn_max_idle)

    @clear_frames
    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Send the messages from the host's sender. Return how many were accepted.

        ``refused_recipients`` has the server's replies to recipients who do not get a
        message that others get. smtplib returns these, and Django drops them. Raises what
        ``open`` raises, and smtplib's errors. With ``fail_silently``, these are logged.
        """
        self.refused_recipients = {}
        self.ignored = None
        try:
            if self.parallel > 1 and not self._has_foreign_connection():
                return send_in_parallel(self, email_messages)
            return self._send_in_turn(email_messages)
        except Exception as error:
            mark_unless_known(error)
            raise

    def _send_in_turn(self, email_messages: Iterable[EmailMessage]) -> int:
        # A generator may wait for its next message, or hold more than fits into memory.
        is_at_hand = isinstance(email_messages, (list, tuple))
        sent = 0
        in_turn: deque[EmailMessage] = deque()
        try:
            results = self.deliver(email_messages, in_turn, can_look_ahead=is_at_hand)
            with closing(results):
                for result in results:
                    if result.error is None:
                        sent += 1
                    elif self.fail_silently:
                        self.log_failure(result.error)
                    else:
                        in_turn.appendleft(result.message)
                        raise result.error
                    self._tell(*result)
        except Exception as error:
            if in_turn:  # otherwise the iterable raised it
                self._tell(in_turn[0], error)
            raise
        if in_turn and self.ignored:
            self._tell(in_turn[0], self.ignored)
        return sent

    def deliver(
        self,
        messages: Iterable[EmailMessage],
        in_turn: deque[EmailMessage],
        *,
        can_look_ahead: bool,
    ) -> Generator[signals.Result, None, None]:
        """Yield the result of each message that has recipients, as it is sent.

        ``in_turn`` holds messages that have been taken but not yet yielded, also after
        an error. ``can_look_ahead`` allows making messages before their turn. Raises
        what ``open`` raises.
        """
        coming = _noted(messages, in_turn)
        first = next(coming, None)
        if first is None:
            return
        with self._lock:
            opened = self.open()
            if opened is None:
                return
            envelopes = pipelining.Envelopes(
                self._envelopes(chain([first], coming), in_turn), can_look_ahead=can_look_ahead
            )
            try:
                while pooled := self._in_use():
                    outcomes = pipelining.send(pooled.connection, envelopes, self._server)
                    with closing(outcomes):
                        for refused, error, offer_again in outcomes:
                            pooled.messages += 1
                            pooled.has_given_up = has_given_up(error)
                            if offer_again or (pooled.was_parked and pooled.has_given_up):
                                break
                            refused = self._note_refused(refused)
                            if error is not None:
                                self._redactor.redact_error(error)
                            yield signals.Result(in_turn.popleft(), error, refused)
                        else:
                            return
                    pooled.discard("it ended before it took the message")
                    self._use(None)
            finally:
                if opened or is_closed(self.connection):
                    self.close()

    def _use(self, parked: PooledConnection | None) -> bool | None:
        """Use a parked connection or a new one. Return what ``open`` returns."""
        self.connection = self._pooled = None
        try:
            pooled = parked or self.connect()
        except OSError as error:
            self._redactor.redact_error(error)
            mark(error, body_was_sent=False)
            if not self.fail_silently:
                raise
            self.log_failure(error)
            self.ignored = error
            return None
        self.connection, self._pooled, self._token = pooled.connection, pooled, pooled.token
        return True

    def _in_use(self) -> PooledConnection | None:
        """Return the open connection, also one that was set from outside."""
        if not self.connection:
            return None
        if self._pooled is None or self._pooled.connection is not self.connection:
            self._pooled = PooledConnection(self.connection, self._server)
        return self._pooled

    def _has_foreign_connection(self) -> bool:
        """Whether the open connection is a mock or the like, which must send it all."""
        return bool(self.connection) and not can_pipeline(self.connection)

    def _reason_not_to_park(self, pooled: PooledConnection) -> str:
        """Return why a connection cannot be used again, or ``""`` if it can."""
        if not self.conn_max_age:
            return "the host has no conn_max_age"
        if pooled.host != self._pool_key:
            return "an option has changed, or it was set from outside"
        if pooled.messages >= self.conn_max_messages:
            return "conn_max_messages is reached"
        if pooled.has_given_up:
            return "the server has given up"
        if not can_pipeline(pooled.connection):
            return "its class has methods of its own"
        return pooled.problem()

    def _envelopes(
        self, messages: Iterable[EmailMessage], in_turn: deque[EmailMessage]
    ) -> Iterator[Envelope]:
        """Yield the envelopes.

        A message without recipients has none, and is removed from ``in_turn``.
        """
        for message in messages:
            connection, recording = self.connection, RecordingConnection()
            self.connection = recording
            try:
                # Private: _send(). Only it encodes a message as this version of Django does.
                super()._send(self.apply_host(message))  # type: ignore[misc]
            finally:
                self.connection = connection
            if not recording.envelopes:
                in_turn.pop()
            yield from recording.envelopes

    def prep_address(  # pragma: prep-address-only
        self, address: str, force_ascii: bool = True
    ) -> str:
        """Return the address without a display name. Django 6.0 and later call this.

        Nearly all addresses are plain, and Django's parser takes 50 microseconds for each.
        """
        if isinstance(address, str) and PLAIN_ADDRESS.fullmatch(address):
            return address
        return super().prep_address(address, force_ascii)

    def _note_refused(self, refused: dict[str, Reply]) -> dict[str, Reply]:
        """Note and log the refused recipients. Return them without the login."""
        if not refused or not isinstance(refused, dict):  # a mock returns another mock
            return {}
        redacted: dict[str, Reply] = self._redactor.redact(refused)
        self.refused_recipients.update(redacted)
        codes = sorted({code for code, _ in refused.values()})
        warn("%s: refused recipients: %d %s", self._name, len(refused), codes)
        return redacted

    def _tell(self, *result: Any) -> None:
        """Send the signal of a result.

        A receiver may send mail over this object, but must not disturb the current
        send. So the object looks closed to it.
        """
        if not signals.are_received():
            return
        with self._lock:
            aside = {name: getattr(self, name) for name in OF_A_SEND}
            self.connection = self._pooled = None
            try:
                signals.tell(self, *result)
            finally:
                self.close()
                vars(self).update(aside)

    def log_failure(self, error: OSError) -> None:
        """Log an error that ``fail_silently`` ignores."""
        warn("%s: %s, ignored by fail_silently", self._name, summarize(error))

    @property
    def _name(self) -> str:
        return self._server if self.alias is None else f'host "{shown(self.alias)}"'


def _noted(
    messages: Iterable[EmailMessage], in_turn: deque[EmailMessage]
) -> Iterator[EmailMessage]:
    for message in messages:
        in_turn.append(message)
        yield message
