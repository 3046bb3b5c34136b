"""One connection: no reply is waited for too long, and nothing waits without need."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import ServerFactory, ServeScript
from django.core.mail import EmailMessage
from scripted import HANG, at

from email_hosts.smtp import connection
from email_hosts.backends import EmailHostsBackend
from email_hosts.smtp.connection import MAX_REPLY, SMTP, has_unread_data, is_idle

TIMEOUT = 5


class TestReply:
    """``timeout`` is for the whole of it, and not for each of its pieces."""

    client: Any

    @pytest.fixture
    def server(self) -> Iterator[socket.socket]:
        """The server's end of the connection."""
        client, server = socket.socketpair()
        client.settimeout(TIMEOUT)
        self.client = SMTP()
        self.client.sock = client
        with server, self.client:
            yield server
            self.client.close()

    def test_in_pieces_is_put_together(
        self, server: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pieces = iter([b"250-one\r\n", b"250-two\r\n", b"250 three\r\n"])

        def clock() -> float:  # asked before each read
            server.sendall(next(pieces))
            return 0

        monkeypatch.setattr(connection, "clock", clock)
        assert self.client.getreply() == (250, b"one\ntwo\nthree")
        assert self.client.sock.gettimeout() == TIMEOUT

    def test_is_not_waited_for_beyond_the_timeout(
        self, server: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = iter(range(1000))

        def clock() -> float:  # a second for each line
            server.sendall(b"250-more\r\n")
            return next(now)

        monkeypatch.setattr(connection, "clock", clock)
        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
            self.client.getreply()
        assert next(now) == TIMEOUT + 1
        assert self.client.sock is None

    def test_without_end_ends(self, server: socket.socket) -> None:
        def flood() -> None:
            with suppress(OSError):
                server.sendall(b"250-more\r\n" * MAX_REPLY)

        flooding = threading.Thread(target=flood)
        flooding.start()
        with pytest.raises(smtplib.SMTPServerDisconnected, match=f"{MAX_REPLY} bytes"):
            self.client.getreply()
        flooding.join()


def test_backend_connects_with_these_limits(serve: ServeScript) -> None:
    with EmailHostsBackend("127.0.0.1", serve().port) as backend:
        assert isinstance(backend.connection, SMTP)


def test_connection_that_has_only_begun_with_tls_can_be_closed(
    start_server: ServerFactory, tls: ssl.SSLContext, cafile: Path
) -> None:
    port = start_server(context=tls).port
    options: Any = {"use_tls": True, "ssl_cafile": str(cafile), "conn_max_age": 60}
    backend = EmailHostsBackend("127.0.0.1", port, **options)
    backend.ssl_context.maximum_version = ssl.TLSVersion.TLSv1_2  # later ones begin to talk
    backend.open()
    backend.close()
    assert backend.connection is None


def test_end_of_a_connection_is_no_silence(serve: ServeScript) -> None:
    server = serve(at("NOOP", "250 fine\r\n421 bye"))
    client: Any = SMTP("127.0.0.1", server.port, timeout=20)
    with client:
        assert not has_unread_data(client)
        client.noop()
        assert has_unread_data(client)
        client.getreply()
        client.sock.shutdown(socket.SHUT_RD)
        with pytest.raises(smtplib.SMTPServerDisconnected, match="ended the connection"):
            has_unread_data(client)


def test_what_cannot_be_looked_at_is_not_quiet() -> None:
    assert not is_idle(SMTP())


def test_small_writes_do_not_wait(start_server: ServerFactory) -> None:
    with EmailHostsBackend("127.0.0.1", start_server().port) as backend:
        sock = backend.connection.sock
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_server_that_never_answers_quit_is_not_waited_for(
    serve: ServeScript, message: EmailMessage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "QUIT_TIMEOUT", 0.01)
    backend = EmailHostsBackend("127.0.0.1", serve(at("QUIT", HANG)).port, timeout=600)
    assert backend.send_messages([message]) == 1
