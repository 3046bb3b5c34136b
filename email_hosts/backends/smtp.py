"""An SMTP host: Django's backend, with the host's own options and sender."""

from __future__ import annotations

import smtplib
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import cached_property, partial
from itertools import chain
from typing import Any, cast

from django.core.mail import DNS_NAME, EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from django.utils.module_loading import import_string

from .. import conf
from ..boundary import boundary
from ..delivery import Outcome
from ..exceptions import InvalidEmailHost, summarize
from ..host import SMTP_BACKEND, Host, default_port
from ..hosts import Allow
from ..log import debug, warn
from ..options import OF_SESSION
from ..retry import NOT_SENT, PERHAPS, delivery_of, set_delivery
from ..rules import SMTP_RULES
from ..smtp.connection import CLASSES, connect, is_closed, is_ours
from ..smtp.login import REFUSED_LOGIN, log_in, refuse_what_cannot_be_sent
from ..smtp.pipelining import Result, Transmission
from ..smtp.pool import PooledConnection, PoolKey, pool
from ..smtp.redaction import Redactor
from ..smtp.tls import new_context, shared_context
from ..smtp.transaction import PLAIN_ADDRESS
from .base import Backend
from .envelopes import envelopes_of

DEFAULT_TIMEOUT = 60  # seconds


class EmailHostsBackend(Backend, EmailBackend):
    """Sends through one SMTP host.

    Only the timeout falls back to a setting. None such as ``EMAIL_HOST_USER`` is used, so no
    credential reaches a server that it was not meant for. The README has a table of the
    options. Raises ``InvalidEmailHost`` for options that are not valid.
    """

    path = SMTP_BACKEND
    rules = SMTP_RULES
    timeout: float
    local_hostname: str
    conn_max_age: float | None
    conn_max_messages: int
    conn_max_idle: int
    parallel: int
    oauth2: Any
    allow: Allow | None = None
    connection: Any  # smtplib.SMTP while open, else None. You may set it, as in Django.
    _pooled: PooledConnection | None = None  # what the pool knows about it
    _tokens_from: Any = None  # where the tokens of OAuth 2.0 come from
    _is_loud = False  # whether open() raises although fail_silently is set
    _is_sending = False  # over this connection

    @boundary
    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(host=host, port=port, username=username, password=password, **options)

    def configure(self, host: Host) -> None:
        """Set the options of a host as attributes of this backend."""
        # Never None: for that, Django's backend may read a setting.
        nothing: dict[str, Any] = dict.fromkeys(conf.SMTP_SETTINGS, "")
        EmailBackend.__init__(self, **nothing, alias="")
        super().configure(host)
        self.port = self.port or default_port(host.options)
        self.timeout = self.timeout or conf.default_timeout() or DEFAULT_TIMEOUT
        if self.oauth2:
            # By its path: only hosts with OAuth 2.0 need this module.
            source_of = import_string("email_hosts.oauth2.source_of")
            self._tokens_from = source_of(host.options)

    def __copy__(self) -> EmailHostsBackend:
        """Return another connection with the same options, closed as a new one is."""
        other: EmailHostsBackend = super().__copy__()
        other.connection = other._pooled = None
        other._is_sending = False
        other._lock = threading.RLock()  # Private: the lock of Django's backend
        return other

    @property
    def name(self) -> str:
        """How messages for people name it."""
        return self.server if self.alias is None else super().name

    @property
    def full_name(self) -> str:
        """Its name on errors."""
        return self.name if self.alias is None else f"{self.name} ({self.server})"

    @property
    def server(self) -> str:
        """The server that it connects to, with the port."""
        return f"{self.host}:{self.port}"

    @boundary
    def open(self) -> bool | None:
        """Connect and log in, unless it is open. Return whether that was needed.

        With ``conn_max_age``, a parked connection saves both. ``None`` means a failure
        that ``fail_silently`` ignores and logs. Raises ``OSError``, the base of all
        errors of smtplib and ssl. Raises ``InvalidEmailHost``, even with
        ``fail_silently``, for a certificate or a login that cannot be used.
        """
        with self._lock:
            try:
                if self._in_use():
                    return False
                parked = pool.take(self._pool_key) if self.conn_max_age else None
                self._use(parked or self._connect())
                return True
            except OSError as error:
                if self._is_loud or not self.fail_silently:
                    raise
                warn("%s: %s, ignored by fail_silently", self.name, summarize(error))
                return None

    def close(self) -> None:
        """Park the SMTP session if it can be used again, else send QUIT and disconnect.

        Raises nothing: the messages that the server has accepted stay accepted. Inside of a
        send over this object, it does nothing.
        """
        with self._lock:
            if self._is_sending:
                return
            pooled, self.connection, self._pooled = self._in_use(), None, None
        if pooled is None:
            return
        if reason := self._reason_not_to_park(pooled):
            pooled.discard(reason, wait=True)
        else:
            pool.park(pooled, max_idle=self.conn_max_idle)

    def outcomes(
        self, messages: Iterable[EmailMessage], *, keep_going: bool
    ) -> Iterator[Outcome]:
        """Yield what becomes of each message, over one connection or several."""
        is_foreign = bool(self.connection) and not is_ours(self.connection)
        if self.parallel > 1 and not is_foreign:
            # By its path: only hosts with several connections need this module.
            in_parallel = import_string("email_hosts.backends.parallel.outcomes")
            return cast(
                "Iterator[Outcome]", in_parallel(self, messages, keep_going=keep_going)
            )
        return super().outcomes(messages, keep_going=keep_going)

    def deliver(
        self, messages: Iterable[EmailMessage], *, keep_going: bool, look_ahead: bool = False
    ) -> Iterator[Outcome]:
        """Yield what becomes of each message, over one connection.

        With ``look_ahead``, as in a list, a message may be made early, unless the host has a
        rate.
        """
        look_ahead = isinstance(messages, (list, tuple)) or (look_ahead and not self.rate)
        coming = iter(messages)
        try:
            first = next(coming)
        except StopIteration:
            return
        with self._lock:
            try:
                opened = self.open_loudly()
                if opened is False:
                    self._renew()
            except Exception as error:
                yield self.unreachable(first, error)
                return
            if opened is None or not self.connection:  # a subclass has its own open()
                return
            envelopes = envelopes_of(self, chain([first], coming))
            transmission = Transmission(envelopes, self.server, look_ahead=look_ahead)
            self._is_sending = True
            try:
                yield from self._transmit(transmission, keep_going=keep_going)
            finally:
                self._is_sending = False
                if opened or is_closed(self.connection):
                    self.close()

    def _transmit(self, transmission: Transmission, *, keep_going: bool) -> Iterator[Outcome]:
        """Yield what becomes of each message, over as many connections as that takes."""
        while pooled := self._in_use():
            results = transmission.over(
                pooled.connection,
                was_parked=pooled.was_parked,
                may_have_ended=pooled.may_have_ended,
            )
            with closing(results):
                try:
                    for result in results:
                        pooled.messages += 1
                        outcome = self._outcome_of(result, pooled.token)
                        yield outcome
                        if outcome.ends(keep_going=keep_going):
                            transmission.raise_interruption()
                            return
                    if transmission.is_over:
                        return
                    self._replace(pooled, "it takes no more messages")
                except Exception as error:
                    if transmission.current is None:
                        raise  # the iterable has raised it
                    if delivery_of(error) is None:  # a signal handler may have raised it
                        set_delivery(error, PERHAPS)
                    yield self.unreachable(transmission.current.message, error)
                    return

    def _outcome_of(self, result: Result, token: str) -> Outcome:
        message, error = result.envelope.message, result.error
        # A mock returns another mock.
        is_known = result.refused and isinstance(result.refused, dict)
        refused = self._redactor(token).redact(result.refused) if is_known else {}
        if error is None:
            return Outcome(message, self.alias, refused=refused, name=self.name)
        if isinstance(error, OSError):
            self._redactor(token).redact_error(error)
        was_offered = result.envelope.error is None
        return self.failed(message, error)._replace(refused=refused, was_offered=was_offered)

    def prep_address(  # pragma: prep-address-only
        self, address: str, force_ascii: bool = True
    ) -> str:
        """Return the address without a display name. Django 6.0 and later call this.

        Nearly all addresses are plain, and Django's parser takes 50 microseconds for each.
        """
        address = str(address)  # it may be a lazy object
        if PLAIN_ADDRESS.fullmatch(address):
            return address
        return super().prep_address(address, force_ascii)

    def open_loudly(self) -> bool | None:
        """Open it, and raise errors even with ``fail_silently``: ``delivery`` ignores them."""
        with self._lock:
            self._is_loud = True
            try:
                return self.open()
            except Exception as error:  # of a subclass
                if not isinstance(error, InvalidEmailHost):
                    set_delivery(error, NOT_SENT)
                raise
            finally:
                self._is_loud = False

    def _use(self, pooled: PooledConnection) -> None:
        self.connection, self._pooled = pooled.connection, pooled

    def _in_use(self) -> PooledConnection | None:
        """Return the open connection, also one that was set from outside.

        In a forked child, that of the parent counts as closed.
        """
        if not self.connection:
            return None
        if self._pooled is None or self._pooled.connection is not self.connection:
            self._pooled = PooledConnection(self.connection, self.server)
        if self._pooled.is_of_this_process():
            return self._pooled
        self._pooled.discard("it belongs to another process")
        self.connection = self._pooled = None
        return None

    def _renew(self) -> None:
        """Replace the session if it cannot be used again, unless it was set from outside."""
        pooled = self._in_use()
        if not pooled or pooled.pool_key is None or not is_ours(pooled.connection):
            return
        if reason := pooled.problem():
            self._replace(pooled, reason)

    def _replace(self, pooled: PooledConnection, reason: str) -> None:
        pooled.discard(reason)
        self.connection = self._pooled = None
        self._use(self._connect())

    def _reason_not_to_park(self, pooled: PooledConnection) -> str:
        """Return why a connection cannot be used again, or ``""`` if it can."""
        if not self.conn_max_age:
            return "the host has no conn_max_age"
        if pooled.pool_key != self._pool_key:
            return "an option has changed, or it was set from outside"
        if pooled.messages >= self.conn_max_messages:
            return "conn_max_messages is reached"
        if not is_ours(pooled.connection):
            return "its class has methods of its own"
        return pooled.problem()

    # Connecting

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

    @boundary  # a receiver of a signal may get an error that the caller does not
    def _connect(self) -> PooledConnection:
        """Return a new connection. A token that is refused is renewed, once."""
        try:
            if self._tokens_from is None:
                return self._connect_once()
            return self._connect_with_token()
        except InvalidEmailHost:  # to send it later does not help
            raise
        except BaseException as error:
            set_delivery(error, NOT_SENT)
            raise

    def _connect_with_token(self) -> PooledConnection:
        tokens = import_string("email_hosts.oauth2.tokens")
        get = partial(
            tokens.get, self._tokens_from, self.username, timeout=float(self.timeout)
        )
        token = get()
        try:
            return self._connect_once(token)
        except smtplib.SMTPAuthenticationError as error:
            renewed = get(refused=token) if error.smtp_code == REFUSED_LOGIN else token
            if renewed == token:
                raise
        # A new connection: the server may have ended the first.
        return self._connect_once(renewed)

    def _connect_once(self, token: str = "") -> PooledConnection:
        refuse_what_cannot_be_sent(self.username, self.password, self.alias)
        opened_at = pool.clock()
        params: dict[str, Any] = {
            "local_hostname": self.local_hostname or DNS_NAME.get_fqdn(),
            "timeout": self.timeout,
        }
        if self.use_ssl or self.use_tls:
            context = self._own_ssl_context or self._load_ssl_context(shared_context)
            params["context" if self.use_ssl else "starttls"] = context
        if self.allow is not None:
            params["allow"] = self.allow
        connection = connect(self.connection_class, self.host, self.port, **params)
        try:
            if self.username and (self.password or token):
                log_in(connection, self.username, password=self.password, token=token)
        except BaseException as error:
            connection.close()
            self._redactor(token).redact_error(error)
            raise
        pooled = PooledConnection(
            connection,
            self.server,
            self._pool_key,
            expires_at=opened_at + (self.conn_max_age or 0),
            token=token,
        )
        debug("%r: opened", pooled)
        return pooled

    @property
    def _own_ssl_context(self) -> ssl.SSLContext | None:
        """``ssl_context``, if somebody has read, set or overridden it. Else one is shared."""
        if type(self).ssl_context is not EmailHostsBackend.ssl_context:
            return self.ssl_context
        return vars(self).get("ssl_context")

    def _load_ssl_context(self, load: Callable[..., ssl.SSLContext]) -> ssl.SSLContext:
        options = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
        files = [str(getattr(self, option)) for option in options]
        try:
            return load(*files)
        except OSError as error:
            named = zip(options, files, strict=True)
            given = [f"{option} ({file})" for option, file in named if file]
            reason = f"cannot load {', '.join(given)}: {error}"
        raise InvalidEmailHost(reason, alias=self.alias)

    @property
    def _pool_key(self) -> PoolKey:
        # ``allow`` may have no hash. The connection keeps it alive, so its id stays unique.
        options = (getattr(self, option.name) for option in OF_SESSION)
        return PoolKey((*options, self._own_ssl_context, self._tokens_from, id(self.allow)))

    def _redactor(self, token: str) -> Redactor:
        return Redactor(self.username, self.password or token)
