"""A fast SMTP server that swallows every message, and a relay that makes it far away.

``python -m tools.benchmarks.sink CERTIFICATE MILLISECONDS...`` prints the port of the server
and that of a relay for each round trip time, and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import sys
from functools import partial
from typing import Any

USER, PASSWORD = "bench", "s3cret"
LOGIN = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode())
EHLO = b"250-sink\r\n250-PIPELINING\r\n250-SIZE 50000000\r\n250-8BITMIME\r\n"
END_OF_DATA = b"\r\n.\r\n"


class Sink(asyncio.Protocol):
    """One connection."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.received = bytearray()
        self.in_body = False
        self.transport: Any = None
        self.is_encrypted = False
        self.is_starting_tls = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.write(b"220 sink ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        """Answer all that is complete in one write."""
        self.received += data
        if self.is_starting_tls:
            return
        replies = bytearray()
        while (reply := self.next_reply()) is not None:
            replies += reply
        self.transport.write(replies)

    def next_reply(self) -> bytes | None:
        """Return the reply to the next command, ``None`` if it is not complete."""
        end = END_OF_DATA if self.in_body else b"\r\n"
        at = self.received.find(end)
        if at < 0:
            return None
        line = bytes(self.received[:at])
        del self.received[: at + len(end)]
        if self.in_body:
            self.in_body = False
            return b"250 queued\r\n"
        return self.command(line)

    def command(self, line: bytes) -> bytes:
        verb = line[:4].upper()
        if verb == b"EHLO":
            more = b"250 AUTH PLAIN\r\n" if self.is_encrypted else b"250 STARTTLS\r\n"
            return EHLO + more
        if verb == b"STAR":
            self.transport.write(b"220 go\r\n")
            self.is_encrypted = self.is_starting_tls = True
            self.tls = asyncio.ensure_future(self.start_tls())
            return b""
        if verb == b"AUTH":
            return b"235 ok\r\n" if line.endswith(LOGIN) else b"535 no\r\n"
        if verb == b"DATA":
            self.in_body = True
            return b"354 go\r\n"
        if verb == b"QUIT":
            self.transport.write(b"221 bye\r\n")
            self.transport.close()
            return b""
        return b"250 ok\r\n"

    async def start_tls(self) -> None:
        loop = asyncio.get_running_loop()
        self.transport = await loop.start_tls(
            self.transport, self, self.context, server_side=True
        )
        self.is_starting_tls = False
        self.data_received(b"")  # what came meanwhile


class Relay(asyncio.Protocol):
    """One end of a connection that hands on what it gets after half a round trip."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.transport: Any = None
        self.other: Any = None  # the other end, once it is there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand it on, later. A client says nothing before the server has greeted."""
        asyncio.get_running_loop().call_later(self.delay, self.other.transport.write, data)

    def connection_lost(self, error: Exception | None) -> None:
        asyncio.get_running_loop().call_later(self.delay, self.other.transport.close)

    async def connect(self, port: int) -> None:
        """Connect to the sink: the client's SYN, SYN-ACK and ACK take 1.5 round trips."""
        await asyncio.sleep(3 * self.delay)
        other = Relay(self.delay)
        other.other = self
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: other, "127.0.0.1", port)
        self.other = other


async def serve(certificate: str, distances: list[float]) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server = await loop.create_server(lambda: Sink(context), "127.0.0.1", 0)
    ports = [server.sockets[0].getsockname()[1]]
    tasks = set()

    def accept(milliseconds: float) -> Relay:
        relay = Relay(milliseconds / 2000)
        tasks.add(task := loop.create_task(relay.connect(ports[0])))
        task.add_done_callback(tasks.discard)
        return relay

    for milliseconds in distances:
        relays = await loop.create_server(partial(accept, milliseconds), "127.0.0.1", 0)
        ports.append(relays.sockets[0].getsockname()[1])
    sys.stdout.write(" ".join(map(str, ports)) + "\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], [float(one) for one in sys.argv[2:]]))
