"""Pipelining: the results of smtplib, in fewer round trips."""

from __future__ import annotations

import errno
import smtplib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from conftest import ServeScript
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from scripted import BODY, CLOSE, HANG, RESET, Script, ScriptedServer, any_of, at, to

from email_hosts.smtp import pipelining
from email_hosts.backends import EmailHostsBackend, can_be_retried
from email_hosts.smtp.connection import SMTP
from email_hosts.smtp.pool import pool
from email_hosts.smtp.pipelining import Envelope, Envelopes

PIPELINING = ("PIPELINING", "SIZE 10000000")
STEPWISE = ("SIZE 10000000",)


def messages(*recipients: str, content: str = "Hello") -> list[EmailMessage]:
    """Make a message to each of these; ``a+b`` stands for one to both."""
    return [
        EmailMessage(
            "Subject",
            content,
            "sender@example.com",
            [f"{name}@example.net" for name in names.split("+") if name],
            headers={"Date": "now", "Message-ID": "<1@example.com>"},
        )
        for names in recipients
    ]


def ours(server: ScriptedServer, **options: Any) -> EmailHostsBackend:
    return EmailHostsBackend("127.0.0.1", server.port, **{"timeout": 20, **options})


def djangos(server: ScriptedServer, **options: Any) -> EmailBackend:
    options = {"host": "127.0.0.1", "port": server.port, "timeout": 20, **options}
    return EmailBackend(**options, alias="x")  # without an alias, Django 6.1 warns


def result(backend: Any, batch: list[Any]) -> tuple[Any, ...]:
    """Return what sending the batch returns, or the error that it raises."""
    try:
        return ("sent", backend.send_messages(batch))
    except smtplib.SMTPRecipientsRefused as error:
        return (type(error), error.recipients)
    except (smtplib.SMTPResponseException, ValueError) as error:
        return (type(error), *error.args)
    except smtplib.SMTPServerDisconnected as error:
        return (type(error),)


class StandIn:
    """Takes the place of a socket, for a test that has its own ``send()``."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


# A script, what is sent, and what becomes of it is what Django makes of it.
FAULTS: dict[str, tuple[Callable[[], Script], tuple[str, ...]]] = {
    "none": (lambda: at("none"), ("a", "b", "c")),
    "nobody to send to": (lambda: at("none"), ("", "a", "", "b", "")),
    "EHLO refused": (lambda: at("EHLO", "502 no"), ("a", "b")),
    "EHLO and HELO refused": (lambda: at_any("EHLO", "HELO"), ("a", "b")),
    "banner refused": (lambda: at("banner", "554 no"), ("a",)),
    "banner close": (lambda: at("banner", CLOSE), ("a",)),
    "banner hang": (lambda: at("banner", HANG), ("a",)),
    "MAIL refused": (lambda: at("MAIL", "550 no"), ("a", "b")),
    "second MAIL refused": (lambda: at("MAIL", None, "550 no"), ("a", "b", "c")),
    "MAIL closing": (lambda: at("MAIL", "421 later"), ("a", "b")),
    "MAIL garbage": (lambda: at("MAIL", "what?"), ("a", "b")),
    "MAIL close": (lambda: at("MAIL", CLOSE), ("a", "b")),
    "MAIL reset": (lambda: at("MAIL", RESET), ("a", "b")),
    "MAIL hang": (lambda: at("MAIL", HANG), ("a", "b")),
    "one RCPT refused": (lambda: to("b@", "550 no"), ("a+b+c", "d")),
    "one RCPT delayed": (lambda: to("b@", "450 later"), ("a+b+c", "d")),
    "RCPT forwarded": (lambda: to("b@", "251 forwarded"), ("a+b", "d")),
    "RCPT unverified": (lambda: to("b@", "252 maybe"), ("a+b", "d")),
    "all RCPT refused": (lambda: to("@", "550 no"), ("a+b", "c")),
    "RCPT of the second refused": (lambda: to("c@", "550 no"), ("a", "c", "d")),
    "RCPT closing": (lambda: to("b@", "421 later"), ("a+b+c", "d")),
    "RCPT close": (lambda: to("b@", CLOSE), ("a+b+c", "d")),
    "RCPT reset": (lambda: to("b@", RESET), ("a+b+c", "d")),
    "DATA refused": (lambda: at("DATA", "451 later"), ("a", "b")),
    "DATA closing": (lambda: at("DATA", "421 later"), ("a", "b")),
    "DATA close": (lambda: at("DATA", CLOSE), ("a", "b")),
    "DATA hang": (lambda: at("DATA", HANG), ("a", "b")),
    "body refused": (lambda: at(BODY, "554 spam"), ("a", "b", "c")),
    "second body refused": (lambda: at(BODY, None, "554 spam"), ("a", "b", "c")),
    "body delayed": (lambda: at(BODY, "451 later"), ("a", "b")),
    "body closing": (lambda: at(BODY, "421 later"), ("a", "b")),
    "body close": (lambda: at(BODY, CLOSE), ("a", "b")),
    "second body close": (lambda: at(BODY, None, CLOSE), ("a", "b", "c")),
    "body reset": (lambda: at(BODY, RESET), ("a", "b")),
    "body hang": (lambda: at(BODY, HANG), ("a", "b")),
    "body garbage": (lambda: at(BODY, "what?"), ("a", "b")),
    "RSET refused": (lambda: any_of(at("MAIL", "550 no"), at("RSET", "500 no")), ("a", "b")),
    "RSET close": (lambda: any_of(at("MAIL", "550 no"), at("RSET", CLOSE)), ("a", "b")),
    "QUIT refused": (lambda: at("QUIT", "500 no"), ("a",)),
    "QUIT close": (lambda: at("QUIT", CLOSE), ("a",)),
    "RCPT garbage": (lambda: at("RCPT", "what?\r\n250 fine"), ("a", "b")),
    "bad address": (lambda: at("none"), ("a", "a@b@c", "d")),
}


UNTRUSTED = {"MAIL garbage", "RCPT garbage", "body garbage", "RSET refused"}


def at_any(*steps: str) -> Script:
    return lambda step, argument: "502 no" if step in steps else None


@pytest.mark.parametrize("extensions", [PIPELINING, STEPWISE], ids=["pipelining", "stepwise"])
@pytest.mark.parametrize(
    ("fault", "fail_silently"),
    [
        *(pytest.param(fault, False, id=f"{fault}, loud") for fault in FAULTS),
        *(
            pytest.param(fault, True, id=f"{fault}, silent")
            for fault in FAULTS
            if fault not in UNTRUSTED
        ),
    ],
)
def test_result_is_that_of_django(
    fault: str, fail_silently: bool, extensions: tuple[str, ...], serve: ServeScript
) -> None:
    make_script, recipients = FAULTS[fault]
    results = []
    for make in (djangos, ours):
        server = serve(make_script(), extensions=extensions)
        timeout = 0.3 if "hang" in fault else 20
        backend = make(server, fail_silently=fail_silently, timeout=timeout)
        results.append((result(backend, messages(*recipients)), server.accepted))
        # Django 4.2 leaves the connection open after an error.
        getattr(backend.connection, "close", lambda: None)()
    assert results[1] == results[0]
    assert backend.connection is None


@pytest.mark.parametrize(
    "content", ["", ".", ".\n..\n.a\n\n.", "a" * 2000, "é\n.é", "x\r\n.\r\ny"]
)
def test_content_is_that_of_django_byte_by_byte(content: str, serve: ServeScript) -> None:
    servers = [serve(), serve()]
    for make, server in zip((djangos, ours), servers, strict=True):
        make(server).send_messages(messages("a", "b", content=content))
    assert servers[1].accepted == servers[0].accepted
    assert len(servers[0].accepted) == 2


@pytest.mark.parametrize("extensions", [PIPELINING, STEPWISE], ids=["pipelining", "stepwise"])
@pytest.mark.parametrize("fault", sorted(UNTRUSTED))
def test_connection_is_not_trusted_after_a_line_that_is_no_reply(
    fault: str, extensions: tuple[str, ...], serve: ServeScript
) -> None:
    """Who knows what follows it: where Django goes on, this connection is closed."""
    make_script, recipients = FAULTS[fault]
    server = serve(make_script(), extensions=extensions)
    backend = ours(server, fail_silently=True)
    assert backend.send_messages(messages(*recipients)) == 0
    assert server.accepted == []


class TestRoundTrips:
    """Counted by the server."""

    @pytest.mark.parametrize("recipients", ["a", "+".join("abcdefghijklmnopqrst")])
    @pytest.mark.parametrize(
        ("extensions", "expected"), [(PIPELINING, lambda n: 2), (STEPWISE, lambda n: 3 + n)]
    )
    def test_of_a_message(
        self,
        recipients: str,
        extensions: tuple[str, ...],
        expected: Callable[[int], int],
        serve: ServeScript,
    ) -> None:
        server = serve(extensions=extensions)
        with ours(server) as connection:
            connection.send_messages(messages("first"))
            before = server.turns
            connection.send_messages(messages(recipients))
            assert server.turns - before == expected(recipients.count("+") + 1)

    def test_of_a_batch(self, serve: ServeScript) -> None:
        server = serve()
        with ours(server) as connection:
            connection.send_messages(messages("first"))
            before = server.turns
            connection.send_messages(messages(*"abcdefghijklmnopqrstuvwxy"))
            assert server.turns - before == 26

    def test_of_a_thousand_recipients_stay_few(self, serve: ServeScript) -> None:
        server = serve()
        with ours(server, timeout=20) as connection:
            assert connection.send_messages(messages("+".join(map(str, range(1000))))) == 1
        assert len(server.accepted[0].recipients) == 1000
        assert server.turns < 30


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [(PIPELINING, [1, "body", 2, "reply"]), (STEPWISE, ["reply", "body", 1, "reply"])],
)
def test_next_message_is_made_while_the_server_is_busy(
    extensions: tuple[str, ...],
    expected: list[object],
    serve: ServeScript,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the write of a body and the reply to it."""
    events: list[object] = []

    def coming() -> Iterator[Envelope]:
        for number in range(4):
            events.append(number)
            yield Envelope("s@example.com", ["a@example.net"], b"Hello\r\n")

    write, reply = pipelining._write, SMTP.getreply
    with SMTP("127.0.0.1", serve(extensions=extensions).port, timeout=20) as connection:
        connection.ehlo()

        def noted_write(connection: smtplib.SMTP, data: bytes, ahead: bytes = b"") -> None:
            events.append("body" if data.endswith(b"\r\n.\r\n") else "commands")
            write(connection, data, ahead)

        def noted_reply(self: SMTP) -> Any:
            events.append("reply")
            return reply(self)

        monkeypatch.setattr(pipelining, "_write", noted_write)
        monkeypatch.setattr(SMTP, "getreply", noted_reply)
        list(pipelining.send(connection, Envelopes(coming())))
        monkeypatch.undo()
    at_body = events.index("body")
    assert events[at_body - 1 : at_body + 3] == expected


def test_bytes_in_flight_are_bounded(serve: ServeScript) -> None:
    server = serve()
    backend = ours(server, timeout=20)
    with backend:
        written, records = [], []

        class Spy(StandIn):
            def send(self, data: memoryview) -> int:
                records.append(len(data))
                if bytes(data[:4]) in (b"MAIL", b"RCPT", b"DATA"):
                    written.append(len(data))
                return self.sock.send(data)

        backend.connection.sock = Spy(backend.connection.sock)
        backend.send_messages(messages("+".join(map(str, range(1000)))))
    assert max(written) <= pipelining.MAX_BYTES_IN_FLIGHT
    assert max(records) == pipelining.MAX_RECORD


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (at("MAIL", CLOSE), False),
        (at("DATA", CLOSE), False),
        (at("MAIL", "550 no"), False),
        (at(BODY, CLOSE), True),
        (at(BODY, HANG), True),
        (at(BODY, "451 later"), True),
    ],
)
def test_error_knows_whether_the_body_was_sent(
    script: Script, expected: bool, serve: ServeScript
) -> None:
    with pytest.raises(smtplib.SMTPException) as caught:
        ours(serve(script), timeout=0.5).send_messages(messages("a"))
    assert pipelining.body_was_sent(caught.value) is expected


@pytest.mark.parametrize("code", [450, 550])
@pytest.mark.parametrize("extensions", [PIPELINING, STEPWISE], ids=["pipelining", "stepwise"])
def test_recipient_that_is_there_twice_is_refused_all_the_same(
    code: int, extensions: tuple[str, ...], serve: ServeScript
) -> None:
    """Smtplib counts one refusal, and two recipients."""
    server = serve(
        any_of(to("@", f"{code} no"), at("DATA", "354 go ahead")), extensions=extensions
    )
    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        ours(server).send_messages(messages("a+a"))
    assert can_be_retried(caught.value) is (code == 450)
    assert [one for one in server.accepted if one.recipients] == []


class TestSurprise:
    """What a server may do after it refused something in a group."""

    @pytest.mark.parametrize(
        "script",
        [
            any_of(to("a@", "550 no"), to("b@", "550 no"), at("DATA", "354 go ahead")),
            any_of(at("MAIL", "550 no"), at("DATA", "354 go ahead")),
        ],
    )
    def test_go_ahead_for_nobody_is_answered_with_an_empty_message(
        self, script: Script, serve: ServeScript
    ) -> None:
        server = serve(script)
        with ours(server) as connection:
            with pytest.raises(smtplib.SMTPException):
                connection.send_messages(messages("a+b"))
            assert connection.send_messages(messages("c")) == 1
        assert server.connections == 1
        assert [one.recipients for one in server.accepted] == [(), ("c@example.net",)]

    def test_go_ahead_for_somebody_nobody_asked_for_ends_the_connection(
        self, serve: ServeScript
    ) -> None:
        script = any_of(
            at("MAIL", "550 no"), at("RCPT", "250 yes"), at("DATA", "354 go ahead")
        )
        server = serve(script)
        backend = ours(server)
        with backend, pytest.raises(smtplib.SMTPSenderRefused):
            backend.send_messages(messages("a"))
        assert server.accepted == []

    @pytest.mark.parametrize("doubtful", ["250 yes", "252 maybe", "354 go ahead"])
    def test_go_ahead_after_a_doubtful_reply_ends_the_connection(
        self, doubtful: str, serve: ServeScript
    ) -> None:
        script = any_of(at("MAIL", "550 no"), to("@", doubtful), at("DATA", "354 go ahead"))
        server = serve(script)
        with pytest.raises(smtplib.SMTPSenderRefused):
            ours(server).send_messages(messages("a"))
        assert server.accepted == []

    @pytest.mark.parametrize("line", ["250 accepted", "450 later", "what?"])
    def test_line_before_the_body_is_not_taken_for_the_reply_to_it(
        self, line: str, serve: ServeScript
    ) -> None:
        server = serve(at("DATA", f"354 go ahead\r\n{line}"))
        with pytest.raises(
            smtplib.SMTPServerDisconnected, match="more than the replies"
        ) as caught:
            ours(server).send_messages(messages("a"))
        assert not pipelining.body_was_sent(caught.value)
        assert server.accepted == []

    def test_connection_that_is_lost_before_the_body(
        self, serve: ServeScript, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost = mock.Mock(side_effect=ConnectionResetError("reset by peer"))
        monkeypatch.setattr(pipelining, "has_unread_data", lost)
        with pytest.raises(smtplib.SMTPServerDisconnected, match="reset by peer") as caught:
            ours(serve()).send_messages(messages("a"))
        assert not pipelining.body_was_sent(caught.value)

    def test_body_that_is_not_read_is_not_sent(self, serve: ServeScript) -> None:
        end = threading.Event()

        def script(step: str, argument: str) -> str | None:
            if step != "CONTENT":
                return None
            end.wait(20)
            return CLOSE

        backend = ours(serve(script), timeout=0.3)
        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out") as caught:
            backend.send_messages(messages("a", content="x" * 20_000_000))
        end.set()
        assert not pipelining.body_was_sent(caught.value)

    def test_refused_body_ends_what_is_ahead(self, serve: ServeScript) -> None:
        server = serve(at(BODY, "554 spam"))
        backend = ours(server)
        with backend, pytest.raises(smtplib.SMTPDataError):
            backend.send_messages(messages("a", "b"))
        assert server.accepted == []
        assert any("b@" in command for command in server.commands)


@pytest.mark.parametrize("line_break", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("position", [0, 1])
def test_line_break_in_an_address_is_an_error_in_its_turn(
    position: int, line_break: str, serve: ServeScript
) -> None:
    """Django lets none through, and yet it must not become a command."""
    server = serve()
    recipients = ["a@example.net"]
    recipients.insert(position, f"{line_break}RSET{line_break}@")
    coming = (Envelope("s@example.com", [name], b"Hello\r\n") for name in recipients)
    with SMTP("127.0.0.1", server.port, timeout=5) as connection:
        outcomes = pipelining.send(connection, Envelopes(coming))
        with pytest.raises(ValueError, match="line break"):
            list(outcomes)
    assert len(server.accepted) == position
    assert not any("RSET" in command for command in server.commands)


def test_connection_that_breaks_behind_a_body_does_not_hide_its_reply(
    serve: ServeScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelining, "_is_of_the_socket", lambda error: True)
    server = serve()
    coming = iter([Envelope("s@example.com", [name], b"Hello\r\n") for name in "ab"])
    connection: Any = SMTP("127.0.0.1", server.port, timeout=0.5)

    class Breaking(StandIn):
        """Breaks when what goes ahead of the reply to the body is written."""

        def send(self, data: memoryview) -> int:
            if bytes(data).startswith(b"MAIL") and server.commands[-1] == "DATA":
                raise BrokenPipeError
            end = bytes(data).find(b"\r\n.\r\n") + 5
            return self.sock.send(data[:end] if end > 4 else data)

    connection.sock = Breaking(connection.sock)
    first, second = pipelining.send(connection, Envelopes(coming))
    assert first.error is None
    assert isinstance(second.error, smtplib.SMTPServerDisconnected)
    assert pipelining.body_was_sent(second.error) is False
    assert len(server.accepted) == 1


@pytest.mark.parametrize(
    "error", [TimeoutError("rings"), ConnectionRefusedError(errno.ECONNREFUSED, "rings")]
)
def test_signal_in_the_middle_of_a_write_is_no_fault_of_the_connection(
    error: OSError, serve: ServeScript
) -> None:
    """What its handler raises does not tell how much was written."""
    server = serve()
    ours(server, conn_max_age=60).send_messages(messages("first"))

    class Alarm(StandIn):
        """Rings when the body has been written."""

        def send(self, data: memoryview) -> int:
            written = self.sock.send(data)
            if bytes(data).endswith(b"\r\n.\r\n"):
                raise error
            return written

    with ours(server, conn_max_age=60) as backend:
        backend.connection.sock = Alarm(backend.connection.sock)
        with pytest.raises(type(error), match="rings") as caught:
            backend.send_messages(messages("a"))
    assert not can_be_retried(caught.value)
    assert backend.connection is None
    assert server.wait_for(2)
    assert server.connections == 1


def test_connection_in_step_is_used_again(serve: ServeScript) -> None:
    server = serve(any_of(at("MAIL", "550 no"), to("x@", "550 no")))
    with ours(server) as connection:
        for recipients in ("a", "x", "b+x"):
            result(connection, messages(recipients))
        assert connection.send_messages(messages("c")) == 1
    assert server.connections == 1
    assert [one.recipients for one in server.accepted] == [
        ("b@example.net",),
        ("c@example.net",),
    ]


def test_lost_connection_is_opened_again_by_the_next_send(serve: ServeScript) -> None:
    server = serve(at("MAIL", CLOSE))
    with ours(server) as connection:
        with pytest.raises(smtplib.SMTPServerDisconnected):
            connection.send_messages(messages("a"))
        assert connection.send_messages(messages("b")) == 1


def test_close_waits_for_a_send_in_another_thread(serve: ServeScript) -> None:
    backend: Any = ours(serve())
    backend.open()
    lock = backend._lock
    is_waiting = threading.Event()

    class Lock:
        """Tells that somebody wants it."""

        def __enter__(self) -> None:
            is_waiting.set()
            lock.acquire()

        def __exit__(self, *exc_info: object) -> None:
            lock.release()

    closing = threading.Thread(target=backend.close)
    with lock:
        backend._lock = Lock()
        closing.start()
        assert is_waiting.wait(20)
        assert backend.connection is not None
    closing.join()
    assert backend.connection is None


def test_class_with_a_sendmail_of_its_own_is_asked(serve: ServeScript) -> None:
    calls = []

    class Own(smtplib.SMTP):
        def sendmail(self, *args: Any, **options: Any) -> Any:
            calls.append(args[1])
            if len(calls) == 2:
                raise smtplib.SMTPDataError(554, b"no")
            return super().sendmail(*args, **options)

    server = serve()
    with mock.patch.object(EmailHostsBackend, "connection_class", Own):
        backend = ours(server, fail_silently=True, conn_max_age=60)
        assert backend.send_messages(messages("a", "b", "c")) == 2
    assert pool._parked == {}  # for nobody knows whether it is in step
    assert calls == [[f"{name}@example.net"] for name in "abc"]


def test_mocked_sendmail_is_called(serve: ServeScript) -> None:
    with mock.patch("smtplib.SMTP.sendmail", return_value={}) as sendmail:
        assert ours(serve()).send_messages(messages("a")) == 1
    sendmail.assert_called_once()
