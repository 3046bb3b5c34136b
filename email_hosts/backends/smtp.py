"""An SMTP host: Django's backend with the host's options and sender, and with no other."""

from __future__ import annotations

import inspect
import smtplib
import ssl
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.core.mail import DNS_NAME, EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from django.views.decorators.debug import sensitive_variables

from ..dsn import SMTP_SCHEMES, did_you_mean
from ..exceptions import InvalidEmailHost
from ..hosts import logger
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
        self.default_from_email = default_from_email
        self.server_email = server_email

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """The TLS context of the host's certificates, shared with all that use the same.

        Raises ``InvalidEmailHost`` if one of their files cannot be loaded.
        """
        options = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
        files = tuple(str(getattr(self, option)) for option in options)
        try:
            # A certificate that has been renewed makes a new context.
            changed = tuple(Path(file).stat().st_mtime_ns for file in files if file)
            return _tls_context(*files, changed=changed)
        except OSError as error:
            given = [option for option, file in zip(options, files, strict=True) if file]
            reason = f"cannot load {', '.join(given)}: {error}"
        raise InvalidEmailHost(reason, alias=self.alias)

    @sensitive_variables()
    def open(self) -> bool | None:
        """Connect and log in, unless that is done. Return whether it was needed.

        ``None`` is a failure passed over with ``fail_silently``; it is logged.
        Raises ``OSError``, which all of smtplib's and ssl's errors are.
        """
        if self.connection:
            return False
        try:
            self.connection = self._connect()
        except OSError as error:
            if not self.fail_silently:
                raise
            self._log_failure(error)
            return None
        return True

    def close(self) -> None:
        """Say QUIT and disconnect.

        Whatever the server answers: the messages that it has accepted stay accepted.
        """
        connection, self.connection = self.connection, None
        if connection is None:
            return
        try:
            connection.quit()
        except OSError:
            connection.close()

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Send the messages from the host's sender; return how many were accepted."""
        with self.with_sender(email_messages) as batch, self._lock:
            if not batch:
                return 0
            opened = self.open()
            if opened is None:
                return 0
            try:
                return sum(self._send(message) for message in batch)
            finally:
                if opened:
                    self.close()

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
        connection = self.connection_class(self.host, self.port, **params)
        try:
            if self.use_tls:
                connection.starttls(context=self.ssl_context)
            if self.username and self.password:
                connection.login(self.username, self.password)
        except BaseException:
            connection.close()
            raise
        return connection

    def _send(self, email_message: EmailMessage) -> bool:
        envelope = self._envelope(email_message)
        if not envelope:
            return False
        try:
            refused = self.connection.sendmail(*envelope)
        except smtplib.SMTPException as error:
            if not self.fail_silently:
                raise
            self._log_failure(error)
            return False
        if len(refused) > 0:  # smtplib returns them and Django says nothing of them
            codes = sorted({code for code, _ in refused.values()})
            logger.warning("%s: %d recipients refused %s", self._name, len(refused), codes)
        return True

    def _envelope(self, email_message: EmailMessage) -> tuple[Any, ...]:
        """Return the arguments of ``sendmail()``; none if nobody is to get the message."""
        connection, notes = self.connection, _Notes()
        self.connection = notes
        try:
            # Private: _send(). It alone encodes as this version of Django does.
            super()._send(email_message)  # type: ignore[misc]
        finally:
            self.connection = connection
        return notes.envelope

    def _log_failure(self, error: OSError) -> None:
        # The error's text may hold recipients. Its code does not.
        what = f"{type(error).__name__} {getattr(error, 'smtp_code', '')}".rstrip()
        logger.warning("%s: %s, passed over by fail_silently", self._name, what)

    @property
    def _name(self) -> str:
        return f"{self.host}:{self.port}" if self.alias is None else f'host "{self.alias}"'


class _Notes:
    """Stands in for an SMTP connection and notes what it should send."""

    envelope: tuple[Any, ...] = ()

    def sendmail(self, *envelope: Any) -> None:
        self.envelope = envelope


@lru_cache(maxsize=64)
def _tls_context(
    cafile: str, certfile: str, keyfile: str, changed: tuple[int, ...]
) -> ssl.SSLContext:
    """Return a TLS context; building one takes over 20 ms, so it is kept."""
    context = ssl.create_default_context(cafile=cafile or None)
    if certfile:
        # An encrypted key is an error then, where openssl would ask the terminal.
        context.load_cert_chain(certfile, keyfile or None, password="")
    return context
