"""A fast SMTP server that swallows every message, and a relay that makes it far away.

``python -m tools.benchmarks.sink CERTIFICATE MILLISECONDS...`` prints the port of the server
and that of a relay for each round trip time, and serves until its standard input ends.
"""

import asyncio
import base64
import socket
import socketserver
import ssl
import sys
import threading
from contextlib import suppress
from functools import partial

USER, PASSWORD = "bench", "s3cret"
LOGIN = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode())
EXTENSIONS = ("PIPELINING", "SIZE 50000000", "8BITMIME", "STARTTLS", "AUTH PLAIN")
REPLIES = {
    "EHLO": "\r\n".join(["250-sink", *map("250-{}".format, EXTENSIONS), "250 HELP"]),
    "STARTTLS": "220 go",
    "AUTH": "235 ok",
    "DATA": "354 go",
    "QUIT": "221 bye",
}


class Sink(socketserver.BaseRequestHandler):
    """One connection."""

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    def handle(self):
        """Answer all that is complete in one write."""
        client = self.request
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        client.sendall(b"220 sink ESMTP\r\n")
        rest, verb = b"", ""
        while verb != "QUIT" and (more := client.recv(65536)):
            *lines, rest = (rest + more).split(b"\r\n")
            replies = []
            for line in lines:
                if verb != "DATA":
                    verb = line.decode().partition(" ")[0].upper()
                    assert verb != "AUTH" or line.endswith(LOGIN)
                    replies.append(REPLIES.get(verb, "250 ok"))
                elif line == b".":
                    verb = ""
                    replies.append("250 queued")
            client.sendall("".join(f"{reply}\r\n" for reply in replies).encode())
            if verb == "STARTTLS":
                client = self.context.wrap_socket(client, server_side=True)
        client.close()


async def relay(port, delay, reader, writer):
    """Hand on what either end says after half a round trip."""
    await asyncio.sleep(3 * delay)  # the client's SYN, SYN-ACK and ACK
    source, target = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(hand_on(reader, target, delay), hand_on(source, writer, delay))


async def hand_on(reader, writer, delay):
    later = partial(asyncio.get_running_loop().call_later, delay)
    with suppress(ConnectionResetError):
        while data := await reader.read(65536):
            later(writer.write, data)
    later(writer.close)


async def serve(certificate, distances):
    """Serve until standard input ends."""
    Sink.context.load_cert_chain(certificate)
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Sink)
    server.daemon_threads = True  # a client may keep its connection for longer than that
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ports = [server.server_address[1]]
    for milliseconds in distances:
        far = partial(relay, ports[0], float(milliseconds) / 2000)
        relays = await asyncio.start_server(far, "127.0.0.1", 0)
        ports.append(relays.sockets[0].getsockname()[1])
    print(*ports, flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2:]))
