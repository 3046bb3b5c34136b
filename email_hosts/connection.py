"""An open connection to an SMTP server: smtplib's, with an end to each reply."""

from __future__ import annotations

import io
import selectors
import smtplib
import socket
import ssl
import time
from contextlib import suppress
from typing import Any

clock = time.monotonic

Reply = tuple[int, bytes]

QUIT_TIMEOUT = 0.5  # seconds

# RFC 5321 has no limit for the lines of a reply; a server's are a kilobyte or two.
MAX_REPLY = 65536

# As it is at import: a test may put a mock in its place later.
SENDMAIL = smtplib.SMTP.sendmail


class SMTP(smtplib.SMTP):
    """smtplib's class, for which ``timeout`` limits each reply as a whole.

    In smtplib it limits each read, and a server that sends a reply bit by bit, or one
    without end, is waited for all day. Raises ``SMTPServerDisconnected`` at the limit.
    """

    def getreply(self) -> Reply:
        """Return code and text of the next reply."""
        sock = open_socket(self)
        if self.file is None:
            self.file = io.BufferedReader(_Replies(sock))
        replies: _Replies = self.file.raw
        replies.begin()
        try:
            return super().getreply()
        finally:
            replies.end()


class SMTP_SSL(SMTP, smtplib.SMTP_SSL):  # noqa: N801
    """The same with TLS from the first byte."""


# By the class of smtplib that Django asks for. Tests may have put a mock in its place.
CLASSES: dict[type[smtplib.SMTP], type[SMTP]] = {
    smtplib.SMTP: SMTP,
    smtplib.SMTP_SSL: SMTP_SSL,
}


class _Replies(io.RawIOBase):
    """What comes from a socket; from ``begin`` to ``end``, within the limits of a reply."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def begin(self) -> None:
        """Start the clock."""
        self._timeout = self._sock.gettimeout()
        self._deadline = self._timeout and clock() + self._timeout
        self._size = 0

    def end(self) -> None:
        """Leave the socket as it was."""
        self._deadline = None
        with suppress(OSError):  # it may be closed
            self._sock.settimeout(self._timeout)

    def readable(self) -> bool:
        """Return true, as ``BufferedReader`` wants to know."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what comes next. Raises ``OSError`` at a limit."""
        if self._deadline and self._size:
            remaining = self._deadline - clock()
            if remaining <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(remaining)
        if self._size > MAX_REPLY:
            raise OSError(f"a reply of more than {MAX_REPLY} bytes")
        size = self._sock.recv_into(buffer)
        self._size += size
        return size


def is_ours(connection: smtplib.SMTP) -> bool:
    """Whether this is no mock, and no class whose own ``sendmail()`` is meant to be called."""
    return isinstance(connection, SMTP) and type(connection).sendmail is SENDMAIL


def send_at_once(connection: smtplib.SMTP) -> None:
    """Let no small write wait for the acknowledgement of the one before (Nagle)."""
    if is_ours(connection):
        open_socket(connection).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def is_closed(connection: smtplib.SMTP) -> bool:
    """Whether the connection was lost, or closed after an error."""
    return is_ours(connection) and connection.sock is None


def say_quit(connection: smtplib.SMTP, *, wait: bool = True) -> None:
    """Say QUIT and disconnect; raises nothing: what is accepted stays accepted.

    The reply tells nothing. A server deserves a moment to give it (RFC 5321, 4.1.1.10),
    and no more than that.
    """
    if not is_ours(connection):
        with suppress(Exception):
            connection.quit()
        return
    with suppress(OSError):  # the server may be gone already
        open_socket(connection).settimeout(QUIT_TIMEOUT)
        connection.putcmd("QUIT")
        if wait:
            connection.getreply()
    connection.close()


def is_quiet(connection: smtplib.SMTP) -> bool:
    """Whether there is nothing to read, not even the end of the connection."""
    try:
        sock = open_socket(connection)
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            if selector.select(timeout=0):
                return False
        return not has_lines(connection)
    except (OSError, ValueError):
        return False


def has_lines(connection: smtplib.SMTP) -> bool:
    """Whether the server has said something that nobody has asked for.

    Raises ``OSError`` if the connection was lost.
    """
    file: Any = connection.file
    if file is None:  # TLS has started, and nobody has spoken yet
        return False
    sock = open_socket(connection)
    timeout = sock.gettimeout()
    sock.settimeout(0)
    try:
        if file.peek(1):
            return True
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    finally:
        sock.settimeout(timeout)
    raise smtplib.SMTPServerDisconnected("the server has ended the connection")


def open_socket(connection: smtplib.SMTP) -> socket.socket:
    """Return the socket of a connection, or raise ``SMTPServerDisconnected``."""
    if connection.sock is None:
        raise smtplib.SMTPServerDisconnected("the connection is closed")
    return connection.sock
