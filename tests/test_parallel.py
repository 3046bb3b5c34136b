"""A list of messages over several connections of one host at the same time."""

from __future__ import annotations

import queue
import signal
import smtplib
import threading
from collections import Counter
from contextvars import ContextVar
from functools import partial
from typing import Any
from unittest import mock

import pytest
from conftest import SoftTimeLimitExceeded, TimeLimit, host_of, interrupted_calls, mails, told
from django.db.utils import ConnectionHandler
from django.utils import timezone, translation
from scripted import BODY, CLOSE, TAKEN, always, any_of, at, to

from email_hosts.backends import EmailHostsBackend, can_be_retried, parallel
from email_hosts.backends.parallel import PIECE
from email_hosts.delivery import Report
from email_hosts.retry import NOT_SENT, set_delivery

STEPWISE = ["SIZE 10000000"]  # so nothing is written ahead, and no session ends for it
either_way = pytest.mark.parametrize("extensions", [["PIPELINING"], STEPWISE])


def messages(number):
    return mails(*map(str, range(number)))


host = partial(host_of, parallel=4)


def together(number, step="EHLO", refused: int = 0):
    """A server that answers when so many have come to a step. It refuses some of them."""
    barrier = threading.Barrier(number, timeout=20)
    coming = iter(range(number))

    def script(name, argument):
        if name == step and (position := next(coming, None)) is not None:
            barrier.wait()
            return "421 too many connections" if position >= number - refused else None
        return None

    return script


def waits(step, other):
    """A server that does not answer a step until another one has come."""
    has_come = threading.Event()

    def script(name, argument):
        if name == other:
            has_come.set()
        if name == step:
            has_come.wait(20)

    return script


def recipients(server):
    return Counter(recipient for one in server.accepted for recipient in one.recipients)


def of(batch: list[Any]):
    return Counter(recipient for one in batch for recipient in one.to)


def asked(batch, function):
    """Let these messages call a function while they are made."""

    def call(**options):
        function()
        return mock.DEFAULT

    for one in batch:
        one.message = mock.Mock(wraps=one.message, side_effect=call)
    return batch


def error_of(connection: EmailHostsBackend, batch: Any, kind: Any = smtplib.SMTPException):
    """Return the error of a send, whose lists are the caller's messages in their order."""
    with pytest.raises(kind) as caught:
        connection.send_messages(batch)
    error: Any = caught.value
    sent = {id(one) for one in error.sent}
    assert error.sent == [one for one in batch if id(one) in sent]
    assert error.unsent == [one for one in batch if id(one) not in sent]
    return error


class TestSpread:
    """Each connection takes the next message when it is free."""

    @pytest.mark.parametrize(
        ("parallel", "number", "connections"),
        [(2, 6, 2), (10, 30, 10), (4, 0, 0), (4, 1, 1), (4, 3, 3)],
    )
    @either_way
    def test_has_so_many_connections(self, extensions, parallel, number, connections, serve):
        """In threads, if there are several."""
        threads = set()
        server = serve(together(connections) if connections else None, extensions=extensions)
        batch = asked(messages(number), lambda: threads.add(threading.current_thread()))
        assert host(server, parallel=parallel).send_messages(tuple(batch)) == number
        assert server.connections == connections
        assert recipients(server) == of(batch)
        assert (threading.current_thread() in threads) == (connections == 1)

    def test_connection_that_is_open_stays_open(self, serve):
        with host(serve(), parallel=2) as connection:
            assert connection.send_messages(messages(9)) == 9
            assert connection.connection

    @pytest.mark.parametrize("names", ["0 " * 9, "+ 0 " * 50, "+ 1 + +", "+ + + + +"])
    def test_is_of_what_has_recipients_however_often_it_is_there(self, names, serve):
        server = serve()
        batch = mails(*names.split())
        assert host(server, parallel=3).send_messages(batch) == of(batch).total()
        assert recipients(server) == of(batch)

    def test_message_is_made_in_the_context_of_the_caller(self, serve):
        seen = []
        variable = ContextVar("variable", default="default")
        variable.set("of the caller")

        def look():
            zone = str(timezone.get_current_timezone())
            seen.append((translation.get_language(), zone, variable.get()))

        with translation.override("de"), timezone.override("Asia/Tokyo"):
            host(serve(together(2))).send_messages(asked(messages(2), look))
        assert seen == [("de", "Asia/Tokyo", "of the caller")] * 2

    def test_closes_its_own_databases(self, serve, tmp_path, monkeypatch, django_db_blocker):
        sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db")}
        databases = ConnectionHandler({"default": sqlite})
        monkeypatch.setattr(parallel, "connections", databases)
        used = []

        def query():
            databases["default"].ensure_connection()
            used.append(databases["default"])

        with django_db_blocker.unblock():
            host(serve(together(2))).send_messages(asked(messages(2), query))
        assert [each.connection for each in used] == [None, None]


class TestError:
    """The first error ends it. It has lists of what was sent and what was not."""

    def test_stops_the_handing_out(self, serve):
        # What is under way ends after the error.
        script = any_of(to("bad", "550 no"), together(2), waits(BODY, "QUIT"))
        server = serve(script, extensions=STEPWISE)
        error = error_of(host(server, parallel=2), [*mails("bad"), *messages(98)])
        # One was under way, and another was ready when the error came.
        assert 1 <= len(error.sent) <= 2
        assert recipients(server) == of(error.sent)

    @either_way
    @pytest.mark.parametrize("fault", ["550 no", "421 bye", CLOSE])
    @pytest.mark.parametrize("step", ["MAIL", "RCPT", BODY])
    def test_what_the_server_has_is_in_sent(self, step, fault, extensions, serve):
        script = any_of(at(step, *[None] * 20, *[fault] * 500), together(4))
        server = serve(script, extensions=extensions)
        error = error_of(host(server), messages(100))
        assert recipients(server) == of(error.sent)
        assert len(error.sent) < 100

    @pytest.mark.parametrize("names", ["later a", "a later"])
    def test_doubt_is_raised_before_certainty(self, names, serve):
        """One message may have been delivered, and the other was certainly not."""
        refused, taken = to("later@", "450 later"), always(BODY, TAKEN)
        server = serve(any_of(together(2), refused, waits(BODY, "QUIT"), taken))
        error = error_of(host(server), mails(*names.split()), smtplib.SMTPServerDisconnected)
        assert error.sent == []
        assert [one.subject for one in error.failed] == ["a"]  # which must not be sent again

    @pytest.mark.parametrize("number", [0, 9])
    @pytest.mark.parametrize(
        ("kind", "fail_silently"), [(OSError, False), (TypeError, True), (SystemExit, True)]
    )
    def test_of_making_a_message_is_raised(self, kind, fail_silently, number, serve):
        """With one message, too."""
        server = serve()
        batch = messages(number + 1)
        batch[-1].message = mock.Mock(side_effect=kind)
        error = error_of(host(server, fail_silently=fail_silently), batch, kind)
        assert batch[-1] in error.unsent
        if kind is not SystemExit:  # which interrupts, so that one may have been delivered
            assert recipients(server) == of(error.sent)


class TestGenerator:
    """What is no list is taken in pieces of 25 messages for each connection."""

    @pytest.mark.parametrize(
        ("error", "number"), [(LookupError, 160), (SoftTimeLimitExceeded, 150)]
    )
    def test_piece_is_sent_before_the_next_one_is_asked_for(self, error, number, serve):
        """So is what comes before an error, but not before a time limit."""
        server = serve()
        accepted: list[int] = []

        def generate():
            for one in messages(160):
                accepted.append(len(server.accepted))
                yield one
            raise error

        with pytest.raises(error):
            host(server, parallel=2).send_messages(generate())
        assert accepted == [count // 50 * 50 for count in range(160)]
        assert len(server.accepted) == number

    def test_error_ends_it_with_its_piece(self, serve):
        size = 2 * PIECE
        server = serve(any_of(to("bad@", "550 no"), together(2)))
        coming = iter([*messages(size), *mails("bad"), *messages(size)])
        with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
            host(server, parallel=2).send_messages(coming)
        assert size <= len(server.accepted) < 2 * size
        assert len(list(coming)) == 1  # nobody has asked for it
        assert not hasattr(caught.value, "sent")  # that is for lists


class TestFailSilently:
    """All messages are tried, and the count is right."""

    @either_way
    @pytest.mark.parametrize("fault", ["550 no", "421 bye", CLOSE])
    def test_all_are_tried(self, fault, extensions, serve):
        """A connection that breaks does not swallow what others could send."""
        server = serve(any_of(to("bad", fault), together(3)), extensions=extensions)
        names = [f"bad{number}" if number % 5 == 0 else str(number) for number in range(50)]
        assert host(server, parallel=3, fail_silently=True).send_messages(mails(*names)) == 40
        good = [name for name in names if not name.startswith("bad")]
        assert recipients(server) == of(mails(*good))

    def test_connection_that_cannot_be_opened_again_keeps_no_message(self, serve):
        """It gives back those that it has taken."""
        first_bodies = iter([True])

        def script(step, argument):
            if step == "banner" and server.connections > 2:
                has_failed.set()
                return "421 no"
            if step == BODY and not next(first_bodies, False):
                has_failed.wait(20)
            return None

        has_failed = threading.Event()
        server = serve(any_of(together(2), to("bad@", CLOSE), script))
        batch = mails("0", "1", "bad", *map(str, range(2, 20)))
        assert host(server, parallel=2, fail_silently=True).send_messages(batch) == 20
        assert recipients(server) == of(messages(20))

    def test_all_are_told_if_none_can_be_opened_again(self, serve):
        """Of a generator, too."""
        opened = at("banner", None, None, *["421 no"] * 2, None, *["421 no"] * 9)
        server = serve(any_of(opened, always(BODY, CLOSE)))
        with told() as heard:
            host(server, parallel=2, fail_silently=True).send_messages(iter(messages(9)))
        assert len(heard) == 9


class TestRefusedConnection:
    """A server that allows fewer connections costs no message."""

    @pytest.mark.parametrize("number", [1, 2, 3])
    @pytest.mark.parametrize("fail_silently", [True, False])
    def test_others_do_its_work(self, fail_silently, number, serve):
        server = serve(together(4, "banner", refused=number))
        batch = messages(20)
        assert host(server, fail_silently=fail_silently).send_messages(batch) == 20
        assert recipients(server) == of(batch)

    def test_is_an_error_once_if_all_are_refused(self, serve):
        server = serve(always("banner", "421 no"))
        batch = messages(20)
        batch[0].to = []
        assert error_of(host(server), batch).unsent == batch
        assert host(server, fail_silently=True).send_messages(batch) == 0
        assert server.connections <= 8


class TestInterruption:
    """Nothing is sent after the call, whatever has ended it."""

    @pytest.mark.parametrize("python_raises", [KeyError, RuntimeError])
    def test_is_not_hidden_by_what_python_raises_then(self, python_raises, serve, monkeypatch):
        """In Python 3.10, a thread that was interrupted while it starts is lost to Python."""
        begin = threading.Thread.start

        def start(thread):
            begin(thread)
            if threading.current_thread() is threading.main_thread():
                hiding = python_raises(thread)
                hiding.__context__ = TimeLimit()
                raise hiding

        server = serve()
        monkeypatch.setattr(threading.Thread, "start", start)
        error = error_of(host(server, parallel=3), messages(30), TimeLimit)
        assert recipients(server) == of(error.sent)

    def test_while_outcomes_are_taken_in_loses_none(self, serve, monkeypatch):
        server, take_in = serve(), Report.add
        stop = TimeLimit()
        set_delivery(stop, NOT_SENT)  # as it is where threads have to end
        calls = mock.Mock(side_effect=[None, None, stop, *[None] * 99])
        monkeypatch.setattr(Report, "add", lambda *args: (calls(), take_in(*args)))
        error = error_of(host(server), messages(20), TimeLimit)
        assert recipients(server) == of(error.sent)
        assert error.unsent == []
        assert not can_be_retried(error)

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, TimeoutError])
    def test_ends_what_is_under_way_and_is_raised(self, kind, serve):
        main = threading.get_ident()
        coming = iter([True])

        def script(step, argument):
            if step == BODY and next(coming, False):
                for _ in range(3):  # impatience changes nothing
                    signal.pthread_kill(main, signal.SIGUSR1)

        server = serve(any_of(together(3, BODY), script))
        before = signal.signal(signal.SIGUSR1, mock.Mock(side_effect=kind))
        try:
            error = error_of(host(server, parallel=3), messages(200), kind)
        finally:
            signal.signal(signal.SIGUSR1, before)
        number = len(server.accepted)
        server.wait_for_clients_to_go()
        assert 1 <= number == len(server.accepted) < 200
        assert recipients(server) == of(error.sent)
        assert error.failed == []  # nothing is in doubt

    # CPython tells of a thread that was hit while it started.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    @pytest.mark.usefixtures("limit")
    def test_at_any_call_is_raised(self, serve):  # pragma: no cover (it confuses coverage)
        """Also while a thread starts."""
        server = serve()
        connection, batch = host(server, parallel=3), messages(6)
        raised: list[Any] = []

        def send() -> None:
            try:
                connection.send_messages(batch)
            except TimeLimit as error:
                raised.append(error)
            finally:
                server.accepted_in_time = [*server.accepted]

        for _ in interrupted_calls(send, parallel, threading, queue):
            server.wait_for_clients_to_go()
            assert server.accepted == server.accepted_in_time
            if raised:
                assert of(raised[-1].sent) <= recipients(server)
            server.accepted.clear()
        assert len(raised) > 50


@pytest.mark.parametrize("number", [0, 1, 3])
def test_threads_that_cannot_be_started_leave_the_work_to_others(number, serve, monkeypatch):
    """At a limit of the system, or when Python ends. The first one starts the others."""
    start = threading.Thread.start
    left = iter([True] * number)

    def scarce(thread):
        if not ("(_serve)" in thread.name or next(left, False)):
            raise RuntimeError("can't start new thread")
        start(thread)

    connections = max(number - 1, 1)
    server = serve(together(connections))
    monkeypatch.setattr(threading.Thread, "start", scarce)
    assert host(server).send_messages(messages(100)) == 100
    assert recipients(server) == of(messages(100))
    assert server.connections == connections
