"""SMTP hosts, against real servers."""

from __future__ import annotations

import smtplib
import socket
import ssl
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect, NewMessage, ServerFactory, ServeScript
from django.core.mail import EmailMessage
from scripted import BODY, any_of, at, to

from email_hosts.backends import EmailHostsBackend
from email_hosts.exceptions import InvalidEmailHost

LOGIN = ("me@example.com", "p/a?s#s+")
ENCODED_LOGIN = "me%40example.com:p%2Fa%3Fs%23s+"


@pytest.mark.parametrize(
    ("scheme", "implicit"),
    [("submission", False), ("smtp+tls", False), ("submissions", True), ("smtps", True)],
)
def test_message_travels_through_tls_and_login(
    scheme: str,
    implicit: bool,
    start_server: ServerFactory,
    connect: Connect,
    tls: ssl.SSLContext,
    cafile: Path,
    message: EmailMessage,
) -> None:
    server = start_server(context=tls, implicit=implicit, login=LOGIN)
    host = connect(
        f"{scheme}://{ENCODED_LOGIN}@127.0.0.1:{server.port}?ssl_cafile={cafile}"
        "&_default_from_email=Bücher <laden@bücher.example>&local_hostname=web.example.com"
    )
    assert host.send_messages([message]) == 1
    (received,) = server.received
    assert (received.user, received.tls) == (LOGIN[0], True)
    assert received.local_hostname == "web.example.com"
    assert received.sender == "laden@xn--bcher-kva.example"
    assert received.recipients == ["someone@example.net"]
    sender = received.message["From"].addresses[0]
    assert (sender.display_name, sender.domain) == ("Bücher", "xn--bcher-kva.example")


def test_message_travels_without_tls(
    start_server: ServerFactory, connect: Connect, message: EmailMessage
) -> None:
    server = start_server()
    assert connect(f"smtp://127.0.0.1:{server.port}").send_messages([message]) == 1
    (received,) = server.received
    assert (received.user, received.tls, received.sender) == (
        None,
        False,
        "project@example.com",
    )


def test_from_header_stays_and_the_envelope_is_the_hosts(
    start_server: ServerFactory, connect: Connect, new_message: NewMessage
) -> None:
    server = start_server()
    host = connect(f"smtp://127.0.0.1:{server.port}?_default_from_email=shop@example.com")
    host.send_messages([new_message(headers={"From": "me@example.com"})])
    (received,) = server.received
    assert (received.sender, received.message["From"]) == (
        "shop@example.com",
        "me@example.com",
    )


class TestFailure:
    """A send that fails raises an OSError, or is logged."""

    def test_refused_login_leaves_nothing_open(
        self,
        start_server: ServerFactory,
        connect: Connect,
        tls: ssl.SSLContext,
        cafile: Path,
        message: EmailMessage,
    ) -> None:
        server = start_server(context=tls, login=LOGIN)
        host = connect(f"submission://x:y@127.0.0.1:{server.port}?ssl_cafile={cafile}")
        for _ in range(2):
            with pytest.raises(smtplib.SMTPAuthenticationError):
                host.send_messages([message])
        assert host.connection is None

    def test_challenge_that_makes_no_sense_is_an_smtp_error(
        self, serve: ServeScript, connect: Connect
    ) -> None:
        server = serve(at("AUTH", "334 !!!notb64=a"), extensions=["AUTH CRAM-MD5"])
        with pytest.raises(smtplib.SMTPException, match="challenge makes no sense"):
            connect(f"smtp://user:pw@127.0.0.1:{server.port}").open()

    @pytest.mark.parametrize("step", ["AUTH", "MAIL", "RCPT", BODY])
    def test_does_not_show_the_login_that_a_server_repeats(
        self, step: str, serve: ServeScript, connect: Connect, message: EmailMessage
    ) -> None:
        username, password = "Kx7vQz9", "Kx7vQz9Wj4bYt2"
        plain = b64encode(f"\0{username}\0{password}".encode()).decode()
        reply = f"550 not for {username} {password} {plain} {b64encode(b'Kx7vQz9').decode()}"
        server = serve(
            any_of(at(step, reply), at("AUTH", "235 welcome")), extensions=["AUTH PLAIN"]
        )
        with pytest.raises(smtplib.SMTPException) as caught:
            connect(f"smtp://{username}:{password}@127.0.0.1:{server.port}").send_messages(
                [message]
            )
        assert "not for ***** ***** ***** *****" in str(caught.value)
        assert not any(word in repr(vars(caught.value)) for word in (username, plain))

    def test_does_not_quote_a_challenge_that_repeats_the_login(
        self, serve: ServeScript, connect: Connect
    ) -> None:
        def ask_again(step: str, argument: str) -> str | None:
            return None if step in {"banner", "EHLO", "QUIT"} else "334 S3g3dlF6OQ=="

        server = serve(ask_again, extensions=["AUTH LOGIN"])
        with pytest.raises(smtplib.SMTPException, match=r"infinite loop.*\*{5}") as caught:
            connect(f"smtp://user:Kx7vQz9@127.0.0.1:{server.port}").open()
        assert "S3g3dlF6OQ" not in str(caught.value)

    def test_for_some_of_the_recipients_does_not_show_the_login_either(
        self, serve: ServeScript, connect: Connect, new_message: NewMessage
    ) -> None:
        server = serve(
            any_of(to("b@", "550 not for Kx7vQz9"), at("AUTH", "235 welcome")),
            extensions=["AUTH PLAIN"],
        )
        host = connect(f"smtp://user:Kx7vQz9@127.0.0.1:{server.port}")
        assert host.send_messages([new_message(to=["a@x.net", "b@x.net"])]) == 1
        assert host.refused_recipients == {"b@x.net": (550, b"not for *****")}

    def test_for_some_of_the_recipients_is_that_of_the_last_send(
        self, serve: ServeScript, connect: Connect, new_message: NewMessage
    ) -> None:
        host = connect(f"smtp://127.0.0.1:{serve(to('b@', '550 no')).port}")
        host.send_messages([new_message(to=["a@x.net", "b@x.net"])])
        host.send_messages([new_message(to=["a@x.net"])])
        assert host.refused_recipients == {}

    def test_tls_that_is_not_offered_is_no_reason_to_go_without(
        self, start_server: ServerFactory, connect: Connect, message: EmailMessage
    ) -> None:
        server = start_server()
        host = connect(f"submission://127.0.0.1:{server.port}", fail_silently=True)
        assert [host.send_messages([message]) for _ in range(2)] == [0, 0]
        assert server.received == []

    def test_that_is_passed_over_is_logged_without_recipients(
        self,
        start_server: ServerFactory,
        connect: Connect,
        message: EmailMessage,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        server = start_server(refused=message.to)
        host = connect(f"smtp://127.0.0.1:{server.port}", fail_silently=True)
        assert host.send_messages([message]) == 0
        assert caplog.messages[-1] == (
            'host "shop": SMTPRecipientsRefused, ignored by fail_silently'
        )

    def test_is_logged_with_its_code(
        self,
        start_server: ServerFactory,
        connect: Connect,
        message: EmailMessage,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        server = start_server(login=LOGIN)
        connect(f"smtp://127.0.0.1:{server.port}", fail_silently=True).send_messages([message])
        assert caplog.messages[-1] == (
            'host "shop": SMTPSenderRefused 530, ignored by fail_silently'
        )

    def test_to_connect_is_logged_too(
        self,
        connect: Connect,
        closed_port: int,
        message: EmailMessage,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        host = connect(f"smtp://127.0.0.1:{closed_port}", fail_silently=True)
        assert host.send_messages([message]) == 0
        assert caplog.messages == [
            'host "shop": ConnectionRefusedError, ignored by fail_silently'
        ]

    def test_to_connect_is_an_error(
        self, connect: Connect, closed_port: int, message: EmailMessage
    ) -> None:
        with pytest.raises(ConnectionRefusedError):
            connect(f"smtp://127.0.0.1:{closed_port}").send_messages([message])

    def test_of_one_message_ends_the_batch(
        self, start_server: ServerFactory, connect: Connect, new_message: NewMessage
    ) -> None:
        server = start_server(refused=["b@example.net"])
        batch = [new_message(to=[f"{name}@example.net"]) for name in "abc"]
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            connect(f"smtp://127.0.0.1:{server.port}").send_messages(batch)
        assert [received.recipients for received in server.received] == [["a@example.net"]]

    def test_that_is_passed_over_does_not_end_the_batch(
        self, start_server: ServerFactory, connect: Connect, new_message: NewMessage
    ) -> None:
        server = start_server(refused=["b@example.net"])
        batch = [new_message(to=[f"{name}@example.net"]) for name in "abc"]
        host = connect(f"smtp://127.0.0.1:{server.port}", fail_silently=True)
        assert host.send_messages(batch) == 2
        assert len(server.received) == 2

    def test_for_some_of_the_recipients_is_logged_without_addresses(
        self,
        start_server: ServerFactory,
        connect: Connect,
        new_message: NewMessage,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        server = start_server(refused=["b@example.net", "c@example.net"])
        host = connect(f"smtp://127.0.0.1:{server.port}")
        assert host.send_messages([new_message(to=[f"{n}@example.net" for n in "abc"])]) == 1
        assert caplog.messages[-1] == 'host "shop": refused recipients: 2 [550]'

    def test_to_say_goodbye_loses_no_accepted_message(
        self,
        start_server: ServerFactory,
        connect: Connect,
        message: EmailMessage,
    ) -> None:
        server = start_server()
        with connect(f"smtp://127.0.0.1:{server.port}") as host:
            assert host.send_messages([message]) == 1
            host.connection.sock.shutdown(socket.SHUT_WR)
        assert len(server.received) == 1

    def test_of_a_server_that_never_answers_ends_in_time(
        self, connect: Connect, message: EmailMessage
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            host = connect(f"smtp://127.0.0.1:{silent.getsockname()[1]}?timeout=0.1")
            with pytest.raises(OSError, match="timed out"):
                host.send_messages([message])

    @pytest.mark.parametrize("login", ["%C3%BCser:pw", "user:%C3%BCpw"])
    def test_to_encode_the_login_is_told_before_connecting(
        self, connect: Connect, login: str
    ) -> None:
        with pytest.raises(InvalidEmailHost, match="logs in with ASCII alone"):
            connect(f"smtp://{login}@127.0.0.1:1").open()


def test_batch_shares_one_connection(
    serve: ServeScript, connect: Connect, new_message: NewMessage
) -> None:
    server = serve()
    host = connect(f"smtp://127.0.0.1:{server.port}")
    assert host.send_messages(new_message() for _ in range(3)) == 3
    with host:
        assert host.open() is False
        host.send_messages([new_message()])
        assert host.connection is not None
    assert (server.connections, len(server.accepted)) == (2, 4)


@pytest.mark.parametrize("batch", [[], iter(())])
def test_no_messages_need_no_connection(connect: Connect, batch: Any) -> None:
    assert connect("smtp://127.0.0.1:1").send_messages(batch) == 0


def test_connection_that_is_not_open_can_be_closed(connect: Connect) -> None:
    connect("smtp://127.0.0.1:1").close()


def test_message_to_nobody_is_not_sent(
    start_server: ServerFactory, connect: Connect, new_message: NewMessage
) -> None:
    server = start_server()
    assert connect(f"smtp://127.0.0.1:{server.port}").send_messages([new_message(to=[])]) == 0
    assert server.received == []


def test_host_without_a_key_is_logged_by_its_address(
    closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    host = EmailHostsBackend("127.0.0.1", closed_port, fail_silently=True)
    assert host.open() is None
    assert caplog.messages[0].startswith(f"127.0.0.1:{closed_port}: ConnectionRefusedError")


@pytest.mark.parametrize(
    ("options", "port"),
    [({}, 25), ({"use_tls": True}, 587), ({"use_ssl": True}, 465), ({"port": 26}, 26)],
)
def test_backend_without_a_dsn_has_the_port_of_its_transport(
    options: dict[str, Any], port: int
) -> None:
    assert EmailHostsBackend("h", **options).port == port
