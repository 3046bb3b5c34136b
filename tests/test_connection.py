"""One connection: no reply is waited for too long, and what one can tell of it."""

import os
import select
import smtplib
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from unittest import mock

import pytest
from scripted import at

from email_hosts.backends import EmailHostsBackend
from email_hosts.smtp import connection
from email_hosts.smtp.connection import (
    MAX_REPLY,
    SMTP,
    has_unread_data,
    is_idle,
    open_socket,
)

TIMEOUT = 5


class TestReply:
    """``timeout`` is for the whole of it, and not for each of its pieces."""

    @pytest.fixture
    def client(self):
        client = SMTP()
        client.sock, self.server = socket.socketpair()
        client.sock.settimeout(TIMEOUT)
        with self.server:
            yield client
            client.close()

    def test_in_pieces_is_put_together(self, client, monkeypatch):
        pieces = iter([b"250-one\r\n", b"250-two\r\n", b"250 three\r\n"])

        def clock():  # asked before each read
            self.server.sendall(next(pieces))
            return 0

        monkeypatch.setattr(connection, "clock", clock)
        assert client.getreply() == (250, b"one\ntwo\nthree")
        assert client.sock.gettimeout() == TIMEOUT

    def test_is_not_waited_for_beyond_the_timeout(self, client, monkeypatch):
        now = iter(range(1000))

        def clock():  # a second for each line
            self.server.sendall(b"250-more\r\n")
            return next(now)

        monkeypatch.setattr(connection, "clock", clock)
        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
            client.getreply()
        assert next(now) == TIMEOUT + 1
        assert client.sock is None

    @pytest.mark.parametrize("quickack", [12, None])
    def test_is_acknowledged_at_once_where_that_can_be_said(
        self, quickack, client, monkeypatch
    ):
        monkeypatch.setattr(connection, "QUICKACK", quickack)
        client.sock = mock.Mock(wraps=client.sock)
        client.sock.setsockopt = mock.Mock()
        self.server.sendall(b"250 fine\r\n")
        assert client.getreply() == (250, b"fine")
        expected = [mock.call(socket.IPPROTO_TCP, 12, 1)] if quickack else []
        assert client.sock.setsockopt.mock_calls == expected

    def test_without_end_ends(self, client):
        def flood():
            with suppress(OSError):
                self.server.sendall(b"250-more\r\n" * MAX_REPLY)

        flooding = threading.Thread(target=flood)
        flooding.start()
        with pytest.raises(smtplib.SMTPServerDisconnected, match=f"{MAX_REPLY} bytes"):
            client.getreply()
        flooding.join()

    def test_is_not_waited_for_without_a_connection(self):
        with pytest.raises(smtplib.SMTPServerDisconnected, match="the connection is closed"):
            SMTP().getreply()


@pytest.mark.parametrize("implicit", [True, False])
def test_backend_connects_with_these_limits(implicit, start_server, tls, cafile):
    port = start_server(context=tls, implicit=implicit).port
    options = {"use_ssl": implicit, "use_tls": not implicit, "ssl_cafile": str(cafile)}
    with EmailHostsBackend("127.0.0.1", port, **options) as backend:
        assert isinstance(backend.connection, SMTP)


class TestUnreadData:
    """It is a line that answers nothing, or the end of the connection."""

    @pytest.mark.parametrize("has_poll", [True, False])
    def test_is_told_from_silence_and_from_the_end(self, has_poll, serve, monkeypatch):
        if not has_poll:  # as on Windows
            monkeypatch.delattr(select, "poll")
        server = serve(at("NOOP", "250 fine\r\n421 bye"))
        with SMTP("127.0.0.1", server.port, timeout=20) as client:
            assert (has_unread_data(client), is_idle(client)) == (False, True)
            client.noop()
            assert (has_unread_data(client), is_idle(client)) == (True, False)
            client.getreply()
            open_socket(client).shutdown(socket.SHUT_RD)
            with pytest.raises(smtplib.SMTPServerDisconnected, match="ended the connection"):
                has_unread_data(client)
            assert not is_idle(client)

    def test_is_not_what_tls_says_to_itself(self, tls, cafile):
        ours, theirs = socket.socketpair()
        context = ssl.create_default_context(cafile=cafile)
        with ThreadPoolExecutor(1) as executor, SMTP() as client:
            server = executor.submit(tls.wrap_socket, theirs, server_side=True)
            client.sock = context.wrap_socket(ours, server_hostname="localhost")
            with server.result() as wrapped:
                wrapped.sendall(b"220 hi\r\n")
                assert client.getreply() == (220, b"hi")
                with socket.socket(fileno=os.dup(wrapped.fileno())) as raw:
                    raw.sendall(b"\x17\x03\x03")  # the beginning of a record
                assert is_idle(client)
                client.close()

    def test_of_a_closed_connection_is_none_and_yet_it_is_not_idle(self):
        assert not is_idle(SMTP())
