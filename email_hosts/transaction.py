"""Messages over one open SMTP connection, in as few round trips as the server allows.

smtplib's ``sendmail()`` waits for the reply to each command. Where the server says
PIPELINING (RFC 2920), a message takes two round trips here, and each further message of a
batch one. Results and errors are those of ``sendmail()``.
"""

from __future__ import annotations

import re
import smtplib
import traceback
from collections import deque
from collections.abc import Generator, Iterator
from typing import NamedTuple

from .connection import Reply, has_lines, is_ours, open_socket

# Of commands without a reply. A socket buffers far more, so that writing never waits for
# a server that in turn waits for its replies to be read.
MAX_BYTES_IN_FLIGHT = 8192

# What one TLS record holds. A send() of more may have been received in part when it fails.
MAX_RECORD = 16384

# The packages whose code the send() of a socket runs.
SENDING = {__name__.partition(".")[0], "ssl", "gevent", "eventlet"}

DATA = b"DATA\r\n"
RECIPIENT_ACCEPTED = (250, 251)
START_MAIL_INPUT = 354
SERVICE_CLOSING = 421
NO_CODE = -1  # smtplib's, for a line that is no reply: who knows what follows it


class Envelope(NamedTuple):
    """A message as it goes over the wire: the arguments of ``sendmail()``."""

    sender: str
    recipients: list[str]
    content: bytes


class Outcome(NamedTuple):
    """What ``sendmail()`` would have returned or raised for an envelope."""

    refused: dict[str, Reply]
    error: smtplib.SMTPException | None = None


class Envelopes:
    """The envelopes of a batch, of which the next ones can be had before their turn."""

    def __init__(self, envelopes: Iterator[Envelope]) -> None:
        self._coming = envelopes
        self._ready: deque[Envelope | Exception | None] = deque()

    def current(self) -> Envelope | None:
        """Return the envelope whose turn it is, or raise what kept it from being made."""
        envelope = self._at(0)
        if isinstance(envelope, Exception):
            raise envelope
        return envelope

    def following(self) -> Envelope | None:
        """Return the one after that, or ``None`` if there is none, or it cannot be made."""
        envelope = self._at(1)
        return None if isinstance(envelope, Exception) else envelope

    def prepare(self, position: int) -> None:
        """Make the envelopes up to this position, counted from the current one."""
        self._at(position)

    def advance(self) -> None:
        """Go on to the next one."""
        self._ready.popleft()

    def _at(self, position: int) -> Envelope | Exception | None:
        while len(self._ready) <= position:
            try:
                self._ready.append(next(self._coming, None))
            except Exception as error:  # raised in its turn, after the messages before it
                self._ready.append(error)
        return self._ready[position]


def send(connection: smtplib.SMTP, envelopes: Envelopes) -> Generator[Outcome, None, None]:
    """Send the envelopes; give the outcome of each as soon as it is known.

    A caller that stops after an outcome finds its envelope still the current one, and the
    connection in step or closed.
    """
    if not is_ours(connection):
        yield from _through_sendmail(connection, envelopes)
        return
    ahead: _Group | None = None
    in_step = True
    try:
        while envelope := envelopes.current():
            in_step = False
            group, ahead = ahead, None
            try:
                connection.ehlo_or_helo_if_needed()
                group = group or _Group(connection, envelope)
                outcome = Outcome(group.offer())
                ahead = _group_ahead(connection, envelopes)
                group.hand_over(ahead)
                # While the server is busy: a message takes longer to make than to write.
                envelopes.prepare(2 if ahead else 1)
                group.finish()
            except smtplib.SMTPException as error:
                mark(error, body_was_sent=body_was_sent(error, unless_known=False))
                outcome = Outcome({}, error)
                if group:
                    group.withdraw(ahead)
            except OSError as error:  # a signal handler's: who knows how far this got
                mark(error, body_was_sent=True)
                raise
            in_step = not ahead
            yield outcome
            envelopes.advance()
    finally:
        if not in_step:
            connection.close()


def body_was_sent(error: BaseException, *, unless_known: bool = True) -> bool:
    """Whether the body was handed over before this error.

    If so, and if the server has not answered, the message may have been accepted. An error
    that nobody has marked does not tell: ``unless_known`` is the answer then.
    """
    return getattr(error, "body_was_sent", unless_known)


def mark(error: OSError, *, body_was_sent: bool) -> None:
    """Note on the error whether the body was handed over."""
    error.body_was_sent = body_was_sent  # type: ignore[attr-defined]


def can_be_repeated(error: smtplib.SMTPException) -> bool:
    """Whether the connection was lost, or is about to be, and nobody has the message."""
    replies = getattr(error, "recipients", {}).values()
    codes = {getattr(error, "smtp_code", 0), *(code for code, _ in replies)}
    was_lost = isinstance(error, smtplib.SMTPServerDisconnected) or SERVICE_CLOSING in codes
    return was_lost and not body_was_sent(error)


class _Group:
    """MAIL, RCPT and DATA of one message: one write, if the server has PIPELINING."""

    def __init__(self, connection: smtplib.SMTP, envelope: Envelope) -> None:
        self._connection = connection
        self._envelope = envelope
        self._window = MAX_BYTES_IN_FLIGHT if connection.has_extn("pipelining") else 0
        self._to_write = deque(self._commands())
        self._in_flight: deque[bytes] = deque()
        self._bytes_in_flight = 0
        self._has_recipients = False
        self._is_closing = False

    def offer(self) -> dict[str, Reply]:
        """Offer the message; return the refused recipients, or raise as smtplib does."""
        code, text = self._reply()
        if code != 250:
            raise smtplib.SMTPSenderRefused(code, text, self._envelope.sender)
        refused: dict[str, Reply] = {}
        for recipient in self._envelope.recipients:
            code, text = self._reply()
            if code not in RECIPIENT_ACCEPTED:
                refused[recipient] = (code, text)
            if code == SERVICE_CLOSING:
                raise smtplib.SMTPRecipientsRefused(refused)
        # smtplib counts them, and one that is there twice would seem to be left.
        if refused.keys() >= set(self._envelope.recipients):
            raise smtplib.SMTPRecipientsRefused(refused)
        code, text = self._reply()
        if code != START_MAIL_INPUT:
            raise smtplib.SMTPDataError(code, text)
        return refused

    def hand_over(self, ahead: _Group | None) -> None:
        """Write the body, with the group ahead behind it.

        RFC 2920, 3.1: the content of a message may be the first "command" of a group.
        """
        self._expect_silence()
        commands = ahead.next_commands() if ahead else b""
        _write(self._connection, _body(self._envelope.content), commands)

    def finish(self) -> None:
        """Wait for the reply to the body."""
        try:
            code, text = self._connection.getreply()
            if code != 250:
                self._is_closing = code in (SERVICE_CLOSING, NO_CODE)
                raise smtplib.SMTPDataError(code, text)
        except smtplib.SMTPException as error:
            mark(error, body_was_sent=True)
            raise

    def withdraw(self, ahead: _Group | None) -> None:
        """Get the connection in step again after an error, or close it.

        With a group ahead, it is the server that starts anew: after the end of a body.
        """
        self._to_write.clear()
        try:
            while self._in_flight and not self._is_closing:
                command = self._in_flight[0]
                code, _ = self._reply()
                if command == DATA and code == START_MAIL_INPUT:
                    self._end_empty_message()
            if self._is_closing or (not ahead and self._connection.rset()[0] != 250):
                self._connection.close()
        except smtplib.SMTPException:
            self._connection.close()

    def next_commands(self) -> bytes:
        """Return what may be written now; it counts as in flight."""
        commands = []
        while self._to_write:
            size = len(self._to_write[0])
            if self._in_flight and self._bytes_in_flight + size > self._window:
                break
            commands.append(self._to_write.popleft())
            self._in_flight.append(commands[-1])
            self._bytes_in_flight += size
        return b"".join(commands)

    def _expect_silence(self) -> None:
        """Raise ``SMTPServerDisconnected`` rather than take a stray line for the reply."""
        try:
            if not has_lines(self._connection):
                return
            problem = "the server has said more than it was asked"
        except OSError as error:
            problem = f"Connection lost: {error}"
        self._is_closing = True
        raise smtplib.SMTPServerDisconnected(problem)

    def _reply(self) -> Reply:
        # At half of it, not for each command: small writes would cost a round trip each.
        if self._bytes_in_flight * 2 <= self._window:
            _write(self._connection, self.next_commands())
        code, text = self._connection.getreply()
        command = self._in_flight.popleft()
        self._bytes_in_flight -= len(command)
        is_closing = code == SERVICE_CLOSING and command != DATA  # as smtplib has it
        self._is_closing = is_closing or code == NO_CODE
        # Who was not clearly refused might get what follows.
        self._has_recipients |= command.startswith(b"RCPT") and not 400 <= code <= 599
        return code, text

    def _end_empty_message(self) -> None:
        # RFC 2920, 3.1: a server may ask for the message after it refused everybody.
        if self._has_recipients:
            raise smtplib.SMTPServerDisconnected("somebody would get an empty message")
        _write(self._connection, b".\r\n")
        self._connection.getreply()

    def _commands(self) -> Iterator[bytes]:
        sender, recipients, content = self._envelope
        size = f" size={len(content)}" if self._connection.has_extn("size") else ""
        yield self._command(f"MAIL FROM:{smtplib.quoteaddr(sender)}{size}")
        for recipient in recipients:
            yield self._command(f"RCPT TO:{smtplib.quoteaddr(recipient)}")
        yield DATA

    def _command(self, command: str) -> bytes:
        if "\r" in command or "\n" in command:
            raise ValueError("an address has a line break")
        return f"{command}\r\n".encode(self._connection.command_encoding)


def _group_ahead(connection: smtplib.SMTP, envelopes: Envelopes) -> _Group | None:
    if not connection.has_extn("pipelining"):
        return None
    following = envelopes.following()
    try:
        return _Group(connection, following) if following else None
    except ValueError:
        return None  # raised in its turn


def _through_sendmail(connection: smtplib.SMTP, envelopes: Envelopes) -> Iterator[Outcome]:
    while envelope := envelopes.current():
        try:
            outcome = Outcome(connection.sendmail(*envelope))
        except smtplib.SMTPException as error:  # it does not tell how far it got
            outcome = Outcome({}, error)
        yield outcome
        envelopes.advance()


def _body(content: bytes) -> bytes:
    """Return the content with dots stuffed and the end of data. RFC 5321, 4.5.2."""
    stuffed = re.sub(rb"(?m)^\.", b"..", content)
    return stuffed + (b".\r\n" if stuffed.endswith(b"\r\n") else b"\r\n.\r\n")


def _write(connection: smtplib.SMTP, data: bytes, ahead: bytes = b"") -> None:
    """Write the data, and what goes ahead of the next reply.

    Raises ``SMTPServerDisconnected`` if not all of the data could be written. As for the
    rest, its replies will tell. The timeout is for each step, not for the whole.
    """
    unsent = memoryview(data + ahead)
    try:
        while unsent:
            unsent = unsent[open_socket(connection).send(unsent[:MAX_RECORD]) :]
    except OSError as error:
        if not _is_of_the_socket(error):
            raise
        if len(unsent) > len(ahead):
            connection.close()
            raise smtplib.SMTPServerDisconnected(f"Connection lost: {error}") from error


def _is_of_the_socket(error: OSError) -> bool:
    """Whether it comes from the socket, and not from a signal handler meanwhile.

    The latter, an alarm clock's ``TimeoutError`` say, does not tell whether ``send()`` has
    done its work.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = {str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames}
    return packages <= SENDING
