"""Connects to an SMTP host as its options say: with its TLS files, its login or its token."""

from __future__ import annotations

import smtplib
import ssl
from functools import cached_property, partial
from operator import attrgetter
from typing import Any

from django.core.mail import DNS_NAME
from django.core.mail.backends.smtp import EmailBackend

from ..exceptions import InvalidEmailHost
from ..log import debug
from ..oauth2.token_sources import Source
from ..oauth2.tokens import tokens
from ..smtp.connection import CLASSES, Allow, connect
from ..smtp.login import log_in
from ..smtp.pool import PooledConnection, PoolKey, pool
from ..smtp.redaction import Redactor
from ..smtp.tls import new_context, shared_context
from ..tracebacks import clear_frames
from .base import DEFAULT_TIMEOUT

# Two connections are interchangeable if these options are equal.
POOLED_BY = attrgetter(
    *("host", "port", "username", "password", "use_tls", "use_ssl", "timeout"),
    *("ssl_cafile", "ssl_certfile", "ssl_keyfile", "own_ssl_context", "local_hostname"),
    *("conn_max_age", "conn_max_messages", "oauth2"),
)

REFUSED_LOGIN = 535  # RFC 4954, 6: "authentication credentials invalid"


class SMTPConnector(EmailBackend):
    """Connects to one SMTP host, and knows which of its connections are interchangeable."""

    alias: str | None
    ssl_cafile: str
    local_hostname: str
    conn_max_age: float | None
    oauth2: Source | None
    allow: Allow | None
    _token = ""  # of OAuth 2.0, for the current login

    @property
    def connection_class(self) -> type[smtplib.SMTP]:
        """The class of the connection that ``open`` makes."""
        chosen = super().connection_class
        return CLASSES.get(chosen, chosen)

    @cached_property
    def ssl_context(self) -> ssl.SSLContext:
        """The TLS context of this connection only. You can change or replace it.

        Raises ``InvalidEmailHost`` if a file of the host cannot be loaded.
        """
        return self._load_ssl_context(new_context)

    @property
    def own_ssl_context(self) -> ssl.SSLContext | None:
        """``ssl_context``, if somebody has read or set it. Else a shared one is used."""
        return vars(self).get("ssl_context")

    @clear_frames  # a receiver of a signal may get an error that the caller does not
    def connect(self) -> PooledConnection:
        """Return a new connection. A token that is refused is renewed, once."""
        if self.oauth2 is None:
            return self._connect_once()
        seconds = float(self.timeout or DEFAULT_TIMEOUT)
        get = partial(tokens.get, self.oauth2, self.username, timeout=seconds)
        self._token = get()
        try:
            return self._connect_once()
        except smtplib.SMTPAuthenticationError as error:
            self._redactor.redact_error(error)
            if error.smtp_code != REFUSED_LOGIN:
                raise
            renewed = get(refused=self._token)
            if renewed == self._token:
                raise
            self._token = renewed
        return self._connect_once()  # a new connection: the server may have ended the first

    def _connect_once(self) -> PooledConnection:
        if not (self.username + self.password).isascii():
            raise InvalidEmailHost(
                "the user name and the password must be ASCII: smtplib cannot send another "
                "character",
                alias=self.alias,
            )
        opened_at = pool.clock()
        params: dict[str, Any] = {
            "local_hostname": self.local_hostname or DNS_NAME.get_fqdn(),
            "timeout": self.timeout,
        }
        if self.use_ssl:
            params["context"] = self._context_in_use
        if self.use_tls:
            params["starttls"] = self._context_in_use
        if self.allow:
            params["allow"] = self.allow
        connection = connect(self.connection_class, self.host, self.port, **params)
        try:
            if self.username and (self.password or self.oauth2):
                log_in(connection, self.username, password=self.password, token=self._token)
        except BaseException:
            connection.close()
            raise
        expires_at = opened_at + (self.conn_max_age or 0)
        pooled = PooledConnection(connection, self._server, self._pool_key, expires_at)
        pooled.token = self._token
        debug("%r: opened", pooled)
        return pooled

    @property
    def _context_in_use(self) -> ssl.SSLContext:
        return self.own_ssl_context or self._load_ssl_context(shared_context)

    def _load_ssl_context(self, load: Any) -> ssl.SSLContext:
        options = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
        files = [str(getattr(self, option)) for option in options]
        try:
            context: ssl.SSLContext = load(*files)
        except OSError as error:
            given = [option for option, file in zip(options, files, strict=True) if file]
            reason = f"cannot load {', '.join(given)}: {error}"
        else:
            return context
        raise InvalidEmailHost(reason, alias=self.alias)

    @property
    def _pool_key(self) -> PoolKey:
        # ``allow`` may not be hashable. The connection keeps it alive, so its id stays
        # unique.
        return PoolKey((*POOLED_BY(self), id(self.allow)))

    @property
    def _redactor(self) -> Redactor:
        return Redactor(self.username, self.password or self._token)

    @property
    def _server(self) -> str:
        return f"{self.host}:{self.port}"
