"""What clients do with their sockets: how often they wait for a server, for example."""

import socket
import ssl
from collections import Counter
from contextlib import ExitStack
from threading import Condition, get_ident
from typing import Any
from unittest import mock

METHODS: dict[type[socket.socket], tuple[str, ...]] = {
    socket.socket: ("connect", "send", "sendall", "recv_into"),
    ssl.SSLSocket: ("do_handshake", "send", "recv_into"),  # its sendall() calls send()
}


class Watch(ExitStack):
    """Is told what this process does with its sockets while its ``with`` block runs."""

    def __enter__(self) -> Any:
        for kind, names in METHODS.items():
            for name in names:
                told = self._wrap(name, getattr(kind, name))
                self.enter_context(mock.patch.object(kind, name, told))
        return self

    def _wrap(self, name, method):
        def told(sock, *args):
            if sock.gettimeout() != 0:  # 0: a look, no wait
                self.before(sock, name)
            result = method(sock, *args)
            self.after(sock, name, result, *args)
            return result

        return told

    def before(self, sock: socket.socket, name: str) -> None: ...

    def after(self, sock: socket.socket, name: str, result: Any, *args: Any) -> None: ...


class RoundTrips(Watch):
    """Counts how often this thread sends something and then waits, inside ``with``.

    A server cannot: what reaches it in two pieces may have been written without a pause.
    With ``all_threads``, no server may run in this process.
    """

    def __init__(self, *, all_threads: bool = False) -> None:
        super().__init__()
        self.count = 0
        self._sending: set[int] = set()
        self._only = None if all_threads else get_ident()

    def before(self, sock: socket.socket, name: str) -> None:
        thread = get_ident()
        if self._only not in {None, thread}:
            return
        if name == "recv_into":
            self.count += thread in self._sending
            self._sending.discard(thread)
        else:
            self.count += name in {"connect", "do_handshake"}
            self._sending.add(thread)


class Clients(Watch):
    """Knows, inside ``with``, what the clients of this process have written, by their ports.

    So a server can tell whether a client waits for a reply, or writes more before it does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written = Counter[int]()
        self._waits: dict[int, int] = {}
        self._change = Condition()

    def written(self, port: int, at_least: int) -> int:
        """Return how many bytes a client has written when it waits, or so many or more."""
        with self._change:
            assert self._change.wait_for(lambda: self._waits.get(port, 0) >= at_least, 20)
            return self._waits[port]

    def forget(self, port: int) -> None:
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
