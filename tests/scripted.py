"""An SMTP server on loopback that misbehaves on cue."""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

CLOSE = "close"  # end the connection, as a server does that has had enough
RESET = "reset"  # break it, as a crash does
HANG = "hang"  # say nothing more, and do not go away either
TAKEN = "taken"  # at BODY: take the message, and break the connection without a word
AND_CLOSE = " (and then it closes)"  # at the end of a reply
BODY = "BODY"  # the step after the final dot

# What to do at a step with this argument: a reply, one of the above, or None for what is
# right. A script gets the name of the step ("MAIL", "RCPT", BODY, ...) and the argument.
Script = Callable[[str, str], str | None]

FINE = dict.fromkeys(("HELO", "LHLO", "MAIL", "RCPT", "RSET", "NOOP"), "250 fine")
RIGHT = {**FINE, "AUTH": "235 welcome", "DATA": "354 go ahead", "QUIT": "221 bye"}
EXTENSIONS = ("PIPELINING", "SIZE 10000000", "8BITMIME", "AUTH PLAIN XOAUTH2")


class Accepted(NamedTuple):
    """A message for which the server has taken responsibility."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


class ScriptedServer:
    """Answers while its ``with`` block runs, on a port of its own choice if that is 0.

    With a TLS context, it speaks TLS from the first byte.
    """

    def __init__(self, script=None, *, extensions=EXTENSIONS, port=0, context=None):
        self.script = script or (lambda step, argument: None)
        self.extensions = list(extensions)
        self.context = context
        self.accepted: list[Accepted] = []
        self.commands: list[str] = []
        self.connections = 0
        self.arrival = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._clients: list[socket.socket] = []
        self._listening = threading.Thread(target=self._listen)
        self._serving: list[threading.Thread] = []

    def __enter__(self) -> ScriptedServer:
        self._listening.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        shut(self._listener)
        self._listening.join()
        self.disconnect()
        self.wait_for_clients_to_go()

    def wait_for(self, messages: int, timeout: float = 60) -> bool:  # pragma: no cover (slow)
        """Wait until it has accepted so many messages. Return whether it has."""
        with self.arrival:
            return self.arrival.wait_for(lambda: len(self.accepted) >= messages, timeout)

    def disconnect(self) -> None:
        for client in self._clients:
            shut(client)

    def wait_for_clients_to_go(self) -> None:
        """Wait until the connections have ended, and ``commands`` has all that they said."""
        for thread in self._serving:
            thread.join(timeout=60)

    def say(self, line: bytes) -> None:
        for client in self._clients:
            client.sendall(line)

    def _listen(self) -> None:
        with self._listener:
            while True:
                try:
                    client, _ = self._listener.accept()
                except OSError:
                    return
                self.connections += 1
                self._clients.append(client)
                self._serving.append(threading.Thread(target=self._serve, args=[client]))
                self._serving[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):  # it may go at any time
            if self.context:
                client = self.context.wrap_socket(client, server_side=True)
                self._clients.append(client)
            with client:
                self.dialogue(client).run()

    def dialogue(self, client: socket.socket) -> Dialogue:
        return Dialogue(self, client)


class Dialogue:
    """One connection of a scripted server."""

    def __init__(self, server: ScriptedServer, client: socket.socket) -> None:
        self.server = server
        self.client = client
        self.received = b""
        self.replies: deque[bytes] = deque()
        self.sender = ""
        self.recipients: list[str] = []

    def run(self) -> None:
        if not self.answer("banner", "", "220 scripted"):
            return
        while (line := self.read_until(b"\r\n")) is not None:
            command = line.decode("latin-1")
            self.server.commands.append(command)
            step, _, argument = command.partition(" ")
            if not self.step(step.upper(), argument):
                return

    def step(self, step: str, argument: str) -> bool:
        right = RIGHT.get(step, "500 what?")
        if step == "EHLO":
            extensions = ["250-scripted", *map("250-{}".format, self.server.extensions)]
            right = "\r\n".join([*extensions, "250 HELP"])
        elif (step == "RCPT" and not self.sender) or (step == "DATA" and not self.recipients):
            right = "503 not yet"
        if not self.answer(step, argument, right):
            return False
        if step == "DATA" and self.last.startswith("354"):
            return self.body()
        if step == "MAIL" and self.last.startswith("25"):
            self.sender, self.recipients = address(argument), []
        elif step == "RCPT" and self.last.startswith("25"):
            self.recipients.append(address(argument))
        elif step == "RSET":
            self.sender, self.recipients = "", []
        return step != "QUIT"

    def body(self) -> bool:
        if (fault := self.server.script("CONTENT", "")) is not None:
            if fault.endswith(AND_CLOSE):  # in the middle of it
                self.fill()
            return self.answer("CONTENT", "", fault)
        self.received = b"\r\n" + self.received  # an empty body ends, too
        content = self.read_until(b"\r\n.\r\n")
        if content is None:
            return False
        goes_on = self.answer(BODY, "", "250 accepted")
        if self.last.startswith("250") or self.last == TAKEN:
            with self.server.arrival:
                message = Accepted(self.sender, tuple(self.recipients), content[2:])
                self.server.accepted.append(message)
                self.server.arrival.notify_all()
        self.sender, self.recipients = "", []
        return goes_on

    def answer(self, step: str, argument: str, right: str) -> bool:
        self.last = self.server.script(step, argument) or right
        if self.last in (HANG, RESET, CLOSE, TAKEN):
            self.flush()
            if self.last == HANG:
                self.client.makefile("rb").read()  # until the client has had enough
            elif self.last == RESET:  # RST instead of FIN
                at_once = struct.pack("ii", 1, 0)
                self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            return False
        self.replies.append(self.last.encode("latin-1") + b"\r\n")
        is_last = self.last.endswith(AND_CLOSE)
        if step == "QUIT" or is_last:
            self.flush()
        return not is_last

    def read_until(self, end: bytes) -> bytes | None:
        searched = 0
        while (at := self.received.find(end, searched)) < 0:
            searched = max(len(self.received) - len(end), 0)
            if not self.fill():
                return None
        found, self.received = self.received[:at], self.received[at + len(end) :]
        return found

    def fill(self) -> bool:
        self.flush()
        more = self.client.recv(65536)
        self.received += more
        return bool(more)

    def flush(self) -> None:
        if self.replies:
            self.client.sendall(b"".join(self.replies))
            self.replies.clear()


def address(argument: str) -> str:
    return argument.partition("<")[2].partition(">")[0]


def shut(one: socket.socket) -> None:
    """Shut a socket down, if it is open. Whoever waits in its accept() or recv() wakes up."""
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


def at(step: str, *replies: str | None) -> Script:
    coming = deque(replies)
    return lambda name, argument: coming.popleft() if name == step and coming else None


def always(step: str, reply: str) -> Script:
    return lambda name, argument: reply if name == step else None


def to(recipient: str, reply: str) -> Script:
    return lambda step, argument: reply if step == "RCPT" and recipient in argument else None


def any_of(*scripts: Script) -> Script:
    return lambda step, argument: next(
        (reply for script in scripts if (reply := script(step, argument))), None
    )
