"""SMTP servers with the manners of real ones: what they make of commands in a group."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections import Counter
from typing import Any

from roundtrips import Watch
from scripted import BODY, CLOSE, RESET, TAKEN, Dialogue, ScriptedServer, shut

WAIT = 20  # seconds that nobody should need

KNOWN = {"EHLO", "HELO", "STARTTLS", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT"}


class Clients(Watch):
    """What the clients of this process have written when they wait for a reply.

    So a server can take what is written behind a body without a guess whether more comes. It
    works while its ``with`` block runs, and knows a client by its port.
    """

    def __init__(self) -> None:
        self._written = Counter[int]()
        self._waits: dict[int, int] = {}
        self._change = threading.Condition()

    def written(self, port: int, at_least: int) -> int:
        """Wait until the client waits for a reply, and has written so many bytes or more.

        Return how many they are.
        """
        with self._change:
            assert self._change.wait_for(lambda: self._waits.get(port, 0) >= at_least, WAIT)
            return self._waits[port]

    def connected(self, port: int) -> None:
        """Start to count: another client may have had the same port."""
        with self._change:
            self._written.pop(port, None)
            self._waits.pop(port, None)

    def before(self, sock: socket.socket, name: str) -> None:
        if name == "recv_into":
            with self._change:
                port = sock.getsockname()[1]
                self._waits[port] = self._written[port]
                self._change.notify_all()

    def after(self, sock: socket.socket, name: str, result: Any, *args: Any) -> None:
        if name.startswith("send"):
            with self._change:
                self._written[sock.getsockname()[1]] += result or len(args[0])


class Session(Dialogue):
    """One connection of a server with manners. Each may do something else at some steps."""

    server: Server
    messages = 0  # in this session
    size = 0  # of all that was received

    def __init__(self, server: Server, client: socket.socket) -> None:
        super().__init__(server, client)
        self.peer = client.getpeername()[1]
        self.is_first = server.connections == 1

    def run(self) -> None:
        super().run()
        self.client.close()  # the one with TLS

    def fill(self) -> bool:
        before = len(self.received)
        goes_on = super().fill()
        self.size += len(self.received) - before
        return goes_on

    def step(self, step: str, argument: str) -> bool:
        if step not in KNOWN:
            return self.answer(step, argument, "500 what?")
        if step != "STARTTLS":
            return super().step(step, argument)
        goes_on = self.answer(step, argument, "220 go ahead")
        self.flush()
        assert self.server.tls is not None
        self.client = self.server.tls.wrap_socket(self.client, server_side=True)
        self.server.secured.append(self.client)
        return goes_on

    def answer(self, step: str, argument: str, right: str) -> bool:
        if step == BODY:
            return self.end_of_body(right)
        if right[:1] == "2":
            right = self.reply(step, argument) or right
        return super().answer(step, argument, right)

    def read_all(self) -> bytes:
        """Read all that the client has written, and return what follows this command."""
        end = self.size - len(self.received)
        self.flush()
        written = self.server.clients.written(self.peer, at_least=end)
        while self.size < written:
            assert self.fill()
        return self.received

    def end_of_body(self, right: str) -> bool:
        if self.read_all():
            self.server.groups.append(self.received)
        self.messages += 1
        return self.body_with(right) if self.received else super().answer(BODY, "", right)

    def body_with(self, right: str) -> bool:
        return super().answer(BODY, "", right)

    def reply(self, step: str, argument: str) -> str | None:
        return None


class Server(ScriptedServer):
    """Treats each connection as this kind of session does.

    ``groups`` are what was written ahead, each time. ``refused`` are what followed a command
    that had to be alone.
    """

    def __init__(self, clients, kind=Session, *, tls=None, **options):
        super().__init__(**options)
        self.clients = clients
        self.kind = kind
        self.tls = tls
        self.groups: list[bytes] = []
        self.refused: list[bytes] = []
        self.secured: list[socket.socket] = []
        if tls:
            self.extensions.append("STARTTLS")

    def dialogue(self, client):
        self.clients.connected(client.getpeername()[1])
        return self.kind(self, client)

    def disconnect(self) -> None:
        super().disconnect()
        for client in self.secured:
            shut(client)


REFUSAL = b"503 pipelined after end of DATA\r\n"


class Swallows(Session):
    """Says nothing to what was written ahead, as chasquid 1.11 does."""

    def body_with(self, right: str) -> bool:
        ahead, self.received = self.received, b""
        goes_on = super().body_with(right)
        self.replies.extend(self.refusals(ahead))
        return goes_on

    def refusals(self, ahead: bytes) -> list[bytes]:
        return []


class Refuses(Swallows):
    """Answers 503 to each command that was written ahead, as Haraka does."""

    def refusals(self, ahead: bytes) -> list[bytes]:
        return [REFUSAL] * ahead.count(b"\r\n")


class RefusesOnce(Swallows):
    """Answers 503 to all of it together, and drops the rest."""

    def refusals(self, ahead: bytes) -> list[bytes]:
        return [REFUSAL]


class SwallowsInTheClear(Session):
    """The same, but not with TLS, where each write is a record."""

    def body_with(self, right: str) -> bool:
        if not isinstance(self.client, ssl.SSLSocket):
            self.received = b""
        return super().body_with(right)


class DropsBefore(Session):
    """Ends the connection at it, and nobody knows who has the message: it has."""

    end = TAKEN

    def body_with(self, right: str) -> bool:
        self.last = self.end
        return False


class DropsUntaken(DropsBefore):
    """The same, but it has not."""

    end = CLOSE


class DropsAfter(Session):
    """Ends the connection at it, when it has answered to the body."""

    def body_with(self, right: str) -> bool:
        super().body_with(right)
        self.flush()
        return False


class Alone(Session):
    """Offers PIPELINING, and takes the first command of a group. VPOP3 drops the rest.

    Others do something else.
    """

    def step(self, step: str, argument: str) -> bool:
        if step in {"MAIL", "RCPT", "DATA"} and self.read_all():
            group, self.received = self.received, b""
            self.server.refused.append(group)
            return self.group(step, argument, group.count(b"\r\n"))
        return super().step(step, argument)

    def group(self, step: str, argument: str, others: int) -> bool:
        return super().step(step, argument)


class Proxy(Alone):
    """Answers to all of it once: the server behind it cannot do what it offers."""

    refusal = "500 5.5.1 Invalid command: Pipelining not supported"
    goes_on = True

    def group(self, step: str, argument: str, others: int) -> bool:
        goes_on = self.answer(step, argument, self.refusal) and self.goes_on
        self.flush()
        return goes_on


class SyntaxProxy(Proxy):
    """Takes it for one command with bad arguments."""

    refusal = "501 5.5.4 Syntax error in parameters"


class AddressProxy(Proxy):
    """Takes it for one command with a bad address."""

    refusal = "553 malformed address"


class OptionProxy(Proxy):
    """Takes it for one command with options that nobody knows."""

    refusal = "555 unsupported parameter"


class PoliteProxy(Proxy):
    """Says something that has nothing to do with it."""

    refusal = "451 4.3.0 try again later"


class RudeProxy(Proxy):
    """The same for good, and ends the connection."""

    refusal = "550 5.7.1 refused"
    goes_on = False


class Synchronizes(Proxy):
    """Ends the connection, as Exim does for whom it does not let pipeline."""

    refusal = "554 SMTP synchronization error"
    goes_on = False


class SaysGoodbye(Proxy):
    """The same with a goodbye."""

    refusal = "421 4.7.0 bye"
    goes_on = False


class Closes(Proxy):
    """Ends the connection without a word."""

    refusal = CLOSE


class Resets(Proxy):
    """Breaks it."""

    refusal = RESET


class RefusesTheRest(Alone):
    """Takes the first command, and refuses each of the others."""

    refusal = b"503 5.5.1 bad sequence of commands\r\n"

    def group(self, step: str, argument: str, others: int) -> bool:
        goes_on = super().group(step, argument, others)
        self.replies.extend([self.refusal] * others)
        return goes_on


class HasNoRest(RefusesTheRest):
    """The same with another code."""

    refusal = b"502 not implemented\r\n"


class LosesTheRefusal(Session):
    """Refuses one recipient, and leaves: the reset destroys the reply, if DATA is unread."""

    def step(self, step: str, argument: str) -> bool:
        if step == "RCPT" and "<2@" in argument:
            self.answer(step, argument, RESET if self.read_all() else "550 5.1.1 no user")
            self.flush()
            return False
        return super().step(step, argument)


class Tires(Session):
    """Answers 452 to MAIL after two messages of a session, and stays: OpenSMTPD after 100."""

    def reply(self, step: str, argument: str) -> str | None:
        return "452 too many messages" if step == "MAIL" and self.messages >= 2 else None


class Defers(Session):
    """Answers 450 to every RCPT in the first session, as postscreen does with its tests."""

    def reply(self, step: str, argument: str) -> str | None:
        return "450 try again" if step == "RCPT" and self.is_first else None


class Breaks(Session):
    """Ends the connection at a byte of what was written ahead."""

    at = 0

    def body_with(self, right: str) -> bool:
        self.received = self.received[: self.at]
        super().body_with(right)
        for command in re.findall(rb"(.*)\r\n", self.received):
            self.replies.append(b"354 go ahead\r\n" if command == b"DATA" else b"250 fine\r\n")
        self.flush()
        return False


class SwallowsSome(Breaks):
    """Says nothing to the first bytes of it, and takes the rest for commands."""

    def body_with(self, right: str) -> bool:
        self.received = self.received[self.at :]
        return Session.body_with(self, right)
