"""A list of messages over several connections of one host at the same time."""

from __future__ import annotations

import gc
import signal
import smtplib
import ssl
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest
from conftest import needs_mailers, parked, run_python
from django.conf import settings
from django.core import mail
from django.core.mail import EmailMessage
from django.test import override_settings
from django.utils import timezone, translation
from scripted import BODY, CLOSE, TAKEN, Script, ScriptedServer, any_of, at, to

from email_hosts import mailers
from email_hosts.backends import (
    EmailHostsBackend,
    RoutingBackend,
    connection_from_dsn,
    get_connection,
)
from email_hosts.backends.parallel import PIECE
from email_hosts.smtp import transaction
from email_hosts.smtp.connection import SMTP
from email_hosts.testing import real_hosts

STEPWISE = ["SIZE 10000000"]  # so nothing is written ahead, and no session ends for it


def message(recipient: str = "a@example.net", **options: Any) -> EmailMessage:
    return EmailMessage("Subject", "Hello", "sender@example.com", [recipient], **options)


def messages(number: int) -> list[EmailMessage]:
    return [message(f"{i}@example.net") for i in range(number)]


def host(server: Any, parallel: int = 4, **options: Any) -> EmailHostsBackend:
    options = {"timeout": 20, **options}
    return EmailHostsBackend("127.0.0.1", server.port, parallel=parallel, **options)


def together(number: int, step: str = "EHLO") -> Script:
    """A server that answers this step when so many connections have come to it."""
    barrier = threading.Barrier(number, timeout=20)
    coming = iter(range(number))

    def script(name: str, argument: str):
        if name == step and next(coming, None) is not None:
            barrier.wait()

    return script


def refused_connections(number: int, of: int) -> Script:
    """A server that takes some connections at a time, and refuses so many."""
    barrier = threading.Barrier(of, timeout=20)
    coming = iter(range(of))

    def script(step: str, argument: str) -> str | None:
        if step == "banner" and (position := next(coming, None)) is not None:
            barrier.wait()
            return None if position < of - number else "421 too many connections"
        return None

    return script


def recipients(server: ScriptedServer) -> Counter[str]:
    return Counter(recipient for one in server.accepted for recipient in one.recipients)


def of(batch: list[EmailMessage]) -> Counter[str]:
    return Counter(recipient for one in batch for recipient in one.to)


def is_of_a_call(thread: threading.Thread) -> bool:
    return thread.name.startswith("ThreadPoolExecutor")


@pytest.fixture(autouse=True)
def threads(monkeypatch) -> Iterator[list[threading.Thread]]:
    """The threads of the call, in the order in which they are started."""
    started = []
    start = threading.Thread.start

    def spy(thread: threading.Thread):
        if is_of_a_call(thread):
            started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", spy)
    yield started
    for thread in started:
        thread.join(20)
    assert not any(thread.is_alive() for thread in started)


class TestSpread:
    @pytest.mark.parametrize(
        ("parallel", "extensions"), [(2, STEPWISE), (4, ["PIPELINING"]), (10, STEPWISE)]
    )
    def test_sends_over_so_many_connections_at_once(
        self, parallel: int, extensions: list[str], serve
    ):
        server = serve(together(parallel), extensions=extensions)
        batch = messages(3 * parallel)
        assert host(server, parallel).send_messages(batch) == len(batch)
        assert server.connections == parallel
        assert recipients(server) == of(batch)

    def test_each_message_is_sent_once(self, serve):
        server = serve()
        batch = messages(300)
        assert host(server, 8).send_messages(batch) == 300
        assert recipients(server) == of(batch)
        assert server.connections <= 8

    def test_each_connection_is_pipelined(self, serve, monkeypatch):
        writes = []
        write = transaction.send_all

        def spy(connection: SMTP, data: bytes):
            writes.append(bytes(data))
            write(connection, data)

        monkeypatch.setattr(transaction, "send_all", spy)
        host(serve(together(2)), 2).send_messages(messages(50))
        assert sum(data.startswith(b"MAIL") for data in writes) == 50
        assert len(writes) == 100

    def test_message_does_not_wait_for_another_connection(self, serve):
        """One connection that hangs gets one message, or two, and the other gets the rest."""
        others = threading.Event()
        coming = iter([others.wait])

        def script(step: str, argument: str):
            if step == BODY and (wait := next(coming, None)):
                wait(20)
            if len(server.accepted) == 7:
                others.set()

        server = serve(any_of(together(2), script), extensions=STEPWISE)
        assert host(server, 2).send_messages(messages(10)) == 10
        assert others.is_set()

    @pytest.mark.parametrize("number", [0, 1, 2, 3])
    def test_few_messages_need_few_connections(self, number: int, serve):
        server = serve(together(number) if number else None)
        assert host(server).send_messages(messages(number)) == number
        assert server.connections == number

    def test_one_message_needs_no_thread(self, serve, threads):
        assert host(serve()).send_messages([message()]) == 1
        assert threads == []

    def test_connection_is_opened_only_if_there_is_work(self, serve, monkeypatch):
        start = threading.Thread.start

        def start_and_wait(thread: threading.Thread):
            """Let it send everything before the next one starts."""
            start(thread)
            if is_of_a_call(thread):
                assert server.wait_for(10)

        monkeypatch.setattr(threading.Thread, "start", start_and_wait)
        server = serve()
        assert host(server).send_messages(messages(10)) == 10
        assert server.connections == 1

    def test_message_that_is_there_twice_is_sent_twice(self, serve):
        server = serve(together(2))
        one = message()
        assert host(server).send_messages([one, one]) == 2
        assert recipients(server) == {"a@example.net": 2}

    def test_messages_without_recipients_hold_nothing_up(self, serve):
        batch = messages(30)
        for one in batch[::2]:
            one.to = []
        assert host(serve(), 3).send_messages(batch) == 15

    def test_message_without_recipients_is_not_counted(self, serve):
        server = serve()
        nobody = EmailMessage("Subject", "Hello", "sender@example.com", [])
        assert host(server).send_messages([nobody, message(), nobody, nobody]) == 1
        assert host(server).send_messages([nobody] * 5) == 0
        assert len(server.accepted) == 1

    def test_tuple_is_a_list(self, serve):
        assert host(serve(together(3)), 3).send_messages(tuple(messages(3))) == 3

    def test_refused_recipients_of_all_connections_are_noted(self, serve):
        server = serve(any_of(to("no@", "550 no"), together(2)))
        batch = [message(cc=[f"no@{i}.example"]) for i in range(2)]
        connection = host(server)
        assert connection.send_messages(batch) == 2
        assert connection.refused_recipients.keys() == {"no@0.example", "no@1.example"}

    def test_context_of_the_tls_connection_goes_for_all(
        self, start_server, tls: ssl.SSLContext, cafile
    ):
        server = start_server(context=tls)
        connection = host(server, use_tls=True)
        connection.ssl_context = ssl.create_default_context(cafile=str(cafile))
        assert connection.send_messages(messages(12)) == 12
        assert {one.tls for one in server.received} == {True}

    def test_login_and_sender_go_for_all(self, start_server):
        server = start_server(login=("user", "secret"))
        options: dict[str, Any] = {"username": "user", "password": "secret"}
        connection = host(server, default_from_email="shop@example.com", **options)
        batch = [EmailMessage("Hello", "World", to=[f"{i}@example.net"]) for i in range(12)]
        assert connection.send_messages(batch) == 12
        assert {(one.user, one.sender) for one in server.received} == {
            ("user", "shop@example.com")
        }
        assert {one.from_email for one in batch} == {"project@example.com"}


class TestContext:
    """What a message sees while it is made."""

    @pytest.mark.parametrize(
        ("language", "zone"), [("de", "Asia/Tokyo"), ("en-us", None), (None, None)]
    )
    def test_is_that_of_the_caller(self, language: str | None, zone: str | None, serve):
        seen = []
        variable = ContextVar("variable", default="default")
        variable.set("of the caller")

        class Curious(EmailMessage):
            def message(self, **options: Any) -> Any:
                zone = str(timezone.get_current_timezone())
                seen.append((translation.get_language(), zone, variable.get()))
                return super().message(**options)

        batch = [Curious("", "", "s@example.com", ["a@example.net"]) for _ in range(2)]
        with translation.override(language), timezone.override(zone):
            host(serve(together(2))).send_messages(batch)
        assert seen == [(language, zone or settings.TIME_ZONE, "of the caller")] * 2

    def test_database_connections_of_the_threads_are_closed(self, serve, tmp_path):
        server = serve(together(2))
        shown = run_python("-c", DATABASE, str(server.port), str(tmp_path / "db"))
        assert shown.split() == ["2", "0"]


DATABASE = """
import sys, threading
import django
from django.conf import settings
settings.configure(DATABASES={
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[2]},
}, EMAIL_HOSTS={"news": f"smtp://127.0.0.1:{sys.argv[1]}?parallel=2"})
django.setup()
from django.core.mail import EmailMessage
from django.db import connection, connections
from email_hosts.backends import get_connection

used = {}

class FromTheDatabase(EmailMessage):
    def message(self, **options):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 'Subject'")
            [self.subject] = cursor.fetchone()
        used[threading.get_ident()] = connections["default"]
        return super().message(**options)

batch = [FromTheDatabase("", "", "a@example.com", [f"{i}@example.net"]) for i in range(4)]
assert get_connection("news").send_messages(batch) == 4
print(len(used), sum(each.connection is not None for each in used.values()))
"""


class TestError:
    """The first error ends it. It has lists of what was sent and what was not."""

    def send(self, connection: EmailHostsBackend, batch: Any) -> Any:
        """Return the error, whose lists are the caller's messages."""
        with pytest.raises(smtplib.SMTPException) as caught:
            connection.send_messages(batch)
        error: Any = caught.value
        lists = (error.sent, error.unsent)
        assert Counter(id(one) for each in lists for one in each) == Counter(map(id, batch))
        return error

    def test_stops_the_handing_out(self, serve):
        has_failed = threading.Event()

        def script(step: str, argument: str) -> str | None:
            if step == "MAIL" and "bad@" in argument:
                return "550 no"
            if step == "QUIT":
                has_failed.set()
            if step == BODY:  # what is under way ends after the error
                has_failed.wait(20)
            return None

        server = serve(any_of(together(2), script), extensions=STEPWISE)
        batch = messages(100)
        batch[0].from_email = batch[1].from_email = "bad@example.com"
        error = self.send(host(server, 2), [batch[0], *batch[2:]])
        assert type(error).__name__ == "SMTPSenderRefused"
        # One was under way, and another was ready when the error came.
        assert 1 <= len(error.sent) <= 2
        assert recipients(server) == of(error.sent)

    @pytest.mark.parametrize("extensions", [["PIPELINING"], STEPWISE])
    @pytest.mark.parametrize("fault", ["550 no", "421 bye", CLOSE])
    @pytest.mark.parametrize("step", ["MAIL", "RCPT", BODY])
    def test_what_the_server_has_is_in_sent(
        self, step: str, fault: str, extensions: list[str], serve
    ):
        server = serve(
            any_of(at(step, *[None] * 20, *[fault] * 500), together(4)), extensions=extensions
        )
        error = self.send(host(server), messages(100))
        assert recipients(server) == of(error.sent)
        assert len(error.sent) < 100

    def test_lists_keep_the_order(self, serve):
        server = serve(any_of(to("bad@", "550 no"), together(2)))
        bad = message("bad@example.net")
        batch = [*messages(10), bad, *messages(10)]
        error = self.send(host(server, 2), batch)
        assert bad in error.unsent
        order = {id(one): position for position, one in enumerate(batch)}
        for each in (error.sent, error.unsent):
            positions = [order[id(one)] for one in each]
            assert positions == sorted(positions)

    def test_message_that_is_there_twice_may_be_in_both(self, serve):
        one, bad = message(), message("bad@example.net")
        error = self.send(
            host(serve(to("bad@", "550 no"), extensions=STEPWISE), 2), [one, bad, one]
        )
        assert error.sent.count(one) + error.unsent.count(one) == 2
        assert error.unsent.count(bad) == 1

    @pytest.mark.parametrize("turn", range(2))
    def test_doubt_is_raised_before_certainty(self, turn: int, serve):
        """One message may have been delivered, and the other was certainly not."""
        script = any_of(
            together(2),
            lambda step, argument: "450 later" if "later@" in argument else None,
            at(BODY, TAKEN),
        )
        server = serve(script, extensions=STEPWISE)
        batch = messages(2)
        batch[turn].from_email = "later@example.com"
        error = self.send(host(server), batch)
        assert type(error).__name__ == "SMTPServerDisconnected"
        assert error.sent == []

    def test_single_message_tells_as_well(self, serve):
        bad = message()
        error = self.send(host(serve(at("RCPT", "550 no"))), [bad])
        assert (error.sent, error.unsent) == ([], [bad])

    def test_of_a_generator_ends_with_its_piece(self, serve):
        size = 2 * PIECE
        server = serve(any_of(to("bad@", "550 no"), together(2)))
        batch = [*messages(size), message("bad@example.net"), *messages(size)]
        coming = iter(batch)
        with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
            host(server, 2).send_messages(coming)
        assert size <= len(server.accepted) < 2 * size
        assert len(list(coming)) == 1  # nobody has asked for it
        assert not hasattr(caught.value, "sent")  # that is for lists

    @pytest.mark.parametrize("fail_silently", [False, True])
    def test_of_making_a_message_is_raised(self, fail_silently: bool, serve):
        server = serve()
        batch = messages(10)
        batch[3].subject = "a line\nbreak"
        with pytest.raises(ValueError, match=r"(?i)newline|linefeed") as caught:
            host(server, fail_silently=fail_silently).send_messages(batch)
        error: Any = caught.value
        assert batch[3] in error.unsent
        assert recipients(server) == of(error.sent)

    @pytest.mark.parametrize("number", [1, 10])
    @pytest.mark.parametrize("failure", [FileNotFoundError, TypeError])
    def test_of_a_message_of_any_class_is_raised(
        self, failure: type[Exception], number: int, serve
    ):
        class Bad(EmailMessage):
            def message(self, **options: Any) -> Any:
                raise failure("of this message")

        server = serve()
        batch = [*messages(number - 1), Bad("", "", "s@example.com", ["bad@example.net"])]
        with pytest.raises(failure, match="of this message") as caught:
            host(server).send_messages(batch)
        error: Any = caught.value
        assert batch[-1] in error.unsent
        assert recipients(server) == of(error.sent)

    def test_that_is_no_exception_is_not_lost_with_its_thread(self, serve):
        class Bad(EmailMessage):
            def message(self, **options: Any) -> Any:
                raise SystemExit("of this message")

        batch = [Bad("", "", "s@example.com", ["bad@example.net"]), *messages(3)]
        with pytest.raises(SystemExit, match="of this message") as caught:
            host(serve()).send_messages(batch)
        error: Any = caught.value
        assert batch[0] in error.unsent


class TestFailSilently:
    """All messages are tried, and the count is right."""

    @pytest.mark.parametrize("extensions", [["PIPELINING"], STEPWISE])
    @pytest.mark.parametrize("fault", ["550 no", "421 bye", CLOSE])
    def test_all_are_tried(self, fault: str, extensions: list[str], serve):
        """A connection that breaks does not swallow what others could send."""
        server = serve(any_of(to("bad@", fault), together(3)), extensions=extensions)
        good = messages(40)
        bad = [message(f"bad@{i}.example") for i in range(10)]
        batch = [one for five in zip(*[iter([*good, *bad])] * 5, strict=True) for one in five]
        assert host(server, 3, fail_silently=True).send_messages(batch[::-1]) == 40
        assert recipients(server) == of(good)

    def test_what_may_be_delivered_is_not_sent_again(self, serve):
        server = serve(any_of(at(BODY, TAKEN, None, TAKEN), together(2)))
        batch = messages(20)
        assert host(server, 2, fail_silently=True).send_messages(batch) == 18
        assert recipients(server) == of(batch)

    def test_connection_that_cannot_be_opened_again_keeps_no_message(self, serve):
        """It gives back those that it has taken."""
        banners = iter([None, None])
        bodies = iter([True])
        has_failed = threading.Event()

        def script(step: str, argument: str) -> str | None:
            if step == "banner" and (refusal := next(banners, "421 no")):
                has_failed.set()
                return refusal
            if step == "RCPT" and "bad@" in argument:
                return CLOSE
            if step == BODY and not next(bodies, False):
                has_failed.wait(20)
            return None

        server = serve(any_of(together(2), script))
        good = messages(20)
        batch = [*good[:2], message("bad@example.net"), *good[2:]]
        assert host(server, 2, fail_silently=True).send_messages(batch) == 20
        assert recipients(server) == of(good)

    def test_each_failure_is_logged(self, serve, caplog):
        server = serve(to("bad@", "550 no"))
        batch = [message(f"bad@{i}.example") for i in range(5)]
        connection = host(server, fail_silently=True)
        assert connection.send_messages(batch) == 0
        expected = f"127.0.0.1:{server.port}: SMTPRecipientsRefused, ignored by fail_silently"
        assert caplog.messages == [expected] * 5


class TestRefusedConnection:
    """A server that allows fewer connections costs no message."""

    @pytest.mark.parametrize(("number", "fail_silently"), [(1, False), (2, True), (3, False)])
    def test_others_do_its_work(self, number: int, fail_silently: bool, serve):
        server = serve(refused_connections(number, of=4))
        batch = messages(20)
        assert host(server, fail_silently=fail_silently).send_messages(batch) == 20
        assert recipients(server) == of(batch)

    def test_is_an_error_if_all_are_refused(self, serve):
        server = serve(refused_connections(4, of=4))
        batch = messages(20)
        with pytest.raises(smtplib.SMTPConnectError) as caught:
            host(server).send_messages(batch)
        error: Any = caught.value
        assert (error.sent, error.unsent) == ([], batch)
        assert server.connections == 4

        assert host(server, fail_silently=True).send_messages(batch) == 20

    def test_is_not_tried_again_if_all_are_refused(self, serve):
        server = serve(refused_connections(4, of=4))
        assert host(server, fail_silently=True).send_messages(messages(20)) == 0
        assert server.connections == 4

    def test_that_comes_late_is_no_error(self, serve):
        """The other connection has sent everything, and ended, before this one is refused."""
        others = threading.Event()
        coming = iter([True])

        def script(step: str, argument: str) -> str | None:
            if step == "banner" and next(coming, False):
                others.wait(20)
                return "421 too many connections"
            if step == "QUIT":
                others.set()
            return None

        server = serve(script)
        batch = messages(5)
        assert host(server, 2).send_messages(batch) == 5
        assert recipients(server) == of(batch)
        assert server.connections == 2

    def test_refused_login_is_an_error(self, serve):
        server = serve(at("AUTH", *["535 no"] * 10), extensions=["AUTH PLAIN"])
        with pytest.raises(smtplib.SMTPAuthenticationError):
            host(server, username="user", password="secret").send_messages(messages(4))
        assert server.accepted == []


class TestKeptConnections:
    def test_are_used_and_parked(self, serve):
        server = serve()
        server.script = together(4)
        for _ in range(3):
            host(server, conn_max_age=60).send_messages(messages(40))
            server.script = together(4, BODY) if server.connections == 4 else server.script
        assert (server.connections, parked()) == (4, 4)

    def test_that_died_cost_no_message(self, serve):
        server = serve(together(4))
        host(server, conn_max_age=60).send_messages(messages(8))
        server.disconnect()
        assert host(server, conn_max_age=60).send_messages(messages(8)) == 8
        assert len(server.accepted) == 16

    def test_are_no_more_than_conn_max_idle(self, serve):
        host(serve(together(4)), conn_max_age=60, conn_max_idle=2).send_messages(messages(8))
        assert parked() == 2

    def test_are_used_for_conn_max_messages(self, serve):
        server = serve(together(2))
        connection = host(server, 2, conn_max_age=60, conn_max_messages=1)
        assert connection.send_messages(messages(2)) == 2
        assert parked() == 0

    def test_connection_that_is_open_is_used_and_stays_open(self, serve):
        server = serve()
        with host(server, 2) as connection:
            server.script = together(2, BODY)
            assert connection.send_messages(messages(9)) == 9
            assert server.connections == 2
            assert connection.connection
            server.script = together(2, BODY)
            assert connection.send_messages(messages(9)) == 9
            assert server.connections == 3


class TestGenerator:
    """What is no list is taken in pieces of 25 messages for each connection."""

    def test_piece_is_sent_before_the_next_one_is_asked_for(self, serve):
        server = serve()
        accepted = []

        def generate() -> Iterator[EmailMessage]:
            for one in messages(120):
                accepted.append(len(server.accepted))
                yield one

        assert host(server, 2).send_messages(generate()) == 120
        assert accepted == [0] * 50 + [50] * 50 + [100] * 20

    @pytest.mark.slow
    def test_memory_stays_flat(self, serve):
        alive: weakref.WeakSet[EmailMessage] = weakref.WeakSet()
        most = 0

        def generate() -> Iterator[EmailMessage]:
            nonlocal most
            for number in range(500):
                if number % (2 * PIECE) == 0:
                    gc.collect()  # on Python 3.10, frames are in cycles of asgiref's errors
                one = message(f"{number}@example.net")
                alive.add(one)
                most = max(most, len(alive))
                yield one

        assert host(serve(), 2).send_messages(generate()) == 500
        assert most <= 2 * 2 * PIECE + 2

    def test_error_of_the_generator_is_raised(self, serve):
        def generate() -> Iterator[EmailMessage]:
            yield message()
            raise LookupError("of the generator")

        with pytest.raises(LookupError, match="of the generator"):
            host(serve()).send_messages(generate())


class TimeLimit(Exception):
    """What a task queue raises in the main thread, from a signal handler."""


class TestInterruption:
    """Nothing is sent after the call, whatever has ended it."""

    @pytest.fixture(params=[KeyboardInterrupt, TimeLimit, TimeoutError])
    def interrupt(self, request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
        """Raise an error in the main thread."""

        def handle(number: int, frame: object):
            raise request.param("time is over")

        before = signal.signal(signal.SIGUSR1, handle)
        main = threading.get_ident()
        yield lambda: signal.pthread_kill(main, signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, before)

    @pytest.mark.parametrize("python_raises", [KeyError, RuntimeError])
    def test_is_not_hidden_by_what_python_raises_then(self, python_raises, serve, monkeypatch):
        """In Python 3.10, a thread that was interrupted while it starts is lost to Python."""
        begin = threading.Thread.start

        def start(thread: threading.Thread) -> None:
            begin(thread)
            if threading.current_thread() is not threading.main_thread():
                return
            try:
                raise TimeLimit
            except TimeLimit:
                raise python_raises(thread)  # noqa: B904 (it is what Python does)

        server = serve()
        monkeypatch.setattr(threading.Thread, "start", start)
        with pytest.raises(TimeLimit) as caught:
            host(server, 3).send_messages(messages(30))
        error: Any = caught.value
        assert recipients(server) == of(error.sent)

    def test_ends_what_is_under_way_and_is_raised(self, interrupt, serve, threads):
        coming = iter([True])

        def script(step: str, argument: str):
            if step == BODY and next(coming, False):
                for _ in range(3):  # impatience changes nothing
                    interrupt()

        server = serve(any_of(together(3, BODY), script))
        batch = messages(200)
        with pytest.raises((KeyboardInterrupt, TimeLimit, TimeoutError)) as caught:
            host(server, 3).send_messages(batch)
        number = len(server.accepted)
        for thread in threads:
            thread.join(20)
        assert len(server.accepted) == number
        error: Any = caught.value
        assert 1 <= len(error.sent) < 200
        assert recipients(server) == of(error.sent)
        assert len(error.unsent) == 200 - len(error.sent)

    def test_in_a_single_message_sends_it_no_second_time(self, interrupt, serve):
        def script(step: str, argument: str):
            if step == BODY:
                interrupt()

        server = serve(script)
        with pytest.raises((KeyboardInterrupt, TimeLimit, TimeoutError, OSError)):
            host(server).send_messages([message()])
        assert server.connections == 1
        assert server.commands.count("DATA") == 1

    @pytest.mark.parametrize("script", [None, at("MAIL", *["550 no"] * 9)])
    def test_is_not_needed_for_the_threads_to_end(self, script, serve, threads):
        with suppress(smtplib.SMTPSenderRefused):
            host(serve(script)).send_messages(messages(100))
        assert threads
        assert not any(thread.is_alive() for thread in threads)

    def test_at_any_moment_sends_nothing_after_the_call(self):
        """In a process of its own: CPython tells of threads that were hit while they started.

        It waits at its end for all threads.
        """
        assert run_python("interrupted.py", "30", timeout=60).split()[-1] == "fine"


class TestThreads:
    @pytest.mark.parametrize("number", [0, 2])
    def test_that_cannot_be_started_leave_the_work_to_the_others(
        self, number: int, serve, threads, monkeypatch
    ):
        """At a limit of the system, or when Python ends."""
        start = threading.Thread.start

        def scarce(thread: threading.Thread):
            if is_of_a_call(thread) and len(threads) >= number:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", scarce)
        server = serve(together(max(number, 1)))
        batch = messages(100)
        assert host(server).send_messages(batch) == 100
        assert recipients(server) == of(batch)
        assert (server.connections, len(threads)) == (max(number, 1), number)

    def test_that_cannot_be_started_at_all_leave_the_work_to_the_caller(
        self, serve, monkeypatch
    ):
        start = threading.Thread.start

        def scarce(thread: threading.Thread):
            if threading.current_thread() is threading.main_thread():
                raise RuntimeError("can't start new thread")
            start(thread)

        server = serve()
        monkeypatch.setattr(threading.Thread, "start", scarce)
        assert host(server).send_messages(messages(100)) == 100
        assert server.connections == 1


def test_is_off_if_not_given(serve, threads):
    server = serve()
    assert EmailHostsBackend("127.0.0.1", server.port).send_messages(messages(9)) == 9
    assert (server.connections, threads) == (1, [])
    accepted = [recipient for one in server.accepted for recipient in one.recipients]
    assert accepted == [f"{i}@example.net" for i in range(9)]


class TestPlaces:
    """Where a host with this option may be named."""

    @pytest.mark.parametrize(
        "connect",
        [
            lambda dsn: get_connection("news"),
            lambda dsn: get_connection("plain", parallel=4),
            lambda dsn: connection_from_dsn(f"{dsn}?parallel=4"),
        ],
    )
    def test_dsn_or_call(self, connect: Any, serve):
        server = serve(together(4))
        dsn = f"smtp://127.0.0.1:{server.port}"
        with (
            real_hosts(),
            override_settings(EMAIL_HOSTS={"news": f"{dsn}?parallel=4", "plain": dsn}),
        ):
            assert connect(dsn).send_messages(messages(4)) == 4
        assert server.connections == 4

    @needs_mailers
    def test_mailer(self, serve) -> None:  # pragma: mailers-only
        server = serve(together(4))
        hosts = {"news": f"smtp://127.0.0.1:{server.port}?parallel=4"}
        with override_settings(MAILERS=mailers(hosts)):
            assert mail.mailers["news"].send_messages(messages(4)) == 4
        assert server.connections == 4

    def test_member_of_a_failover(self, serve, closed_port: int):
        server = serve()
        hosts = {
            "down": f"smtp://127.0.0.1:{closed_port}?parallel=4",
            "news": f"smtp://127.0.0.1:{server.port}?parallel=4",
            "safe": "failover:down,news",
        }
        batch = messages(6)
        with override_settings(EMAIL_HOSTS=hosts):
            assert get_connection("safe").send_messages(batch) == 6
        assert recipients(server) == of(batch)
        assert server.connections == 1  # each message is sent on its own

    def test_host_of_the_router(self, serve):
        server = serve(together(4, BODY))
        dsn = f"smtp://127.0.0.1:{server.port}?parallel=4"
        with override_settings(EMAIL_HOSTS={"default": dsn}):
            assert RoutingBackend().send_messages(messages(40)) == 40
        assert server.connections == 4

    def test_outbox_of_a_test(self):
        batch = messages(9)
        connection: Any = get_connection("shop", parallel=4)
        assert connection.send_messages(batch) == 9
        assert of(mail.outbox) == of(batch)
        assert (connection.parallel, connection.alias) == (4, "shop")
