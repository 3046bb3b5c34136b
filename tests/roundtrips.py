"""How often a client waits for a server, counted at the client."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from threading import get_ident
from typing import Any
from unittest import mock

METHODS: dict[type[socket.socket], tuple[str, ...]] = {
    socket.socket: ("connect", "send", "sendall", "recv_into"),
    ssl.SSLSocket: ("do_handshake", "send", "recv_into"),
}


class RoundTrips:
    """Counts how often this thread sends something and then waits, inside ``with``.

    A server cannot: what reaches it in two pieces may have been written without a pause.
    """

    def __init__(self) -> None:
        self.count = 0
        self._has_sent = False

    def __enter__(self) -> RoundTrips:
        self._thread = get_ident()
        with ExitStack() as stack:
            for kind, names in METHODS.items():
                for name in names:
                    counted = self._counted(name, getattr(kind, name))
                    stack.enter_context(mock.patch.object(kind, name, counted))
            self._patches = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._patches.close()

    def _counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(sock: socket.socket, *args: Any) -> Any:
            if get_ident() == self._thread and sock.gettimeout() != 0:  # 0: a look, no wait
                is_reading = name == "recv_into"
                self.count += (
                    self._has_sent if is_reading else name in {"connect", "do_handshake"}
                )
                self._has_sent = not is_reading
            return method(sock, *args)

        return counted
