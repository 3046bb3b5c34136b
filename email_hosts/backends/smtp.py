"""An SMTP host: Django's backend with the host's options and sender, and with no other."""

from __future__ import annotations

import inspect
import smtplib
import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

from django.core.mail import DNS_NAME, EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from django.views.decorators.debug import sensitive_variables

from .. import transaction
from ..censor import Censor
from ..connection import (
    CLASSES,
    Reply,
    is_closed,
    is_ours,
    is_quiet,
    say_quit,
    send_at_once,
)
from ..dsn import SMTP_SCHEMES, did_you_mean
from ..exceptions import InvalidEmailHost, without_text
from ..log import warn
from ..pool import Held, pool
from ..tls import client_context
from ..transaction import Envelope
from .base import HostSender

DEFAULT_TIMEOUT = 60  # seconds


class EmailHostsBackend(HostSender, EmailBackend):
    """Sends through one SMTP host.

    What is not given does not fall back to a setting, ``EMAIL_HOST_USER`` say, so that
    no credential reaches a relay that it was not meant for. ``timeout`` is in seconds,
    for each network step. Raises ``InvalidEmailHost`` for options that do not fit.
    """

    connection: Any  # smtplib.SMTP while open, else None

    @sensitive_variables()
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
        default_from_email: str = "",
        server_email: str = "",
        alias: str | None = None,
        **others: Any,
    ) -> None:
        # Private: what Django 6.1's own get_connection() tells a backend to pass over.
        unknown = others.keys() - others.pop("_ignore_unknown_kwargs", set())
        if unknown:
            name = min(unknown)
            known = tuple(inspect.signature(EmailHostsBackend).parameters)
            raise InvalidEmailHost(
                f"unknown option {name!r}{did_you_mean(name, known)}", alias=alias
            )
        if not host:
            raise InvalidEmailHost("option 'host' is missing", alias=alias)
        if use_ssl and use_tls:
            raise InvalidEmailHost(
                "options 'use_ssl' and 'use_tls' exclude each other", alias=alias
            )
        scheme = "submissions" if use_ssl else "submission" if use_tls else "smtp"
        # Where it gets None, Django's backend may fall back to a setting.
        super().__init__(
            host=host,
            port=port or SMTP_SCHEMES[scheme].port,
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
        self.default_from_email = default_from_email
        self.server_email = server_email
        self.refused_recipients: dict[str, Reply] = {}
        self._held: Any = None  # a Held while open, else None
        self._may_reconnect = False

    def __copy__(self) -> EmailHostsBackend:
        """Return another connection with the same options, closed as a new one is."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        other.connection = other._held = None
        other.refused_recipients = {}
        other._lock = threading.RLock()  # Private: the lock of Django's backend
        return other

    @property
    def connection_class(self) -> type[smtplib.SMTP]:
        """The class of the connection that ``open`` makes."""
        chosen = super().connection_class
        return CLASSES.get(chosen, chosen)

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """The TLS context of the host's certificates, shared with all that use the same.

        Raises ``InvalidEmailHost`` if one of their files cannot be loaded.
        """
        options = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
        files = [str(getattr(self, option)) for option in options]
        try:
            return client_context(*files)
        except OSError as error:
            given = [option for option, file in zip(options, files, strict=True) if file]
            reason = f"cannot load {', '.join(given)}: {error}"
        raise InvalidEmailHost(reason, alias=self.alias)

    @sensitive_variables()
    def open(self) -> bool | None:
        """Connect and log in, unless that is done. Return whether it was needed.

        With ``conn_max_age``, a parked connection saves both. ``None`` is a failure that
        was passed over with ``fail_silently``, and logged. Raises ``OSError``, which all
        of smtplib's and ssl's errors are; and ``InvalidEmailHost``, with ``fail_silently``
        too, for a certificate or a login that cannot be used.
        """
        with self._lock:
            if self.connection and self._held.is_inherited():
                self.close()
            if self.connection:
                return False
            parked = pool.take(self._pool_key) if self.conn_max_age else None
            self._may_reconnect = parked is not None
            return self._hold(parked)

    def close(self) -> None:
        """Park the connection if it can be used again, else say QUIT and disconnect.

        Raises nothing: the messages that the server has accepted stay accepted.
        """
        with self._lock:
            held, self._held, self.connection = self._held, None, None
        if held is None:
            return
        if held.is_inherited():
            held.connection.close()
        elif self._may_be_parked(held):
            pool.park(self._pool_key, held)
        else:
            say_quit(held.connection)

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Send the messages from the host's sender; return how many were accepted.

        ``refused_recipients`` has the server's replies to those who do not get a message
        that others do get: smtplib tells, and Django passes over it. Raises what ``open``
        raises, and smtplib's errors; with ``fail_silently``, these are logged.
        """
        self.refused_recipients = {}
        batch = self.with_sender(email_messages)
        if not batch:
            return 0
        with self._lock:
            opened = self.open()
            if opened is None:
                return 0
            try:
                return self._send_batch(batch)
            finally:
                if opened or not self._held or is_closed(self._held.connection):
                    self.close()

    def _may_be_parked(self, held: Held) -> bool:
        is_spent = held.messages >= self.conn_max_messages
        return bool(
            self.conn_max_age
            and not is_spent
            and is_ours(held.connection)
            and is_quiet(held.connection)
        )

    def _send_batch(self, batch: list[EmailMessage]) -> int:
        envelopes = transaction.Envelopes(self._envelopes(batch))
        sent = 0
        while True:
            with closing(transaction.send(self.connection, envelopes)) as outcomes:
                for refused, error in outcomes:
                    self._held.messages += 1
                    if error is None:
                        sent += 1
                        self._note_refused(refused)
                    elif self._may_reconnect and transaction.can_be_repeated(error):
                        break
                    elif self.fail_silently:
                        self._log_failure(error)
                    else:
                        self._censor.clean(error)
                        raise error
                else:
                    return sent
            # What was parked has died meanwhile, or is about to.
            self._may_reconnect = False
            say_quit(self.connection, wait=False)
            if self._hold(None) is None:
                return sent

    def _hold(self, parked: Held | None) -> bool | None:
        self._held = self.connection = None
        try:
            self._held = parked or self._new()
        except OSError as error:
            self._censor.clean(error)
            transaction.mark(error, body_was_sent=False)
            if not self.fail_silently:
                raise
            self._log_failure(error)
            return None
        self.connection = self._held.connection
        return True

    def _new(self) -> Held:
        opened_at = pool.clock()
        return Held(self._connect(), expires_at=opened_at + (self.conn_max_age or 0))

    def _connect(self) -> smtplib.SMTP:
        if not (self.username + self.password).isascii():
            raise InvalidEmailHost(
                "smtplib logs in with ASCII alone, and the user name or the password has "
                "another character",
                alias=self.alias,
            )
        params: dict[str, Any] = {
            "local_hostname": self.local_hostname or DNS_NAME.get_fqdn(),
            "timeout": self.timeout,
        }
        if self.use_ssl:
            params["context"] = self.ssl_context
        connection: smtplib.SMTP = self.connection_class(self.host, self.port, **params)
        try:
            send_at_once(connection)
            if self.use_tls:
                connection.starttls(context=self.ssl_context)
            if self.username and self.password:
                self._log_in(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _log_in(self, connection: smtplib.SMTP) -> None:
        try:
            connection.login(self.username, self.password)
        except ValueError as error:  # smtplib leaves it to base64
            problem = f"the server's challenge makes no sense: {error}"
            raise smtplib.SMTPException(problem) from error

    @property
    def _pool_key(self) -> tuple[object, ...]:
        """What makes one connection as good as another, and used as long."""
        return (
            self.host,
            self.port,
            self.username,
            self.password,
            self.use_tls,
            self.use_ssl,
            self.timeout,
            self.ssl_cafile,
            self.ssl_certfile,
            self.ssl_keyfile,
            self.local_hostname,
            self.conn_max_age,
            self.conn_max_messages,
        )

    def _envelopes(self, batch: list[EmailMessage]) -> Iterator[Envelope]:
        for message in batch:
            connection, self.connection = self.connection, _Notes()
            try:
                # Private: _send(). It alone encodes as this version of Django does.
                super()._send(message)  # type: ignore[misc]
            finally:
                notes, self.connection = self.connection, connection
            yield from notes.envelopes

    def _note_refused(self, refused: dict[str, Reply]) -> None:
        if len(refused) > 0:  # what a mock of smtplib returns is true, and has no length
            self.refused_recipients.update(self._censor.cleaned(refused))
            codes = sorted({code for code, _ in refused.values()})
            warn("%s: refused recipients: %d %s", self._name, len(refused), codes)

    @property
    def _censor(self) -> Censor:
        return Censor(self.username, self.password)

    def _log_failure(self, error: OSError) -> None:
        warn("%s: %s, passed over by fail_silently", self._name, without_text(error))

    @property
    def _name(self) -> str:
        return f"{self.host}:{self.port}" if self.alias is None else f'host "{self.alias}"'


class _Notes:
    """Stands in for an SMTP connection and notes what it should send."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    def sendmail(self, *envelope: Any) -> None:
        self.envelopes.append(Envelope(*envelope))
