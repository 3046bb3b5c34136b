"""Connections that are kept from one send to the next."""

import logging
import os
import smtplib
import ssl
from concurrent.futures import ThreadPoolExecutor
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
from email_hosts.options import HOST_OPTIONS, SMTP_OPTIONS
from email_hosts.smtp import pool as module
from email_hosts.smtp.pool import pool

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


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


class TestUse:
    """A connection is used again, within its limits."""

    def test_is_switched_on_by_the_dsn(self, serve):
        server = serve()
        dsn = f"smtp://127.0.0.1:{server.port}?conn_max_age=2.5&conn_max_messages=3"
        with override_settings(EMAIL_HOSTS={"shop": dsn}):
            for _ in range(4):
                get_connection("shop").send_messages([message()])
        assert server.connections == 2

    def test_is_off_by_default(self, serve):
        server = serve()
        for _ in range(2):
            send(server, conn_max_age=None)
        assert (server.connections, parked()) == (2, 0)

    def test_goes_on_from_send_to_send(self, serve):
        server = serve()
        assert [send(server) for _ in range(5)] == [1] * 5
        assert (server.connections, len(server.accepted), parked()) == (1, 5, 1)

    def test_takes_two_round_trips(self, serve):
        server = serve()
        send(server)
        with RoundTrips() as trips:
            send(server)
        assert trips.count == 2

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

    def test_is_by_one_at_a_time(self, serve):
        server = serve()
        with host(server):
            pass
        with host(server) as first, host(server) as second:
            assert first.connection is not second.connection
        assert server.connections == 2

    def test_is_by_all_threads(self, serve):
        server = serve()

        def work(number):
            connection = host(server, timeout=30, conn_max_messages=400)
            return connection.send_messages([message(f"{number}@example.net")])

        with ThreadPoolExecutor(10) as threads:
            assert sum(threads.map(work, range(400))) == 400
        assert len({one.recipients for one in server.accepted}) == 400
        assert server.connections == parked() <= 10

    def test_is_by_a_signal_handler_too_while_its_thread_uses_the_pool(self, serve):
        with pool._lock:
            assert send(serve()) == 1
        assert parked() == 1


class TestKey:
    """A connection is shared by hosts that would make the same one, and use it as long."""

    OPTIONS = (
        "host port username password use_tls use_ssl timeout ssl_keyfile ssl_certfile "
        "ssl_cafile local_hostname conn_max_age conn_max_messages allow"
    ).split()
    NUMBERS = ("conn_max_age", "conn_max_messages", "conn_max_idle", "parallel")
    OTHERS = ("conn_max_idle", "parallel", "fail_silently", "alias", *HOST_OPTIONS)

    def key(self, other=None, ssl_context=None):
        """Return what the pool is asked for. One option may have another value."""
        options: dict[str, Any] = {"host": "smtp.example.com", "conn_max_age": 60}
        options["ssl_certfile"] = "needed for a key"
        if other:
            values = {
                **dict.fromkeys(HOST_OPTIONS, "a@example.com"),
                "headers": {"X-Shop": "news"},
                "rate": "1/s",
                "rate_by": "recipients",
                **dict.fromkeys(("use_tls", "use_ssl"), True),
                **dict.fromkeys(("timeout", *self.NUMBERS), 2),
                **dict.fromkeys(("host", "local_hostname"), "other.example.com"),
                "port": 2525,
                "allow": lambda host, port: True,
            }
            options |= {"redirect_to": "a@example.com"} if "allowed" in other else {}
            options |= {"rate": "1/s"} if other == "rate_by" else {}
            options[other] = values.get(other, f"other {other}")
        allow = options.pop("allow", None)
        backend = EmailHostsBackend(**options)
        backend.allow = allow
        if ssl_context:
            backend.ssl_context = ssl_context
        with mock.patch.object(pool, "take") as take:
            backend.open()
        return take.call_args.args[0]

    def test_forgets_no_option(self):
        # test_oauth2.py has those that need each other.
        known = {name for name in SMTP_OPTIONS if not name.startswith("oauth2")}
        of_a_call = {"fail_silently", "alias", "allow"}
        assert {*self.OPTIONS, *self.OTHERS} == known | of_a_call

    @pytest.mark.parametrize("name", OPTIONS)
    def test_is_another_for_another_option(self, name):
        assert self.key(name) != self.key()

    @pytest.mark.parametrize("name", OTHERS)
    def test_is_the_same_for_what_does_not_concern_a_connection(self, name):
        assert self.key(name) == self.key()

    def test_is_of_the_context_that_a_connection_has_of_its_own(self):
        context = ssl.create_default_context()
        others = [self.key(), self.key(ssl_context=ssl.create_default_context())]
        assert self.key(ssl_context=context) == self.key(ssl_context=context)
        assert self.key(ssl_context=context) not in others

    @pytest.mark.parametrize("name", ["username", "password"])
    def test_does_not_show_the_login(self, name):
        assert "other" not in repr(self.key(name))


class TestParking:
    """A connection is parked if it is in step, and leaves when it is too old."""

    @pytest.mark.parametrize(
        "script",
        [at("MAIL", "550 no"), to("@", "550 no"), at("DATA", "554 no"), at(BODY, "451 later")],
    )
    def test_follows_an_answer(self, script, serve):
        server = serve(script)
        with pytest.raises(smtplib.SMTPException):
            send(server)
        assert (server.connections, parked()) == (1, 1)

    def test_follows_the_refusal_of_one_of_the_recipients(self, serve):
        server = serve(to("a@", "450 later"))
        assert host(server).send_messages([message("a@example.net", "b@example.net")]) == 1
        assert parked() == 1

    @pytest.mark.parametrize(
        "script",
        [
            *[at(BODY, CLOSE), at(BODY, HANG), always("MAIL", "421 later")],
            # The server has given up on this session.
            *[at("MAIL", "451 later"), to("@", "450 later"), at("DATA", "451 later")],
        ],
    )
    def test_does_not_follow_another_error(self, script, serve):
        with pytest.raises(smtplib.SMTPException):
            send(serve(script), timeout=0.5)
        assert parked() == 0

    @pytest.mark.parametrize("login", [{}, {"username": "u", "password": "p"}])
    def test_does_not_follow_a_refused_greeting(self, login, serve):
        """Later commands would be answered with "503 send HELO first"."""
        server = serve(any_of(at("EHLO", "550 no"), at("HELO", "550 no")))
        with pytest.raises(smtplib.SMTPException):
            send(server, **login)
        assert parked() == 0

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

    def test_is_for_the_last_of_a_host(self, serve):
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

    def test_ends_after_a_request_at_its_age(self, serve, clock):
        send(serve())
        counts = []
        for seconds in (59, 1):
            clock.now += seconds
            request_finished.send(sender=None)
            counts.append(parked())
        assert counts == [1, 0]

    def test_ends_at_its_age_when_other_hosts_send(self, serve, clock):
        send(serve())
        clock.now += 60
        send(serve())
        assert parked() == 1

    def test_ends_with_the_process(self, serve):
        server = serve()
        run_python("-c", SENDS + "send(1)", str(server.port))
        server.wait_for_clients_to_go()
        assert server.commands[-1] == "QUIT"


class TestDeath:
    """A connection that dies while it is parked costs a reconnect, and never a message."""

    @pytest.mark.parametrize("batch", [["b@example.net"], ["b@example.net", "c@example.net"]])
    @pytest.mark.parametrize("is_said", [True, False])
    def test_while_parked_costs_a_connection(self, is_said, batch, serve):
        server = serve()
        send(server)
        if is_said:
            server.say(b"421 too long idle\r\n")
        else:
            server.disconnect()
        assert host(server).send_messages(map(message, batch)) == len(batch)
        assert [one.recipients for one in server.accepted[1:]] == [(one,) for one in batch]

    @pytest.mark.parametrize(
        "fault", [CLOSE, RESET, HANG, "421 too many", "221 Idle timeout", "451 too many"]
    )
    @pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
    @pytest.mark.parametrize(
        "extensions", [["PIPELINING"], []], ids=["pipelining", "stepwise"]
    )
    @pytest.mark.parametrize("batch", [["b@example.net"], ["b@example.net", "c@example.net"]])
    def test_before_the_body_costs_a_connection(self, fault, step, extensions, batch, serve):
        server = serve(at(step, None, fault), extensions=extensions)
        options = {"timeout": 0.3 if fault == HANG else 20}
        send(server, **options)
        assert host(server, **options).send_messages([*map(message, batch)]) == len(batch)
        assert [one.recipients for one in server.accepted[1:]] == [(one,) for one in batch]
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

    @pytest.mark.parametrize("fail_silently", [True, False])
    def test_with_the_server_is_an_error(self, fail_silently, serve):
        server = serve(at("MAIL", None, CLOSE))
        connection = host(server, fail_silently=fail_silently)
        connection.send_messages([message()])
        server.stop_listening()
        try:
            assert connection.send_messages([message()]) == 0
        except ConnectionRefusedError:
            assert not fail_silently
        else:
            assert fail_silently
        assert connection.connection is None


def crowd(server, clock):
    with host(server, conn_max_idle=1), host(server, conn_max_idle=1):
        pass


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


# Python closes a socket that nobody has any more, with a warning.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_time_limit_at_any_call_leaves_a_pool_that_works(serve):
    server = serve()

    def fill() -> None:
        with host(server, conn_max_idle=1), host(server, conn_max_idle=1):
            pass

    times = interrupted_at_each_call(fill, module)
    for _ in times:  # pragma: no cover (it confuses coverage)
        assert [send(server), send(server)] == [1, 1]


class TestLog:
    """Debug records and ``repr`` tell of each connection, and nothing of its login."""

    @pytest.fixture(autouse=True)
    def debug(self, caplog):
        caplog.set_level(logging.DEBUG, "email_hosts")

    def test_tells_when_it_is_opened_parked_and_taken(self, serve, caplog):
        server = serve()
        send(server)
        send(server)
        # Not caplog.messages: they are made of the arguments as these are now.
        lines = [
            line.partition("<PooledConnection to ")[2] for line in caplog.text.splitlines()
        ]
        assert [line.removeprefix(f"127.0.0.1:{server.port}, ") for line in lines] == [
            "open, 0 messages>: opened",
            "open, 1 messages>: parked",
            "open, 1 messages>: taken from the pool",
            "open, 2 messages>: parked",
        ]
        assert repr(pool) == "<Pool: 1 parked for 1 hosts>"

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
            (crowd, "enough others are parked"),
        ],
    )
    def test_tells_why_it_is_discarded(self, end, reason, serve, clock, caplog):
        server = serve(at("MAIL", None, None, CLOSE))
        send(server)
        end(server, clock)
        send(server)
        assert f"messages>: discarded, {reason}" in caplog.text

    def test_does_not_show_the_login(self, serve, caplog):
        server = serve(at("AUTH", "235 welcome"), extensions=["AUTH PLAIN"])
        send(server, username="Kx7vQz9", password="Wj4bYt2")
        shown = caplog.text + repr(pool)
        assert "parked" in caplog.text
        assert "Kx7vQz9" not in shown
        assert "Wj4bYt2" not in shown


SENDS = """
import gc, os, sys, threading
import django
from django.core.mail import EmailMessage
from email_hosts.backends import EmailHostsBackend
from email_hosts.smtp.pool import pool
django.setup()

def send(times):
    for number in range(times):
        host = EmailHostsBackend("127.0.0.1", int(sys.argv[1]), conn_max_age=60, timeout=60)
        message = EmailMessage("Subject", "Hello", "a@example.com", [f"{number}@example.net"])
        assert host.send_messages([message]) == 1
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_nothing_leaks_over_many_sends_and_threads(serve):
    """2,000 sends from 200 threads, in a process of their own."""
    server = serve()
    run_python("-c", SENDS + LEAKS, str(server.port))
    assert len(server.accepted) == 2_000


LEAKS = """
def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))

before = descriptors()
threads = [threading.Thread(target=send, args=[10]) for _ in range(200)]
for thread in threads: thread.start()
for thread in threads: thread.join()
after = descriptors()
assert after <= before + 10, (before, after)
pool.close_all()
assert descriptors() == before, (before, descriptors())
"""


@needs_fork
class TestFork:
    """The parent's connections are the parent's alone."""

    @pytest.mark.parametrize("use", ["send", "open"])
    @pytest.mark.parametrize("query", ["", "conn_max_age=60"])
    def test_finds_an_open_connection_closed_in_the_child(
        self, query, use, start_server, tls, cafile
    ):
        server = start_server(context=tls)
        dsn = f"submission://127.0.0.1:{server.port}?{query}"
        run_python("-c", FORKS_WHILE_OPEN, dsn, str(cafile), use)
        subjects = [mail.message["Subject"] for mail in server.received]
        assert sorted(subjects) == ["child"] * 2 + ["parent"] * 2

    def test_leaves_an_open_connection_that_the_child_closes(self, start_server, tls, cafile):
        server = start_server(context=tls)
        dsn = f"submission://127.0.0.1:{server.port}"
        run_python("-c", FORKS_WHILE_OPEN, dsn, str(cafile), "close")
        assert len(server.received) == 2

    def test_leaves_parent_and_child_sending(self, start_server, tls, cafile):
        server = start_server(context=tls, login=("user", "secret"))
        dsn = f"submission://user:secret@127.0.0.1:{server.port}"
        run_python("-c", FORKS, f"{dsn}?conn_max_age=60", str(cafile))
        senders = [mail.message["Subject"] for mail in server.received]
        assert sorted(senders) == ["child"] * 3 + ["parent"] * 4
        # The parent needed one connection, the child one of its own, and aiosmtpd another.
        assert len(server.sessions) == 3

    @pytest.mark.parametrize(
        ("owner", "use"),
        [
            ("pool.pool", "take('smtp.example.com')"),
            (
                "failover._healths.setdefault('safe', failover._HostHealth())",
                "order(('shop',), rotate=True)",
            ),
        ],
        ids=["pool", "failover"],
    )
    def test_frees_a_lock_that_a_thread_of_the_parent_holds(self, owner, use):
        code = FORKS_WITH_A_LOCK.format(owner=owner, use=use)
        run_python("-W", "ignore", "-c", code)

    def test_says_nothing_to_the_server(self, serve):
        server = serve()
        send(server)
        pool.forget()  # what the child does
        assert parked() == 0
        send(server)
        assert "QUIT" not in server.commands

    def test_that_python_does_not_know_of_says_nothing_either(self, serve, monkeypatch):
        """What uWSGI does. One connection is parked, and one is open."""
        server = serve()
        with host(server, conn_max_age=None):
            send(server)
            monkeypatch.setattr(os, "getpid", lambda: -1)
            send(server)
        assert (server.connections, parked()) == (3, 1)
        assert "QUIT" not in server.commands

    @pytest.mark.parametrize("is_taken", [True, False])
    def test_that_python_does_not_know_of_closes_its_copies_without_a_word(
        self, is_taken, serve, monkeypatch
    ):
        server = serve()
        with host(server) as backend:
            backend.send_messages([message()])
            connection = backend.connection
        monkeypatch.setattr(os, "getpid", lambda: -1)
        if is_taken:
            send(server)
            assert server.connections == 2
        else:
            pool.close_all()
        assert connection.sock is None
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
    connection_from_dsn(sys.argv[1], ssl_cafile=sys.argv[2]).send_messages([message])

send("parent")
child = os.fork()
if not child:
    status = 1
    try:
        assert "<Pool: 0 parked" in repr(pool)
        for _ in range(3): send("child")
        status = 0
    finally:
        os._exit(status)
assert os.waitpid(child, 0)[1] == 0
for _ in range(3): send("parent")
"""

FORKS_WHILE_OPEN = """
import os, sys
import django
from django.core.mail import EmailMessage
from email_hosts.backends import connection_from_dsn
django.setup()

def send(name):
    message = EmailMessage(name, "Hello", "a@example.com", ["b@example.net"])
    return connection.send_messages([message])

connection = connection_from_dsn(sys.argv[1], ssl_cafile=sys.argv[2])
connection.open()
send("parent")
child = os.fork()
if not child:
    status = 1
    try:
        if sys.argv[3] == "open":
            assert connection.open() is True
        if sys.argv[3] != "close":
            send("child"), send("child")
        connection.close()
        status = 0
    finally:
        os._exit(status)
assert os.waitpid(child, 0)[1] == 0
send("parent")
connection.close()
"""

FORKS_WITH_A_LOCK = """
import os, signal, threading
from email_hosts.smtp import pool
from email_hosts.backends import failover

is_held, end = threading.Event(), threading.Event()

def hold():
    with {owner}._lock:
        is_held.set()
        end.wait()

threading.Thread(target=hold).start()
is_held.wait()
child = os.fork()
if not child:
    signal.alarm(20)  # ends it if it waits for the lock
    {owner}.{use}
    os._exit(0)
end.set()
assert os.waitpid(child, 0)[1] == 0
"""
