"""How often clients wait for a server."""

import socket
import ssl
from contextlib import ExitStack
from threading import get_ident
from typing import Any
from unittest import mock

METHODS: dict[type[socket.socket], tuple[str, ...]] = {
    socket.socket: ("connect", "send", "sendall", "recv_into"),
    ssl.SSLSocket: ("do_handshake", "send", "recv_into"),  # its sendall() calls send()
}


class RoundTrips(ExitStack):
    """Counts how often this thread sends something and then waits, inside ``with``.

    A server cannot: what reaches it in two pieces may have been written without a pause.
    With ``all_threads``, no server may run in this process.
    """

    def __init__(self, *, all_threads: bool = False) -> None:
        super().__init__()
        self.count = 0
        self._sending: set[int] = set()
        self._only = None if all_threads else get_ident()

    def __enter__(self) -> Any:
        for kind, names in METHODS.items():
            for name in names:
                counted = self._counted(name, getattr(kind, name))
                self.enter_context(mock.patch.object(kind, name, counted))
        return self

    def _counted(self, name, method):
        def counted(sock, *args):
            if sock.gettimeout() != 0:  # 0: a look, no wait
                self._note(name, get_ident())
            return method(sock, *args)

        return counted

    def _note(self, name: str, thread: int) -> None:
        if self._only not in {None, thread}:
            return
        if name == "recv_into":
            self.count += thread in self._sending
            self._sending.discard(thread)
        else:
            self.count += name in {"connect", "do_handshake"}
            self._sending.add(thread)
