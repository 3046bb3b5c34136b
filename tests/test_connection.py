"""One connection: no reply is waited for too long, and what one can tell of it."""

import itertools
import os
import smtplib
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from unittest import mock

import pytest
from conftest import host_of, mails
from scripted import AND_CLOSE, CLOSE, always, any_of, at

from email_hosts.backends import can_be_retried
from email_hosts.smtp import connection
from email_hosts.smtp.connection import MAX_REPLY, SMTP, is_idle, open_socket

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

    @pytest.fixture
    def say(self, monkeypatch):
        """Let the server say this each time somebody looks at the clock, before each read."""

        def say(lines, times):
            def clock():
                self.server.sendall(next(lines))
                return next(times)

            monkeypatch.setattr(connection, "clock", clock)

        return say

    def test_in_pieces_is_put_together(self, client, say):
        limits = []

        def line(text):
            limits.append(client.sock.gettimeout())
            return text

        lines = map(line, [b"250-one\r\n", b"250-two\r\n", b"250 three\r\n"])
        say(lines, itertools.count())
        assert client.getreply() == (250, b"one\ntwo\nthree")
        assert limits == [5, 5, 4]  # there is less time for each
        assert client.sock.gettimeout() == TIMEOUT

    @pytest.mark.parametrize(
        ("line", "seconds", "reason"),
        [
            (b"250-more\r\n", 1, "timed out"),
            (b"250-more\r\n" * 800, 0, f"a reply of more than {MAX_REPLY} bytes"),
        ],
    )
    def test_without_end_ends(self, line, seconds, reason, client, say):
        times = itertools.count(0, seconds)
        say(itertools.repeat(line, 100), times)  # longer than anybody should listen
        with pytest.raises(smtplib.SMTPServerDisconnected, match=reason):
            client.getreply()
        assert client.sock is None
        assert next(times) == (TIMEOUT + 1) * seconds

    @pytest.mark.parametrize("quickack", [12, None])
    def test_is_acknowledged_at_once_where_it_can_be(self, quickack, client, monkeypatch):
        monkeypatch.setattr(connection, "QUICKACK", quickack)
        client.sock = mock.Mock(wraps=client.sock)
        client.sock.setsockopt = mock.Mock()
        self.server.sendall(b"250 fine\r\n")
        assert client.getreply() == (250, b"fine")
        expected = [mock.call(socket.IPPROTO_TCP, 12, 1)] if quickack else []
        assert client.sock.setsockopt.mock_calls == expected


class TestGreeting:
    """EHLO, and HELO where that is refused."""

    @pytest.mark.parametrize(
        ("ehlo", "helo", "told"),
        [
            ("421 4.7.0 later" + AND_CLOSE, None, 421),
            ("421 4.7.0 later", "421 4.7.0 bye", 421),
            ("550 5.7.1 listed", CLOSE, 550),
            ("550 5.7.1 listed", "503 twice", 550),
            ("502 what?", "550 5.7.1 listed", 550),
        ],
    )
    @pytest.mark.parametrize("login", ["", "user"])
    def test_that_is_refused_is_told_with_the_reason(self, ehlo, helo, told, login, serve):
        server = serve(any_of(always("EHLO", ehlo), always("HELO", helo)))
        backend = host_of(server, username=login, password=login)
        with pytest.raises(smtplib.SMTPHeloError) as caught:
            backend.send_messages(mails("a"))
        assert caught.value.smtp_code == told
        assert can_be_retried(caught.value)

    def test_of_a_server_that_hangs_up_is_no_matter_of_tls(self, serve):
        with pytest.raises(smtplib.SMTPServerDisconnected, match=r"unexpectedly closed(\n|$)"):
            host_of(serve(at("banner", CLOSE))).open()

    def test_is_said_again_in_a_list_after_it_was_refused(self, serve):
        server = serve(any_of(at("EHLO", "502 what?"), at("HELO", "450 later")))
        assert host_of(server, fail_silently=True).send_messages(mails("a", "b")) == 1
        assert [command[:4] for command in server.commands[:3]] == ["ehlo", "helo", "ehlo"]


@pytest.mark.parametrize(
    ("allowed", "patience", "shares"),
    [([9, 8, 1], 1, [4, 4, 4]), ([8, 1], 1, [6, 6]), ([9, 8], 1, [6, 6]), ([9, 8, 1], 3, [4])],
)
def test_silent_address_leaves_time_for_others(allowed, patience, shares, serve, monkeypatch):
    """With ``allow``: those that are not allowed get none, and ``timeout`` is for all."""
    server = serve()
    found = [(2, 1, 6, "", (f"127.0.0.{number}", server.port)) for number in (9, 8, 1)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
    given = []
    connect = socket.create_connection

    def create_connection(address, timeout, *args):
        given.append(timeout)
        if address[0] == "127.0.0.1":
            return connect(address, timeout, *args)
        raise TimeoutError("timed out")

    monkeypatch.setattr(connection, "clock", lambda: sum(given) * patience)
    monkeypatch.setattr(socket, "create_connection", create_connection)
    allow = lambda host, port: int(host[-1]) in allowed  # noqa: E731
    with (
        suppress(TimeoutError),
        SMTP("many.example", server.port, timeout=12, allow=allow) as client,
    ):
        assert open_socket(client).gettimeout() == 12
    assert given == shares


def test_connection_is_idle_whatever_tls_says_to_itself(tls, cafile):
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
