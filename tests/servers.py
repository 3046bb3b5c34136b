"""SMTP servers on loopback, for the tests and the demo."""

from __future__ import annotations

import email
import logging
import ssl
import threading
from contextlib import suppress
from email.message import EmailMessage
from email.policy import default
from typing import Any, NamedTuple

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

# aiosmtpd warns of an attribute that it sets itself. It logs a refused handshake with its
# traceback, and Python 3.11 may fail to format one in two threads at a time.
logging.getLogger("mail.log").setLevel(logging.CRITICAL)
# asyncio warns, in Python's development mode, of what takes 0.1 seconds on a busy machine.
logging.getLogger("asyncio").setLevel(logging.ERROR)


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


class Received(NamedTuple):
    """A message as a server got it."""

    user: str | None
    tls: bool
    local_hostname: str
    sender: str
    recipients: list[str]
    message: EmailMessage


class SMTPServer(Controller):
    """Accepts messages, on a port of its own choice, while its ``with`` block runs.

    With a TLS context it offers STARTTLS, or TLS from the first byte (``implicit``).
    With a login, nobody else may send. It refuses the recipients in ``refused``.
    """

    def __init__(self, *, context=None, implicit=False, login=None, refused=()):
        self.received: list[Received] = []
        self.sessions: list[Any] = []
        self.login = login
        self.refused = set(refused)
        super().__init__(
            handler=self,
            hostname="127.0.0.1",
            port=0,
            ssl_context=context if implicit else None,
            tls_context=None if implicit else context,
            require_starttls=bool(context) and not implicit,
            authenticator=self.authenticate,
            auth_require_tls=False,
        )

    def __enter__(self) -> SMTPServer:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        # aiosmtpd leaves connections open that the client has left open.
        ended = threading.Event()
        self.loop.call_soon_threadsafe(self._end, ended)
        ended.wait()
        self.stop()

    def factory(self) -> SMTP:
        session: SMTP = super().factory()
        self.sessions.append(session)
        return session

    def _end(self, ended: threading.Event) -> None:
        for session in self.sessions:
            # Before Python 3.11.3, one whose client has gone may raise that.
            with suppress(AttributeError):
                session.transport.abort()
        # Once for the connections to be lost, and once for those below TLS.
        self.loop.call_soon(self.loop.call_soon, self.loop.call_soon, ended.set)

    def _trigger_server(self) -> None:
        # aiosmtpd connects to the port that it was given, which is 0.
        server: Any = self.server
        self.port = server.sockets[0].getsockname()[1]
        super()._trigger_server()

    def authenticate(self, server, session, envelope, mechanism, data):
        """Compare the login. As some servers do, repeat the user name in a refusal."""
        if (data.login.decode(), data.password.decode()) == self.login:
            return AuthResult(success=True, auth_data=data)
        message = f"535 5.7.8 no such login: {data.login.decode()}"
        return AuthResult(success=False, handled=False, message=message)

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        if self.login and not session.authenticated:  # pragma: no cover (all log in)
            return "530 5.7.0 log in first"
        if address in self.refused:
            return "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        login = session.auth_data
        message = email.message_from_bytes(envelope.content, policy=default)
        received = Received(
            user=login.login.decode() if login else None,
            tls=server.transport.get_extra_info("ssl_object") is not None,
            local_hostname=session.host_name,
            sender=envelope.mail_from,
            recipients=envelope.rcpt_tos,
            message=message,
        )
        self.received.append(received)
        return "250 OK"
