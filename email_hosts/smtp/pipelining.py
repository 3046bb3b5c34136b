"""Sends messages over one SMTP connection, in as few round trips as the server allows.

smtplib's ``sendmail()`` waits for the reply to each command. Where the server offers
PIPELINING (RFC 2920), a message takes two round trips here, and each further message of a
batch takes one. Results and errors are those of ``sendmail()``.
"""

from __future__ import annotations

import math
import re
import smtplib
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from .connection import Reply, can_pipeline, has_unread_data, open_socket
from .errors import SERVICE_CLOSING, codes_of, mark

clock = time.monotonic

# Bytes of commands that the server has not answered yet. A socket buffers far more. So
# writing never blocks on a server that waits for us to read its replies.
MAX_BYTES_IN_FLIGHT = 8192

# The size of a TLS record. If writing more than that fails, the server may have
# received a part of it.
MAX_RECORD = 16384

# Seconds to wait for each reply to commands written ahead. Some servers swallow them.
AHEAD_TIMEOUT = 5

# How many servers we remember that do not take commands written ahead.
MAX_REMEMBERED = 1000

MEGABYTE = 2**20  # The timeout applies to each megabyte of a body.

DATA = b"DATA\r\n"
END_OF_DATA = b".\r\n"
RECIPIENT_ACCEPTED = (250, 251)
START_MAIL_INPUT = 354
# 503: "bad sequence of commands". 500: "unrecognized", for half of one. 421: the end.
NOT_TAKEN_AHEAD = {503, 500, SERVICE_CLOSING}
NO_CODE = -1  # smtplib's, for a line that is not a reply. Do not trust what follows.


_ATOM = "[A-Za-z0-9_+-]+"
PLAIN_ADDRESS = re.compile(rf"{_ATOM}(\.{_ATOM})*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")


class Envelope(NamedTuple):
    """A message as SMTP carries it: the arguments of ``sendmail()``."""

    sender: str
    recipients: list[str]
    content: bytes


class RecordingConnection:
    """Stands in for an SMTP connection, and keeps what it should send."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    def sendmail(self, *envelope: Any) -> None:
        """Keep the envelope. Its arguments are those of smtplib."""
        self.envelopes.append(Envelope(*envelope))


class Outcome(NamedTuple):
    """What ``sendmail()`` would have returned or raised for an envelope.

    With ``offer_again``, the server has not got the message and the connection is closed.
    The caller must offer the message again over a new one.
    """

    refused: dict[str, Reply]
    error: smtplib.SMTPException | None = None
    offer_again: bool = False


class Envelopes:
    """The envelopes of a batch.

    ``can_look_ahead`` allows making envelopes before their turn.
    """

    def __init__(self, envelopes: Iterator[Envelope], *, can_look_ahead: bool = True) -> None:
        self._coming = envelopes
        self._can_look_ahead = can_look_ahead
        self._ready: deque[Envelope | Exception | None] = deque()

    def current(self) -> Envelope | None:
        """Return the envelope whose turn it is, or raise the error from making it."""
        envelope = self._at(0)
        if isinstance(envelope, Exception):
            raise envelope
        return envelope

    def following(self) -> Envelope | None:
        """Return the next one, or ``None`` if there is none or it cannot be made."""
        envelope = self._at(1) if self._can_look_ahead else None
        return None if isinstance(envelope, Exception) else envelope

    def prepare(self, position: int) -> None:
        """Make the envelopes up to this position, counted from the current one."""
        if self._can_look_ahead:
            self._at(position)

    def release(self) -> None:
        """Drop the content of the current one. It has been sent, and may be large."""
        envelope = self.current()
        self._ready[0] = envelope and envelope._replace(content=b"")

    def advance(self) -> None:
        """Go on to the next envelope."""
        self._ready.popleft()

    def _at(self, position: int) -> Envelope | Exception | None:
        while len(self._ready) <= position:
            try:
                self._ready.append(next(self._coming, None))
            except Exception as error:  # raised when its turn comes
                self._ready.append(error)
        return self._ready[position]


# Servers that do not take commands before they have replied to a body. RFC 2920 allows
# them, but Haraka refuses them on purpose, and chasquid 1.11 swallows them.
_without_writing_ahead: set[str] = set()


def send(
    connection: smtplib.SMTP, envelopes: Envelopes, server: str
) -> Generator[Outcome, None, None]:
    """Send the envelopes to this server. Yield the outcome of each as soon as it is known.

    If the caller stops after an outcome, its envelope is still the current one, and the
    connection is in step or closed.
    """
    if not can_pipeline(connection):
        yield from _through_sendmail(connection, envelopes)
        return
    ahead: _Transaction | None = None
    in_step = True
    try:
        while envelope := envelopes.current():
            in_step = False
            transaction, ahead = ahead, None
            try:
                connection.ehlo_or_helo_if_needed()
                transaction = transaction or _Transaction(connection, envelope)
                outcome = Outcome(transaction.send_envelope())
                if server not in _without_writing_ahead:
                    ahead = _next_transaction(connection, envelopes)
                transaction.send_body(ahead)
                envelopes.release()
                del envelope
                # While the server is busy: making a message takes longer than writing it.
                envelopes.prepare(2 if ahead else 1)
                transaction.read_body_reply()
            except OSError as error:  # the base of all errors of smtplib
                if transaction:
                    transaction.mark(error)
                else:
                    mark(error, body_was_sent=False)
                if not isinstance(error, smtplib.SMTPException):
                    raise  # a signal handler has raised it
                offer_again = transaction is not None and transaction.must_go_alone(error)
                if offer_again or (ahead and ahead.is_lost_by(error)):
                    _remember(server)
                if offer_again:
                    connection.close()
                elif transaction:
                    transaction.resync_or_close(error, ahead)
                outcome = Outcome({}, error, offer_again)
            in_step = not ahead
            yield outcome
            envelopes.advance()
    finally:
        if not in_step:
            connection.close()


def _remember(server: str) -> None:
    if len(_without_writing_ahead) >= MAX_REMEMBERED:  # a stranger's DSN may name any server
        _without_writing_ahead.clear()
    _without_writing_ahead.add(server)


class _Transaction:
    """MAIL, RCPT, DATA and the body of one message, pipelined if the server allows it."""

    def __init__(self, connection: smtplib.SMTP, envelope: Envelope) -> None:
        self.body_was_sent = False  # whether it was, or may have been
        self._refusal: smtplib.SMTPException | None = None  # by the server
        self._is_ahead = False
        self._connection = connection
        self._envelope = envelope
        self._window = MAX_BYTES_IN_FLIGHT if connection.has_extn("pipelining") else 0
        self._to_write = deque(self._commands())
        self._in_flight: deque[bytes] = deque()
        self._bytes_in_flight = 0
        self._has_recipients = False
        self._must_close = False

    def send_envelope(self) -> dict[str, Reply]:
        """Send MAIL, RCPT and DATA.

        Return the refused recipients, or raise ``SMTPException`` as ``sendmail()`` does.
        """
        if not self._is_ahead:
            return self._read_replies()
        sock = open_socket(self._connection)
        timeout = sock.gettimeout()
        sock.settimeout(min(timeout or AHEAD_TIMEOUT, AHEAD_TIMEOUT))
        try:
            return self._read_replies()
        finally:
            with suppress(OSError):  # it may be closed
                sock.settimeout(timeout)

    def _read_replies(self) -> dict[str, Reply]:
        code, text = self._reply()
        if code != 250:
            self._refuse(smtplib.SMTPSenderRefused(code, text, self._envelope.sender))
        refused: dict[str, Reply] = {}
        for recipient in self._envelope.recipients:
            code, text = self._reply()
            if code not in RECIPIENT_ACCEPTED:
                refused[recipient] = (code, text)
            if code == SERVICE_CLOSING:
                self._refuse(smtplib.SMTPRecipientsRefused(refused))
        # smtplib compares the numbers, which differ if a recipient is listed twice.
        if refused.keys() >= set(self._envelope.recipients):
            self._refuse(smtplib.SMTPRecipientsRefused(refused))
        code, text = self._reply()
        if code != START_MAIL_INPUT:
            self._refuse(smtplib.SMTPDataError(code, text))
        return refused

    def send_body(self, ahead: _Transaction | None) -> None:
        """Write the body, and after it the commands of the next transaction.

        RFC 2920, 3.1 allows the content of a message to be the first "command" of a
        group. The commands go into a separate write, and so a separate TLS record,
        because a server may stop reading at the end of the body.
        """
        self._refuse_unread_data()
        stuffed = _stuffed(self._envelope.content)
        self._envelope = self._envelope._replace(content=b"")
        end = END_OF_DATA if stuffed.endswith(b"\r\n") else b"\r\n" + END_OF_DATA
        records = _records(stuffed + end)
        # A server that takes the body bit by bit must not hold up the sender forever.
        sock = open_socket(self._connection)
        timeout = sock.gettimeout()
        deadline = clock() + (timeout or math.inf) * (1 + len(stuffed) // MEGABYTE)
        for record in records[:-1]:
            if clock() > deadline:
                raise smtplib.SMTPServerDisconnected("timed out while writing the body")
            _write(self._connection, record)
        # Whatever goes wrong from here on, the server may have got the whole message.
        self.body_was_sent = True
        _write(self._connection, records[-1])
        if ahead:
            ahead._is_ahead = True
            with suppress(OSError):  # reading the replies will fail, too
                _send_all(self._connection, ahead._next_commands())

    def read_body_reply(self) -> None:
        """Wait for the reply to the body. Raises ``SMTPDataError`` if it is refused."""
        code, text = self._connection.getreply()
        self._must_close = code in (SERVICE_CLOSING, NO_CODE)
        if code != 250:
            self._refuse(smtplib.SMTPDataError(code, text))

    def mark(self, error: OSError) -> None:
        """Note on an error what is known about the body."""
        is_answer = error is self._refusal
        mark(error, body_was_sent=self.body_was_sent, is_answer=is_answer)

    def must_go_alone(self, error: smtplib.SMTPException) -> bool:
        """Whether writing ahead is to blame for this error, and the message is not sent."""
        is_refused = not codes_of(error).isdisjoint(NOT_TAKEN_AHEAD)
        is_to_blame = self.is_lost_by(error) or (self._is_ahead and is_refused)
        return is_to_blame and not self.body_was_sent

    def is_lost_by(self, error: smtplib.SMTPException) -> bool:
        """Whether it was written ahead, and this error is the loss of the connection."""
        return self._is_ahead and isinstance(error, smtplib.SMTPServerDisconnected)

    def resync_or_close(self, error: Exception, ahead: _Transaction | None) -> None:
        """Get the connection in step again after a refusal. Close it after another error.

        With a transaction ahead, RSET is not needed: a body's end resets the server.
        """
        if error is not self._refusal:
            self._connection.close()
            return
        self._to_write.clear()
        try:
            while self._in_flight and not self._must_close:
                command = self._in_flight[0]
                code, _ = self._reply()
                if command == DATA and code == START_MAIL_INPUT:
                    self._end_empty_message()
            if self._must_close or (not ahead and self._connection.rset()[0] != 250):
                self._connection.close()
        except smtplib.SMTPException:
            self._connection.close()

    def _refuse_unread_data(self) -> None:
        """Raise ``SMTPServerDisconnected`` rather than take a stray line for a reply."""
        try:
            if not has_unread_data(self._connection):
                return
            problem = "the server has sent more than the replies"
        except OSError as error:
            problem = f"Connection lost: {error}"
        raise smtplib.SMTPServerDisconnected(problem)

    def _refuse(self, error: smtplib.SMTPException) -> NoReturn:
        """Raise this error, which is the server's answer.

        It is remembered, because a signal handler may raise an error of the same class.
        """
        self._refusal = error
        raise error

    def _reply(self) -> Reply:
        # Writes when half of the window is free. A small write after each reply would
        # cost a round trip each time.
        if self._bytes_in_flight * 2 <= self._window:
            _write(self._connection, self._next_commands())
        code, text = self._connection.getreply()
        command = self._in_flight.popleft()
        self._bytes_in_flight -= len(command)
        # A recipient who was not clearly refused may get the message.
        self._has_recipients |= command.startswith(b"RCPT") and not 400 <= code <= 599
        is_closing = code == SERVICE_CLOSING and command != DATA  # as in smtplib
        self._must_close = is_closing or code == NO_CODE
        return code, text

    def _next_commands(self) -> bytes:
        """Return what may be written now, and count it as in flight."""
        commands = []
        while self._to_write:
            size = len(self._to_write[0])
            if self._in_flight and self._bytes_in_flight + size > self._window:
                break
            commands.append(self._to_write.popleft())
            self._in_flight.append(commands[-1])
            self._bytes_in_flight += size
        return b"".join(commands)

    def _end_empty_message(self) -> None:
        # RFC 2920, 3.1: a server may ask for the message after it refused everybody.
        if self._has_recipients:
            raise smtplib.SMTPServerDisconnected("somebody would get an empty message")
        _write(self._connection, END_OF_DATA)
        self._connection.getreply()

    def _commands(self) -> Iterator[bytes]:
        sender, recipients, content = self._envelope
        size = f" size={len(content)}" if self._connection.has_extn("size") else ""
        yield self._command(f"MAIL FROM:{_quoted(sender)}{size}")
        for recipient in recipients:
            yield self._command(f"RCPT TO:{_quoted(recipient)}")
        yield DATA

    def _command(self, command: str) -> bytes:
        if "\r" in command or "\n" in command:
            raise ValueError("an address has a line break")
        return f"{command}\r\n".encode(self._connection.command_encoding)


def _next_transaction(connection: smtplib.SMTP, envelopes: Envelopes) -> _Transaction | None:
    if not connection.has_extn("pipelining"):
        return None
    following = envelopes.following()
    try:
        return _Transaction(connection, following) if following else None
    except ValueError:
        return None  # raised when its turn comes


def _through_sendmail(connection: smtplib.SMTP, envelopes: Envelopes) -> Iterator[Outcome]:
    while envelope := envelopes.current():
        try:
            outcome = Outcome(connection.sendmail(*envelope))
        except smtplib.SMTPException as error:
            mark(error, body_was_sent=True)  # nobody knows how far it got
            outcome = Outcome({}, error)
        yield outcome
        envelopes.advance()


def _quoted(address: str) -> str:
    """Return the address in angle brackets, as ``smtplib.quoteaddr`` does.

    That function parses a header. Recognizing a plain address is ten times as fast.
    """
    return f"<{address}>" if PLAIN_ADDRESS.fullmatch(address) else smtplib.quoteaddr(address)


def _stuffed(content: bytes) -> bytes:
    """Return the content with each period at the start of a line doubled.

    RFC 5321, 4.5.2 requires it. smtplib's regular expression takes five times as long.
    """
    stuffed = content.replace(b"\n.", b"\n..")
    return b"." + stuffed if stuffed.startswith(b".") else stuffed


def _records(data: bytes) -> list[memoryview]:
    view = memoryview(data)
    return [view[start : start + MAX_RECORD] for start in range(0, len(view), MAX_RECORD)]


def _write(connection: smtplib.SMTP, data: bytes | memoryview) -> None:
    """Write all of this, or close the connection and raise ``SMTPServerDisconnected``."""
    try:
        _send_all(connection, data)
    except OSError as error:
        connection.close()
        raise smtplib.SMTPServerDisconnected(f"Connection lost: {error}") from error


def _send_all(connection: smtplib.SMTP, data: bytes | memoryview) -> None:
    # Not sendall(): its timeout limits the whole, and not each step.
    unsent = memoryview(data)
    while unsent:
        unsent = unsent[open_socket(connection).send(unsent) :]
