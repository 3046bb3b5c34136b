"""Opens, inspects and ends connections, with limits on each reply."""

from __future__ import annotations

import io
import select
import smtplib
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from typing import Any

from ..exceptions import InvalidEmailHost

clock = time.monotonic

Reply = tuple[int, bytes]

# Whether this server may be used: a host name or an IP address, and a port.
Allow = Callable[[str, int], bool]

# In seconds. A client should wait for the reply to QUIT (RFC 5321, 4.1.1.10), but not
# long, because the reply changes nothing.
QUIT_TIMEOUT = 0.5

# In bytes. RFC 5321 does not limit a reply. Real ones have a kilobyte or two.
MAX_REPLY = 65536

# A server that uses Nagle's algorithm, such as Postfix, holds back a reply until the
# last one is acknowledged. Our system delays that by 40 ms. Linux can acknowledge at
# once, but must be told before each read.
QUICKACK = getattr(socket, "TCP_QUICKACK", None)

# A server that expects TLS from the first byte waits for the client.
NO_GREETING = "the server sent no greeting; if its port is for TLS, use submissions://"

# The methods that we bypass by writing commands directly. smtplib's are read at import,
# because a test may replace them with mocks later.
METHODS = {"sendmail", "mail", "rcpt", "data", "docmd", "rset", "quit"}
methods_of = attrgetter(*METHODS)
METHODS_OF_SMTPLIB = methods_of(smtplib.SMTP)


class SMTP(smtplib.SMTP):
    """smtplib's class, with ``timeout`` as the limit of each reply as a whole.

    In smtplib it limits each read. So a server that sends a reply byte by byte, or
    without end, holds up the sender forever. Raises ``SMTPServerDisconnected`` at the
    limit.

    With ``allow`` it connects only to IP addresses that are allowed. Raises
    ``InvalidEmailHost`` if there is none.
    """

    def __init__(self, *args: Any, allow: Allow | None = None, **kwargs: Any) -> None:
        self._allow = allow
        super().__init__(*args, **kwargs)

    def _get_socket(self, host: str, port: int, timeout: float) -> Any:
        # Private: _get_socket(). smtplib resolves and connects in it. A check before it
        # is not enough, because the name may resolve to another address next time.
        if self._allow is None:
            return super()._get_socket(host, port, timeout)  # type: ignore[misc]
        # ``timeout`` is for all addresses together: a name may have many.
        deadline = clock() + timeout
        failure: Exception = InvalidEmailHost("no address of the server is allowed")
        for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            address = str(info[4][0])
            remaining = deadline - clock()
            if remaining <= 0:
                break
            if self._allow(address, port) is True:
                try:
                    sock = super()._get_socket(address, port, remaining)  # type: ignore[misc]
                except OSError as error:
                    failure = error
                else:
                    sock.settimeout(timeout)
                    return sock
        raise failure

    def getreply(self) -> Reply:
        """Return code and text of the next reply."""
        sock = open_socket(self)
        if self.file is None:
            self.file = io.BufferedReader(LimitedReader(sock))
        replies: LimitedReader = self.file.raw
        replies.begin()
        try:
            return super().getreply()
        finally:
            replies.end()


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
        if "timed out" in str(error) and "context" not in params:
            error.args = (f"{error}; {NO_GREETING}",)
        raise
    try:
        disable_nagle(connection)
        if starttls:
            connection.starttls(context=starttls)
    except BaseException:
        connection.close()
        raise
    return connection


class LimitedReader(io.RawIOBase):
    """Reads from a socket, and limits the reply between ``begin`` and ``end``."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.can_wait = True
        self.has_ended = False

    def begin(self) -> None:
        """Start the clock."""
        self._timeout = self._sock.gettimeout()
        self._deadline = self._timeout and clock() + self._timeout
        self._size = 0

    def end(self) -> None:
        """Restore the timeout of the socket."""
        if self._deadline and self._size:
            with suppress(OSError):  # it may be closed
                self._sock.settimeout(self._timeout)
        self._deadline = None

    def readable(self) -> bool:
        """Return true, as ``BufferedReader`` requires."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what comes next. Raises ``OSError`` at a limit."""
        if not self.can_wait:
            return self._read_what_is_there(buffer)
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
        size = self._sock.recv_into(buffer)
        self._size += size
        return size

    def _read_what_is_there(self, buffer: Any) -> int | None:
        """Read without waiting. Return ``None`` if there is nothing."""
        pending = getattr(self._sock, "pending", int)  # left over from a TLS record
        if not _is_readable(self._sock) and not pending():
            return None
        timeout = self._sock.gettimeout()
        self._sock.settimeout(0)
        try:
            size = self._sock.recv_into(buffer)
        except (BlockingIOError, ssl.SSLWantReadError):  # a message of TLS itself
            return None
        finally:
            self._sock.settimeout(timeout)
        self.has_ended = size == 0
        return size


def _is_readable(sock: socket.socket) -> bool:
    if not hasattr(select, "poll"):  # Windows, where select() takes any socket
        return bool(select.select([sock], [], [], 0)[0])
    # Unlike epoll, it needs no descriptor. Unlike select(), it takes those above 1,023.
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def can_pipeline(connection: smtplib.SMTP) -> bool:
    """Whether commands may be written to its socket directly.

    For a mock, or a class with its own ``sendmail()`` or the like, call that instead.
    """
    return (
        isinstance(connection, SMTP)
        and METHODS.isdisjoint(vars(connection))
        and methods_of(type(connection)) == METHODS_OF_SMTPLIB
    )


def disable_nagle(connection: smtplib.SMTP) -> None:
    """Send each write at once, without waiting for the acknowledgement of the last one."""
    if can_pipeline(connection):
        open_socket(connection).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def is_closed(connection: smtplib.SMTP) -> bool:
    """Whether the connection was lost, or closed after an error."""
    return getattr(connection, "sock", "unknown") is None and can_pipeline(connection)


def quit_quietly(connection: smtplib.SMTP, *, wait: bool = True) -> None:
    """Send QUIT and disconnect. Raises nothing: accepted messages stay accepted."""
    if not can_pipeline(connection):
        with suppress(Exception):
            connection.quit()
        return
    with suppress(OSError):  # the server may be gone already
        open_socket(connection).settimeout(QUIT_TIMEOUT)
        connection.putcmd("QUIT")
        if wait:
            connection.getreply()
    connection.close()


def is_idle(connection: smtplib.SMTP) -> bool:
    """Whether the server has sent nothing, and has not ended the connection."""
    try:
        return not has_unread_data(connection)
    except (OSError, ValueError):
        return False


def has_unread_data(connection: smtplib.SMTP) -> bool:
    """Whether the server has sent something that answers no command.

    Raises ``OSError`` if the connection was lost.
    """
    open_socket(connection)
    file: Any = connection.file
    if file is None:  # no reply has been read since STARTTLS
        return False
    replies: LimitedReader = file.raw
    replies.can_wait = False
    try:
        if file.peek(1):
            return True
    finally:
        replies.can_wait = True
    if replies.has_ended:
        raise smtplib.SMTPServerDisconnected("the server has ended the connection")
    return False


def open_socket(connection: smtplib.SMTP) -> socket.socket:
    """Return the socket of a connection, or raise ``SMTPServerDisconnected``."""
    if connection.sock is None:
        raise smtplib.SMTPServerDisconnected("the connection is closed")
    return connection.sock
