"""Opens, inspects and ends connections, with limits on each reply."""

from __future__ import annotations

import io
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from typing import Any, TypeGuard

from ..exceptions import InvalidEmailHost
from .tls import NO_STARTTLS_HINT, hint_for

clock = time.monotonic

Reply = tuple[int, bytes]

# After these, no further reply can be trusted: 421 and 221 are goodbyes, and -1 is smtplib's
# code for a line that is not a reply.
ENDS = {421, 221, -1}

# What a server that knows no EHLO answers. To HELO, it says what it really means.
NOT_IMPLEMENTED = {500, 502, 504}

# In seconds. A client should wait for the reply to QUIT (RFC 5321, 4.1.1.10), but not
# long, because the reply changes nothing.
QUIT_TIMEOUT = 0.5

# In bytes. RFC 5321 does not limit a reply. Real ones have a kilobyte or two.
MAX_REPLY = 65536

# A server that uses Nagle's algorithm, such as Postfix, holds back a reply until the
# last one is acknowledged. Our system delays that by 40 ms. Linux can acknowledge at
# once, but must be told before each read.
QUICKACK = getattr(socket, "TCP_QUICKACK", None)

# The methods that we bypass. smtplib's are read at import, because a test may replace them
# with mocks later.
METHODS = {"login", "sendmail", "mail", "rcpt", "data", "docmd", "rset", "quit"}
methods_of = attrgetter(*METHODS)
METHODS_OF_SMTPLIB = methods_of(smtplib.SMTP)


class SMTP(smtplib.SMTP):
    """smtplib's class, with ``timeout`` as the limit of each reply as a whole.

    In smtplib it limits each read. So a server that sends a reply byte by byte, or
    without end, holds up the sender forever. Raises ``SMTPServerDisconnected`` at the
    limit.

    With ``allow`` it connects only to IP addresses that are allowed. Raises
    ``InvalidEmailHost`` if there is none.

    ``is_clean`` tells whether EHLO or HELO was accepted, and the last transaction was complete
    and clean. A session that is not clean must not be used again.
    """

    is_clean = True  # nothing has happened yet

    def __init__(
        self, *args: Any, allow: Callable[[str, int], bool] | None = None, **kwargs: Any
    ) -> None:
        self._allow = allow
        try:
            super().__init__(*args, **kwargs)
        except BaseException:  # of a signal handler, too, for which smtplib does not close
            self.close()
            raise

    def _get_socket(self, host: str, port: int, timeout: float) -> Any:
        # Private: _get_socket(). smtplib resolves and connects in it. A check before it
        # is not enough, because the name may resolve to another address next time.
        if self._allow is None:
            return super()._get_socket(host, port, timeout)  # type: ignore[misc]
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(address[0]) for *_, address in found]
        allowed = [each for each in addresses if self._allow(each, port) is True]
        # ``timeout`` is for all addresses together: a name may have many.
        deadline = clock() + timeout
        failure: Exception = InvalidEmailHost("allow() allows no address of this server")
        for number, address in enumerate(allowed):
            # One that is silent leaves time for others.
            share = (deadline - clock()) / (len(allowed) - number)
            if share <= 0:
                break
            try:
                sock = super()._get_socket(address, port, share)  # type: ignore[misc]
            except OSError as error:
                failure = error
            else:
                sock.settimeout(timeout)
                return sock
        raise failure

    def ehlo_or_helo_if_needed(self) -> None:
        """Say EHLO, or HELO if that is refused. Raises ``SMTPHeloError``.

        smtplib loses the reply to EHLO, which says why a server then ends the connection, and
        treats a greeting that was refused twice as accepted.
        """
        if self.ehlo_resp is not None or self.helo_resp is not None:
            return
        refusal = self.ehlo()
        if _is_positive(refusal):
            return
        with suppress(smtplib.SMTPServerDisconnected):  # the server has said why
            helo = self.helo()
            if _is_positive(helo):
                return
            refusal = helo if refusal[0] in NOT_IMPLEMENTED else refusal
        self.is_clean = False
        self.ehlo_resp = self.helo_resp = None
        raise smtplib.SMTPHeloError(*refusal)

    def getreply(self) -> Reply:
        """Return code and text of the next reply."""
        with replies_of(self).raw.one_reply():
            return super().getreply()


class SMTP_SSL(SMTP, smtplib.SMTP_SSL):  # noqa: N801
    """The same with TLS from the first byte."""


# Ours by smtplib's class, which a test may have replaced with a mock.
CLASSES: dict[type[smtplib.SMTP], type[SMTP]] = {
    smtplib.SMTP: SMTP,
    smtplib.SMTP_SSL: SMTP_SSL,
}


def connect(
    connection_class: type[smtplib.SMTP],
    host: str,
    port: int,
    *,
    starttls: ssl.SSLContext | None = None,
    **params: Any,
) -> smtplib.SMTP:
    """Return a new connection, encrypted if asked for, but not logged in.

    ``starttls`` is the context for STARTTLS. ``params`` are those of the class: SMTP_SSL takes
    a ``context``, too. Raises what smtplib raises.
    """
    try:
        connection = connection_class(host, port, **params)
    except smtplib.SMTPServerDisconnected as error:
        # A server that expects TLS from the first byte waits for the client.
        if "timed out" in str(error) and "context" not in params:
            hint = "the server sent no greeting; if its port is for TLS, use submissions://"
            error.args = (f"{error}; {hint}",)
        raise
    except ssl.SSLError as error:
        _add_hint(error)
        raise
    try:
        if is_ours(connection):  # each write goes out at once, without Nagle's algorithm
            open_socket(connection).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if starttls:
            connection.starttls(context=starttls)
    except BaseException as error:
        if isinstance(error, smtplib.SMTPNotSupportedError):
            error.args = (f"{error} {NO_STARTTLS_HINT}",)
        elif isinstance(error, ssl.SSLError):
            _add_hint(error)
        connection.close()
        raise
    return connection


def _add_hint(error: ssl.SSLError) -> None:
    error.strerror = "; ".join(filter(None, [error.strerror, hint_for(error)]))


class LimitedReader(io.RawIOBase):
    """Reads from a socket, and limits each reply."""

    _deadline: float | None = None
    _size = 0  # of this reply, in bytes

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @contextmanager
    def one_reply(self) -> Iterator[None]:
        """Start the clock, and restore the timeout of the socket afterwards."""
        timeout = self._sock.gettimeout()
        self._deadline = timeout and clock() + timeout
        self._size = 0
        try:
            yield
        finally:
            self._deadline = None
            with suppress(OSError):  # it may be closed
                self._sock.settimeout(timeout)

    def readable(self) -> bool:
        """Return true, as ``BufferedReader`` requires."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what comes next, or return ``None``. Raises ``OSError`` at a limit."""
        if self._deadline and self._size:
            remaining = self._deadline - clock()
            if remaining <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(remaining)
        if self._size > MAX_REPLY:
            raise OSError(f"a reply of more than {MAX_REPLY} bytes")
        if QUICKACK is not None:
            with suppress(OSError):  # not a TCP socket
                self._sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        try:
            size = self._sock.recv_into(buffer)
        except (BlockingIOError, ssl.SSLWantReadError):  # nothing is there: see _at_once()
            return None
        self._size += size
        return size


def _is_positive(reply: Reply) -> bool:
    """Whether a reply accepts a command: 2yz (RFC 5321, 4.2.1)."""
    return reply[0] // 100 == 2


def is_ours(connection: smtplib.SMTP) -> TypeGuard[SMTP]:
    """Whether commands may be written to its socket directly.

    For a mock, or a class with its own ``sendmail()`` or the like, call that instead.
    """
    return (
        isinstance(connection, SMTP)
        and METHODS.isdisjoint(vars(connection))
        and methods_of(type(connection)) == METHODS_OF_SMTPLIB
    )


def is_closed(connection: smtplib.SMTP) -> bool:
    """Whether the connection was lost, or closed after an error."""
    return is_ours(connection) and connection.sock is None


def quit_quietly(connection: smtplib.SMTP, *, wait: bool) -> None:
    """Send QUIT and disconnect. Raises no ``OSError``: accepted messages stay accepted."""
    if not is_ours(connection):
        with suppress(OSError):
            connection.quit()
        return
    try:
        with suppress(OSError):  # the server may be gone already
            open_socket(connection).settimeout(QUIT_TIMEOUT)
            connection.putcmd("QUIT")
            if wait:
                connection.getreply()
    finally:
        connection.close()


def is_idle(connection: smtplib.SMTP) -> bool:
    """Whether the server has sent nothing, and has not ended the connection."""
    try:
        with _at_once(connection) as replies:
            # read() returns None for silence and b"" for the end. peek() does not tell.
            return not replies.peek(1) and replies.read(1) is None
    except (OSError, ValueError):
        return False


def reply_that_is_there(connection: smtplib.SMTP) -> Reply | None:
    """Return the next reply if it has arrived, without waiting. Raises nothing of its own.

    After a write that failed: the server may have said why it ends the connection.
    """
    try:
        with _at_once(connection):
            return connection.getreply()
    except (OSError, ValueError):
        return None


@contextmanager
def _at_once(connection: smtplib.SMTP) -> Iterator[Any]:
    """Return the file of the replies. Reading from it does not wait."""
    sock = open_socket(connection)
    timeout = sock.gettimeout()
    sock.settimeout(0)
    try:
        yield replies_of(connection)
    finally:
        with suppress(OSError):  # it may be closed
            sock.settimeout(timeout)


def replies_of(connection: smtplib.SMTP) -> Any:
    """Return the file that the replies of a connection are read from."""
    if connection.file is None:
        connection.file = io.BufferedReader(LimitedReader(open_socket(connection)))
    return connection.file


def open_socket(connection: smtplib.SMTP) -> socket.socket:
    """Return the socket of a connection, or raise ``SMTPServerDisconnected``."""
    if connection.sock is None:
        raise smtplib.SMTPServerDisconnected("the connection is closed")
    return connection.sock
