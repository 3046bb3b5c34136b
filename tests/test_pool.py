"""Connections that are kept from one send to the next."""

import gc
import logging
import os
import smtplib
import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from conftest import interrupted_at_each_call, parked, run_python
from django.core.mail import EmailMessage
from django.core.signals import request_finished
from django.test import override_settings
from roundtrips import RoundTrips
from scripted import BODY, CLOSE, HANG, RESET, always, any_of, at, to

from email_hosts.backends import EmailHostsBackend, get_connection
from email_hosts.options import SMTP_OPTIONS
from email_hosts.smtp import pool as module
from email_hosts.smtp.connection import SMTP
from email_hosts.smtp.pool import Pool, PooledConnection, pool

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc"
)


def message(*recipients):
    return EmailMessage(
        "Hello", "World", "sender@example.com", recipients or ["a@example.net"]
    )


def host(server, **options):
    return EmailHostsBackend(
        "127.0.0.1", server.port, **{"conn_max_age": 60, "timeout": 5, **options}
    )


def send(server, **options):
    """Send one message through the host of this server, and close the connection."""
    return host(server, **options).send_messages([message()])


def park(server, number, **options):
    """Park so many connections, which were in use at the same time."""
    with ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(host(server, **options))


class TestUse:
    """A connection is used again, within its limits."""

    def test_is_switched_on_by_the_dsn(self, serve):
        server = serve()
        dsn = f"smtp://127.0.0.1:{server.port}?conn_max_age=2.5&conn_max_messages=3"
        with override_settings(EMAIL_HOSTS={"shop": dsn}):
            for _ in range(4):
                get_connection("shop").send_messages([message()])
        assert server.connections == 2

    def test_takes_two_round_trips(self, serve):
        server = serve()
        send(server)
        with RoundTrips() as trips:
            assert send(server) == 1
        assert (trips.count, server.connections, len(server.accepted)) == (2, 1, 2)

    def test_goes_through_tls_too(self, start_server, tls, cafile):
        server = start_server(context=tls)
        for _ in range(2):
            send(server, use_tls=True, ssl_cafile=str(cafile))
        assert (len(server.received), parked()) == (2, 1)

    def test_is_no_longer_than_its_age(self, serve, clock):
        server = serve()
        for seconds in (0, 59, 1, 30):
            clock.now += seconds
            send(server)
        assert server.connections == 2

    def test_is_for_no_more_than_its_messages(self, serve):
        server = serve()
        for _ in range(4):
            host(server, conn_max_messages=4).send_messages([message(), message()])
        assert server.connections == server.commands.count("QUIT") == 2

    def test_is_by_a_signal_handler_too_while_its_thread_uses_the_pool(self, serve):
        with pool._lock:
            assert send(serve()) == 1
        assert parked() == 1


class TestKey:
    """A connection is shared by hosts that would make the same one, and use it as long."""

    BASE = {
        "host": "smtp.example.com",
        "username": "me",
        "password": "secret",
        "conn_max_age": 60,
        "ssl_certfile": "a.pem",
    }
    OTHERS: dict[str, Any] = {
        "host": "other.example.com",
        "port": 2525,
        "username": "Kx7vQz9",
        "password": "Wj4bYt2",
        "use_tls": True,
        "use_ssl": True,
        "timeout": 2,
        "ssl_certfile": "b.pem",
        "ssl_keyfile": "b.pem",
        "ssl_cafile": "b.pem",
        "local_hostname": "me.example.com",
        "conn_max_age": 2,
        "conn_max_messages": 2,
    }
    # They do not matter to a connection.
    SAME: dict[str, Any] = {
        **dict.fromkeys(("conn_max_idle", "parallel"), 2),
        **dict.fromkeys(("default_from_email", "server_email", "reply_to"), "a@b.example"),
        **dict.fromkeys(("envelope_from", "redirect_to"), "a@b.example"),
        "allowed_recipients": "b.example",
        "headers": {"X-Shop": "news"},
        "rate": "1/s",
        "rate_by": "recipients",
        "alias": "other",
        "fail_silently": True,
    }

    def key(self, allow=None, ssl_context=None, **options):
        """Return what the pool is asked for."""
        backend = EmailHostsBackend(**{**self.BASE, **options})
        backend.allow = allow
        if ssl_context:
            backend.ssl_context = ssl_context
        with mock.patch.object(pool, "take") as take:
            backend.open()
        return take.call_args.args[0]

    def test_forgets_no_option(self):
        # test_oauth2.py has those that need each other.
        known = {name for name in SMTP_OPTIONS if not name.startswith("oauth2")}
        assert {*self.OTHERS, *self.SAME} == known | {"fail_silently", "alias"}

    @pytest.mark.parametrize("name", OTHERS)
    def test_is_another_for_another_option(self, name):
        other = self.key(**{name: self.OTHERS[name]})
        assert other != self.key()
        assert str(self.OTHERS[name]) not in repr(other)

    def test_is_another_for_another_rule_of_addresses(self):
        assert self.key(allow=lambda host, port: True) != self.key()

    def test_is_the_same_for_what_does_not_concern_a_connection(self):
        assert self.key(**self.SAME) == self.key()

    def test_is_of_the_context_that_a_connection_has_of_its_own(self):
        context = ssl.create_default_context()
        others = [self.key(), self.key(ssl_context=ssl.create_default_context())]
        assert self.key(ssl_context=context) == self.key(ssl_context=context)
        assert self.key(ssl_context=context) not in others


class TestParking:
    """A connection is parked if it is in step, and leaves when it is too old."""

    @pytest.mark.parametrize(
        ("script", "is_parked"),
        [
            (at("MAIL", "550 no"), True),
            (to("@", "550 no"), True),
            (at("DATA", "554 no"), True),
            (at(BODY, "451 later"), True),
            (at(BODY, CLOSE), False),
            (at(BODY, HANG), False),
            (always("MAIL", "421 later"), False),
            # The server has given up on this session.
            (at("MAIL", "451 later"), False),
            (to("@", "450 later"), False),
            (at("DATA", "451 later"), False),
            # Later commands would be answered with "503 send HELO first".
            (any_of(at("EHLO", "550 no"), at("HELO", "550 no")), False),
        ],
    )
    def test_follows_an_error_that_leaves_it_in_step(self, script, is_parked, serve):
        server = serve(script)
        with pytest.raises(smtplib.SMTPException):
            send(server, timeout=0.5)
        assert parked() == is_parked

    def test_follows_the_refusal_of_one_of_the_recipients(self, serve):
        server = serve(to("a@", "450 later"))
        assert host(server).send_messages([message("a@example.net", "b@example.net")]) == 1
        assert parked() == 1

    def test_follows_a_transaction_after_one_that_was_delayed(self, serve):
        server = serve(at("MAIL", "451 later"))
        backend = host(server, fail_silently=True)
        assert backend.send_messages([message(), message()]) == 1
        assert (server.connections, parked()) == (1, 1)

    def test_does_not_follow_a_line_that_nobody_asked_for(self, serve):
        assert send(serve(at(BODY, "250 accepted\r\n421 and that was it"))) == 1
        assert parked() == 0

    def test_does_not_follow_an_interruption(self, serve, monkeypatch):
        with host(serve()) as connection:
            interrupt = mock.Mock(side_effect=KeyboardInterrupt)
            monkeypatch.setattr(smtplib.SMTP, "getreply", interrupt)
            with pytest.raises(KeyboardInterrupt):
                connection.send_messages([message()])
            monkeypatch.undo()
        assert parked() == 0

    def test_ends_after_a_request_at_its_age(self, serve, clock):
        send(serve())
        counts = []
        for seconds in (59, 1):
            clock.now += seconds
            request_finished.send(sender=None)
            counts.append(parked())
        assert counts == [1, 0]

    def test_ends_at_its_age_when_another_host_sends(self, serve, clock):
        send(serve())
        clock.now += 60
        send(serve())
        assert parked() == 1

    def test_ends_with_the_process(self, serve):
        server = serve()
        run_python("-c", SENDS + "send(1)", str(server.port))
        server.wait_for_clients_to_go()
        assert server.commands[-1] == "QUIT"


# Python closes a socket that nobody has any more, with a warning.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_time_limit_at_any_call_leaves_a_pool_that_works(serve):
    server = serve()
    number = 0

    def fill() -> None:
        park(server, 2, conn_max_idle=1)

    times = interrupted_at_each_call(fill, module)
    for number, _ in enumerate(times):  # noqa: B007  # pragma: no cover
        assert [send(server), send(server)] == [1, 1]
    # On Python 3.10, coverage has lost track.
    assert number > 50  # pragma: no cover
    gc.collect()  # pragma: no cover (the connections that nobody has)


class TestNumber:
    """So many are parked: of one host ``conn_max_idle``, of all hosts together 100."""

    @pytest.mark.parametrize(
        ("options", "expected"),
        [({}, 10), ({"conn_max_idle": 32}, 32), ({"conn_max_idle": 1000}, 100)],
    )
    def test_of_one_host(self, options, expected, serve):
        server = serve()
        for _ in range(2):
            park(server, 105, **options)
            assert parked() == expected
        # Of a second burst, those alone connect that were not kept.
        assert server.connections == 105 + (105 - expected)

    def test_of_one_host_leaves_the_last(self, serve):
        server = serve()
        several = [host(server, conn_max_idle=2) for _ in range(3)]
        for one in several:
            one.open()
        last = [one.connection for one in several[1:]]
        for one in several:
            one.close()
        with host(server) as first, host(server) as second:
            assert [second.connection, first.connection] == last
        assert server.connections == 3

    def test_of_all_hosts_leaves_those_used_last(self, serve):
        server = serve()
        for number in [*range(100), 0, 100]:  # 0 is used again, and so 1 is the oldest
            send(server, local_hostname=f"host-{number}")
        assert (server.connections, parked()) == (101, 100)
        for number in (0, 2, 100, 1):
            send(server, local_hostname=f"host-{number}")
        assert server.connections == 102
        pool.forget()
        server.wait_for_clients_to_go()
        assert server.commands.count("QUIT") == 2  # one that leaves says goodbye


class Walked(dict[Any, Any]):
    """What is parked, which counts how often somebody walks over it."""

    walks = 0

    def __iter__(self):
        self.walks += 1
        return super().__iter__()


def test_pool_costs_the_same_with_one_host_and_with_many(clock):
    """It walks over nothing while nothing is due, and then once."""
    many = Pool()
    many.clock = clock

    def add(name, seconds):
        many.park(PooledConnection(SMTP(), "h:25", name, clock.now + seconds), max_idle=10)

    for number in range(99):
        add(number, 60 + number)
    many._parked = Walked(many._parked)
    add("mine", 60)
    for action in (lambda: many.take("mine"), lambda: many.take("nobody's")):
        action()
        many.close_expired()
    assert many._parked.walks == 0
    clock.now += 60
    for _ in range(5):
        many.close_expired()
    assert parked(many) == 98
    assert many._parked.walks == 2  # to find what is due, and when the next one is
    add("soon", 0.5)
    for seconds, expected in [(0.5, 98), (0.5, 97), (1, 96)]:
        clock.now += seconds
        many.close_expired()
        assert parked(many) == expected


class TestDeath:
    """A connection that dies while it is parked costs a reconnect, and never a message."""

    BATCH = ("b@example.net", "c@example.net")

    @pytest.mark.parametrize("number", [1, 2])
    @pytest.mark.parametrize("is_said", [True, False])
    def test_while_parked_costs_a_connection(self, is_said, number, serve):
        server = serve()
        send(server)
        if is_said:
            server.say(b"421 too long idle\r\n")
        else:
            server.disconnect()
        assert host(server).send_messages(map(message, self.BATCH[:number])) == number
        assert [one.recipients[0] for one in server.accepted[1:]] == [*self.BATCH[:number]]

    @pytest.mark.parametrize(
        "fault", [CLOSE, RESET, HANG, "421 too many", "221 Idle timeout", "451 too many"]
    )
    @pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
    @pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelining", "single"])
    def test_before_the_body_costs_a_connection(self, fault, step, extensions, serve):
        server = serve(at(step, None, fault), extensions=extensions)
        options = {"timeout": 0.3 if fault == HANG else 20}
        send(server, **options)
        assert host(server, **options).send_messages([*map(message, self.BATCH)]) == 2
        assert [one.recipients[0] for one in server.accepted[1:]] == [*self.BATCH]
        assert server.connections == 2

    @pytest.mark.parametrize(
        "reply",
        [
            "503 5.5.1 EHLO first",
            "530 5.7.0 log in",
            "550 timed out",
            "554 too many in session",
        ],
    )
    @pytest.mark.parametrize(
        "extensions", [["PIPELINING"], []], ids=["pipelining", "stepwise"]
    )
    def test_that_a_refusal_of_the_sender_tells_costs_a_connection(
        self, reply, extensions, serve
    ):
        """A session may forget its greeting or login, or have had enough."""
        server = serve(at("MAIL", None, reply), extensions=extensions)
        for _ in range(2):
            send(server)
        assert (len(server.accepted), server.connections, parked()) == (2, 2, 1)

    def test_that_is_none_costs_a_connection_once(self, serve):
        server = serve(at("MAIL", None, "550 no", "550 no"))
        send(server)
        with pytest.raises(smtplib.SMTPSenderRefused):
            send(server)
        assert (server.connections, parked()) == (2, 1)

    def test_at_the_second_message_costs_a_connection_too(self, serve):
        server = serve(at("MAIL", None, None, CLOSE))
        send(server)
        assert host(server).send_messages([message(), message()]) == 2
        assert len(server.accepted) == 3

    def test_of_the_next_connections_is_an_error(self, serve):
        """The next one writes a group, too. So one command at a time gets a chance."""
        server = serve(at("MAIL", None, *9 * [CLOSE]))
        send(server)
        with pytest.raises(smtplib.SMTPServerDisconnected):
            send(server)
        assert server.connections == 3

    @pytest.mark.parametrize("fault", [CLOSE, RESET, HANG])
    def test_after_the_body_is_an_error(self, fault, serve):
        server = serve(at(BODY, None, fault))
        options = {"timeout": 0.3 if fault == HANG else 20}
        send(server, **options)
        with pytest.raises(smtplib.SMTPServerDisconnected):
            send(server, **options)
        assert server.connections == 1

    def test_with_the_server_is_an_error(self, serve):
        server = serve(at("MAIL", None, CLOSE))
        connection = host(server)
        connection.send_messages([message()])
        server.stop_listening()
        with pytest.raises(ConnectionRefusedError):
            connection.send_messages([message()])
        assert connection.connection is None


def change_an_option(server, clock):
    with host(server) as connection:
        connection.timeout = 6


def replace_a_method(server, clock):
    with host(server) as connection:
        connection.connection.quit = connection.connection.close


def fork_in_c(server, clock):
    """Let the parked connection be of another process, which Python did not fork."""
    with mock.patch("os.getpid", return_value=-1), host(server):
        pass


class TestLog:
    """Debug records and ``repr`` tell of each connection, and nothing of its login."""

    @pytest.fixture(autouse=True)
    def debug(self, caplog):
        caplog.set_level(logging.DEBUG, "email_hosts")

    def test_tells_when_it_is_opened_parked_and_taken(self, serve, caplog):
        server = serve(at("AUTH", "235 welcome"), extensions=["AUTH PLAIN"])
        for _ in range(2):
            send(server, username="Kx7vQz9", password="Wj4bYt2")
        # Not caplog.messages: they are made of the arguments as these are now.
        lines = caplog.text.splitlines()
        told = [line.partition(f"127.0.0.1:{server.port}, ")[2] for line in lines]
        assert told == [
            "open, 0 messages>: opened",
            "open, 1 messages>: parked",
            "open, 1 messages>: taken from the pool",
            "open, 2 messages>: parked",
        ]
        assert repr(pool) == "<Pool: 1 parked for 1 hosts>"
        assert "Kx7vQz9" not in caplog.text
        assert "Wj4bYt2" not in caplog.text

    @pytest.mark.parametrize(
        ("end", "reason"),
        [
            (
                lambda server, clock: send(server, conn_max_age=None),
                "the host has no conn_max_age",
            ),
            (
                lambda server, clock: send(server, conn_max_messages=1),
                "conn_max_messages is reached",
            ),
            (change_an_option, "an option has changed, or it was set from outside"),
            (replace_a_method, "its class has methods of its own"),
            (fork_in_c, "it belongs to another process"),
            (lambda server, clock: server.disconnect(), "the server has ended it"),
            (lambda server, clock: send(server), "it takes no more messages"),
            (lambda server, clock: setattr(clock, "now", 9999), "conn_max_age is over"),
            (lambda server, clock: pool.close_all(), "the process ends"),
            (lambda server, clock: park(server, 2, conn_max_idle=1), "enough others are"),
        ],
    )
    def test_tells_why_it_is_discarded(self, end, reason, serve, clock, caplog):
        server = serve(at("MAIL", None, None, CLOSE))
        send(server)
        end(server, clock)
        send(server)
        assert f"messages>: discarded, {reason}" in caplog.text


SENDS = """
import gc, os, sys
from threading import Thread
import django
from django.core.mail import EmailMessage
from email_hosts.backends import EmailHostsBackend
from email_hosts.smtp.pool import pool
django.setup()

def send(times, name="me"):
    options = {"conn_max_age": 60, "timeout": 60, "local_hostname": name}
    for number in range(times):
        host = EmailHostsBackend("127.0.0.1", int(sys.argv[1]), **options)
        message = EmailMessage("Subject", "Hello", "a@example.com", [f"{number}@example.net"])
        assert host.send_messages([message]) == 1

def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
"""


@needs_proc
def test_hundred_descriptors_are_left_of_many_hosts_and_threads(serve):
    server = serve()
    shown = run_python("-c", SENDS + FROM_THREADS, str(server.port))
    before, after, at_the_end = map(int, shown.split())
    assert (after - before, at_the_end - before) == (100, 0)
    assert len(server.accepted) == 300


FROM_THREADS = """
print(descriptors())
threads = [Thread(target=send, args=[2, f"host-{i}"]) for i in range(150)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(descriptors())
pool.close_all()
print(descriptors())
"""


@needs_fork
class TestFork:
    """The parent's connections are the parent's alone."""

    @pytest.mark.parametrize(
        ("use", "query", "by_child", "connections"),
        [
            ("send", "", 2, 3),
            ("open", "conn_max_age=60", 2, 2),
            ("parked", "conn_max_age=60", 2, 2),
            ("close", "", 0, 1),
        ],
    )
    def test_leaves_a_connection_to_the_parent(
        self, use, query, by_child, connections, start_server, tls, cafile
    ):
        server = start_server(context=tls)
        dsn = f"submission://127.0.0.1:{server.port}?{query}"
        run_python("-c", FORKS, dsn, str(cafile), use)
        subjects = [mail.message["Subject"] for mail in server.received]
        assert sorted(subjects) == ["child"] * by_child + ["parent"] * 3
        assert len(server.sessions) == connections + 1  # aiosmtpd makes one of its own

    def test_frees_a_lock_that_a_thread_of_the_parent_holds(self):
        run_python("-W", "ignore", "-c", FORKS_WITH_A_LOCK)

    @pytest.mark.parametrize("is_taken", [True, False])
    def test_that_python_does_not_know_of_says_nothing_either(
        self, is_taken, serve, monkeypatch
    ):
        """What uWSGI does. One connection is parked, and one is open."""
        server = serve()
        with host(server, conn_max_age=None), host(server) as backend:
            backend.send_messages([message()])
            connection = backend.connection
            backend.close()
            monkeypatch.setattr(os, "getpid", lambda: -1)
            if is_taken:
                send(server)
            else:
                pool.close_all()
        assert connection.sock is None
        assert server.connections == 2 + is_taken
        assert "QUIT" not in server.commands


FORKS = """
import os, sys
import django
from django.core.mail import EmailMessage
from email_hosts.backends import connection_from_dsn
from email_hosts.smtp.pool import pool
django.setup()

def send(name):
    message = EmailMessage(name, "Hello", "a@example.com", ["b@example.net"])
    return connection.send_messages([message])

connection = connection_from_dsn(sys.argv[1], ssl_cafile=sys.argv[2])
if sys.argv[3] != "parked": connection.open()
send("parent")
child = os.fork()
if not child:
    status = 1
    try:
        assert "<Pool: 0 parked" in repr(pool)
        if sys.argv[3] == "open": assert connection.open() is True
        if sys.argv[3] != "close": send("child"), send("child")
        connection.close()
        status = 0
    finally:
        os._exit(status)
assert os.waitpid(child, 0)[1] == 0
send("parent"), send("parent")
connection.close()
"""

FORKS_WITH_A_LOCK = """
import os, signal, threading
from email_hosts.smtp.pool import pool

is_held, end = threading.Event(), threading.Event()

def hold():
    with pool._lock:
        is_held.set()
        end.wait()

threading.Thread(target=hold).start()
is_held.wait()
child = os.fork()
if not child:
    signal.alarm(20)  # ends it if it waits for the lock
    pool.take("smtp.example.com")
    os._exit(0)
end.set()
assert os.waitpid(child, 0)[1] == 0
"""
