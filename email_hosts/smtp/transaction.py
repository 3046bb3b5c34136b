"""One message over one connection: MAIL, RCPT, DATA and the body.

smtplib's ``sendmail()`` waits for the reply to each command. Here, commands are written in
groups if the server takes them (RFC 2920). Results and errors are those of ``sendmail()``.
"""

from __future__ import annotations

import math
import re
import smtplib
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from ..retry import NOT_SENT, PERHAPS
from .connection import ENDS, SMTP, Reply, is_idle, open_socket, reply_that_is_there
from .pace import Pace, ServerPace

clock = time.monotonic

# Bytes of commands that the server has not answered yet. A socket buffers far more. So
# writing never blocks on a server that waits for us to read its replies.
MAX_BYTES_IN_FLIGHT = 8192

# The size of a TLS record. If writing more than that fails, the server may have
# received a part of it.
MAX_RECORD = 16384

MEGABYTE = 2**20  # The timeout applies to each megabyte of a body.

# Seconds to wait for each reply, by pace, while nobody knows whether the pace works with this
# server. Behind a body, a server is busy with nothing else. In front of one, it may look up
# the sender and the recipients.
PATIENCE = {Pace.SINGLE: math.inf, Pace.GROUPED: 15, Pace.AHEAD: 5}

DATA = b"DATA\r\n"
END_OF_DATA = b".\r\n"
RECIPIENT_ACCEPTED = (250, 251)
START_MAIL_INPUT = 354

_ATOM = "[A-Za-z0-9_+-]+"
PLAIN_ADDRESS = re.compile(rf"{_ATOM}(\.{_ATOM})*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")


class Envelope(NamedTuple):
    """A message as SMTP carries it: the arguments of ``sendmail()``.

    ``message`` is the caller's own object, which nobody here looks at. ``error`` says why the
    message could not be made. It becomes the result, and nothing is sent.
    """

    sender: str
    recipients: list[str]
    content: bytes
    message: Any = None
    error: Exception | None = None


class Transaction:
    """One message over one connection.

    ``refused`` are recipients who were refused for good before, and are not offered again.
    Raises ``ValueError`` for an address that cannot be written.
    """

    refusal: smtplib.SMTPException | None = None  # the server's own answer
    was_understood = True  # false: a refusal is about the pace, and not about the message
    body_was_begun = False
    body_was_sent = False  # whether it was, or may have been
    _bytes_in_flight = 0
    _has_recipients = False
    _failure: smtplib.SMTPServerDisconnected | None = None  # of a write
    _must_close = False

    def __init__(
        self,
        connection: SMTP,
        envelope: Envelope,
        pace: Pace,
        server_pace: ServerPace,
        refused: Mapping[str, Reply],
    ) -> None:
        self.pace = pace
        self.refused = dict(refused)
        self._connection = connection
        self._envelope = envelope
        self._recipients = [each for each in envelope.recipients if each not in refused]
        self._server_pace = server_pace
        self._window = MAX_BYTES_IN_FLIGHT if pace else 0
        self._to_write = deque(self._commands())
        self._in_flight: deque[bytes] = deque()

    def write_commands(self) -> None:
        """Write what may be written before a reply is read.

        If that fails, reading will tell: what the server has said before counts.
        """
        commands = []
        while self._to_write:
            size = len(self._to_write[0])
            if self._bytes_in_flight and self._bytes_in_flight + size > self._window:
                break
            commands.append(self._to_write.popleft())
            self._bytes_in_flight += size
        if not commands:
            return
        self._in_flight += commands
        show(self._connection, *commands)
        try:
            send_all(self._connection, b"".join(commands))
        except smtplib.SMTPServerDisconnected as error:
            self._failure = error

    def send_envelope(self) -> None:
        """Send MAIL, RCPT and DATA. Raises ``SMTPException`` as ``sendmail()`` does.

        Afterwards, ``refused`` has the recipients who do not get the message.
        """
        if self.pace <= self._server_pace.proven and self.pace is not Pace.AHEAD:
            self._read_replies()
            return
        sock = open_socket(self._connection)
        timeout = sock.gettimeout()
        sock.settimeout(min(timeout or math.inf, PATIENCE[self.pace]))
        try:
            self._read_replies()
        except smtplib.SMTPSenderRefused:
            # A server that reads a group as one command answers once, with any code.
            if self.pace > self._server_pace.proven:
                self.was_understood &= self._read_the_rest()
            raise
        finally:
            with suppress(OSError):  # it may be closed
                sock.settimeout(timeout)

    def _read_replies(self) -> None:
        code, text = self._reply()
        if code != 250:
            self._note(code, text)
            self._refuse(smtplib.SMTPSenderRefused(code, text, self._envelope.sender))
        accepted = set()
        for recipient in self._recipients:
            code, text = self._reply()
            if code in RECIPIENT_ACCEPTED:
                accepted.add(recipient)
                continue
            self._note(code, text)
            self.refused[recipient] = (code, text)
            if code in ENDS:
                self._refuse(smtplib.SMTPRecipientsRefused(self.refused))
        if not accepted or (self.pace and not self.was_understood):
            self._refuse(smtplib.SMTPRecipientsRefused(self.refused))
        for recipient in accepted:  # it may be there twice, and refused the second time
            self.refused.pop(recipient, None)
        code, text = self._reply()
        if code != START_MAIL_INPUT:
            self._note(code, text)
            self._refuse(smtplib.SMTPDataError(code, text))
        if self._failure:
            raise self._failure
        if not is_idle(self._connection):  # a stray line is not to be taken for a reply
            problem = "the server has ended the connection, or sent more than the replies"
            raise smtplib.SMTPServerDisconnected(problem)

    def send_body(self) -> None:
        """Write the body.

        If that fails, and the server has said why before, raises ``SMTPDataError``.
        """
        self.body_was_begun = True
        try:
            self._write_body()
        except smtplib.SMTPServerDisconnected:
            self._must_close = True
            reply = reply_that_is_there(self._connection)
            if reply and is_refusal(reply[0]):
                self._refuse(smtplib.SMTPDataError(*reply))
            raise

    def _write_body(self) -> None:
        stuffed = _stuffed(self._envelope.content)
        self._envelope = self._envelope._replace(content=b"")
        end = END_OF_DATA if stuffed.endswith(b"\r\n") else b"\r\n" + END_OF_DATA
        show(self._connection, stuffed, end)
        body = memoryview(stuffed + end)
        # A server that takes the body bit by bit must not hold up the sender forever.
        sock = open_socket(self._connection)
        timeout = sock.gettimeout()
        deadline = clock() + (timeout or math.inf) * (1 + len(stuffed) // MEGABYTE)
        while len(body) > MAX_RECORD:
            if clock() > deadline:
                raise smtplib.SMTPServerDisconnected("timed out while writing the body")
            send_all(self._connection, body[:MAX_RECORD])
            body = body[MAX_RECORD:]
        # Whatever goes wrong from here on, the server may have got the whole message.
        self.body_was_sent = True
        send_all(self._connection, body)

    def read_body_reply(self) -> None:
        """Wait for the reply to the body. Raises ``SMTPDataError`` if it is refused."""
        code, text = self._connection.getreply()
        self._must_close = code in ENDS
        if code != 250:
            self._refuse(smtplib.SMTPDataError(code, text))

    def delivery(self) -> str:
        """Return what an error at this moment means for the message, whatever its class."""
        is_refused = isinstance(self.refusal, smtplib.SMTPDataError) and is_refusal(
            self.refusal.smtp_code
        )
        return PERHAPS if self.body_was_sent and not is_refused else NOT_SENT

    def has_given_up(self) -> bool:
        """Whether the server has refused the message for now, or the session altogether.

        That is 4xx to MAIL, to all RCPTs or to DATA. Some servers end a session with such a
        reply and keep the connection open. OpenSMTPD does so after 100 messages, and
        postscreen in the first session of a client.
        """
        if self.body_was_begun:
            return False
        codes = [code for code, _ in self.refused.values()]
        if isinstance(self.refusal, smtplib.SMTPResponseException):
            codes = [self.refusal.smtp_code]
        return self.has_ended() or max(codes) < 500

    def has_ended(self) -> bool:
        """Whether the server has said goodbye, or the connection broke."""
        return self._must_close or not self.refusal

    def refused_for_good(self) -> dict[str, Reply]:
        """Return the recipients whom the server never takes."""
        return {
            recipient: reply for recipient, reply in self.refused.items() if reply[0] >= 500
        }

    def resync(self, *, with_rset: bool) -> None:
        """Get the connection in step again after a refusal, or close it.

        RSET is not needed where commands follow a body: its end resets the server.
        """
        try:
            if not self._read_the_rest() or (with_rset and self._connection.rset()[0] != 250):
                self._connection.close()
        except smtplib.SMTPException:
            self._connection.close()

    def _read_the_rest(self) -> bool:
        """Read the replies that are left. Return whether all came, and nobody said goodbye."""
        self._to_write.clear()
        try:
            while self._in_flight and not self._must_close:
                command = self._in_flight[0]
                code, _ = self._reply()
                if command == DATA and code == START_MAIL_INPUT:
                    self._end_empty_message()
        except smtplib.SMTPException:
            return False
        return not self._must_close

    def _note(self, code: int, text: bytes) -> None:
        self.was_understood &= self._server_pace.understood(self.pace, code, text)

    def _refuse(self, error: smtplib.SMTPException) -> NoReturn:
        """Raise this error, which is the server's answer.

        It is remembered, because a signal handler may raise an error of the same class.
        """
        self.refusal = error
        raise error

    def _reply(self) -> Reply:
        # Writes when half of the window is free. A small write after each reply would
        # cost a round trip each time.
        if self._failure is None and self._bytes_in_flight * 2 <= self._window:
            self.write_commands()
        code, text = self._read()
        command = self._in_flight.popleft()
        self._bytes_in_flight -= len(command)
        # A recipient who was not clearly refused may get the message.
        self._has_recipients |= command.startswith(b"RCPT") and not is_refusal(code)
        self._must_close = code in ENDS
        return code, text

    def _read(self) -> Reply:
        if self._failure is None:
            return self._connection.getreply()
        if reply := reply_that_is_there(self._connection):
            return reply
        raise self._failure

    def _end_empty_message(self) -> None:
        # RFC 2920, 3.1: a server may ask for the message after it refused everybody.
        if self._has_recipients:  # somebody would get the empty message
            raise smtplib.SMTPServerDisconnected
        send_all(self._connection, END_OF_DATA)
        self._connection.getreply()

    def _commands(self) -> Iterator[bytes]:
        sender, _, content, *_ = self._envelope
        size = f" size={len(content)}" if self._connection.has_extn("size") else ""
        yield self._command(f"MAIL FROM:{quoted(sender)}{size}")
        for recipient in self._recipients:
            yield self._command(f"RCPT TO:{quoted(recipient)}")
        yield DATA

    def _command(self, command: str) -> bytes:
        if "\r" in command or "\n" in command:
            raise ValueError("an address has a line break")
        return f"{command}\r\n".encode(self._connection.command_encoding)


def is_refusal(code: int) -> bool:
    """Whether this code refuses a command: 4yz or 5yz (RFC 5321, 4.2.1)."""
    return code // 100 in (4, 5)


def quoted(address: str) -> str:
    """Return the address in angle brackets, as ``smtplib.quoteaddr`` does.

    That function parses a header. Recognizing a plain address is ten times as fast.
    """
    return f"<{address}>" if PLAIN_ADDRESS.fullmatch(address) else smtplib.quoteaddr(address)


def show(connection: SMTP, *written: bytes) -> None:
    """Print what is written if somebody has called ``set_debuglevel``, as smtplib does."""
    if connection.debuglevel > 0:
        # Private: _print_debug(). smtplib's send() prints and writes.
        connection._print_debug("send:", repr(b"".join(written)))  # type: ignore[attr-defined]


def send_all(connection: SMTP, data: bytes | memoryview) -> None:
    """Write all of this, or raise ``SMTPServerDisconnected``.

    Not with ``sendall``: its timeout limits the whole, not each step.
    """
    unsent = memoryview(data)
    try:
        while unsent:
            unsent = unsent[open_socket(connection).send(unsent) :]
    except OSError as error:
        raise smtplib.SMTPServerDisconnected(f"Connection lost: {error}") from error


def _stuffed(content: bytes) -> bytes:
    """Return the content with each period at the start of a line doubled.

    RFC 5321, 4.5.2 requires it. smtplib's regular expression takes five times as long.
    """
    stuffed = content.replace(b"\n.", b"\n..")
    return b"." + stuffed if stuffed.startswith(b".") else stuffed
