"""Connections that are kept from one send to the next."""

import gc
import logging
import os
import signal
import smtplib
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from itertools import product
from unittest import mock

import pytest
from conftest import either_way, host_of, interrupted_calls, mails, names_of, parked
from django.core.signals import request_finished
from scripted import BODY, CLOSE, HANG, RESET, always, any_of, at, to

from email_hosts.backends import EmailHostsBackend
from email_hosts.options import SMTP_OPTIONS
from email_hosts.smtp import pool as module
from email_hosts.smtp.pool import pool

host = partial(host_of, conn_max_age=60)


def send(server, *names, **options):
    """Send a message to each of these, or one, through the host of this server."""
    return host(server, **options).send_messages(mails(*names or "a"))


def park(server, number, **options):
    """Park so many connections, which were in use at the same time."""
    with ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(host(server, **options))


class TestUse:
    """A connection is used again, within its limits."""

    @pytest.mark.parametrize(
        ("event", "counts"),
        [
            (lambda server: request_finished.send(sender=None), [2, 1, 0]),
            (lambda server: send(server, conn_max_age=900), [3, 2, 1]),
            (lambda server: send(server), [2, 2, 1]),
        ],
        ids=["request", "other host", "same host"],
    )
    def test_ends_at_its_age(self, event, counts, serve, clock):
        """After a request, and when any host sends."""
        server = serve()
        for seconds in (60, 30, 90):
            park(server, 1, conn_max_age=seconds)
        for count in counts:
            clock.now += 30
            event(server)
            assert parked() == count

    def test_is_for_no_more_than_its_messages(self, serve):
        server = serve()
        for _ in range(4):
            send(server, "a", "b", conn_max_messages=4)
        assert server.connections == server.commands.count("QUIT") == 2

    def test_is_by_a_signal_handler_too_while_its_thread_uses_the_pool(self, serve):
        with pool._lock:
            assert send(serve()) == 1
        assert parked() == 1


SHARED = {"default_from_email", "server_email", "reply_to", "envelope_from", "headers"}
SHARED |= {"redirect_to", "allowed_recipients", "rate", "rate_by", "parallel"}
SHARED |= {"conn_max_idle"}


class TestKey:
    """A connection is shared by hosts that would make the same one, and use it as long."""

    def key(self, **changes):
        """Return what the pool is asked for, after these changes of the connection."""
        backend = EmailHostsBackend("smtp.example.com", conn_max_age=60)
        for name, value in changes.items():
            setattr(backend, name, value)
        with mock.patch.object(pool, "take") as take:
            backend.open()
        return take.call_args.args[0]

    # test_oauth2.py has those that need each other.
    @pytest.mark.parametrize("name", [n for n in SMTP_OPTIONS if not n.startswith("oauth2")])
    def test_is_another_for_an_option_of_the_connection(self, name):
        other = self.key(**{name: "Kx7vQz9"})
        assert (other == self.key()) == (name in SHARED)
        assert "Kx7vQz9" not in repr(other)

    def test_is_of_the_context_that_a_connection_has_of_its_own(self):
        context = ssl.create_default_context()
        others = [self.key(), self.key(ssl_context=ssl.create_default_context())]
        assert self.key(ssl_context=context) == self.key(ssl_context=context)
        assert self.key(ssl_context=context) not in others


PARKED, UNCLEAN = "parked", "discarded, its last transaction was not clean"
ENDED = "discarded, the server has ended it"


class TestParking:
    """A connection is parked if it is in step."""

    @pytest.mark.parametrize(
        ("script", "what"),
        [
            (at("MAIL", "550 no"), PARKED),
            (to("a@", "450 later"), PARKED),  # the other recipient gets it
            (at(BODY, "451 later"), PARKED),
            (at(BODY, CLOSE), UNCLEAN),
            # Who knows what follows an odd reply?
            (always("MAIL", "what?"), UNCLEAN),
            (always("RCPT", "what?"), UNCLEAN),
            (always(BODY, "what?"), ENDED),
            (any_of(at("MAIL", "550 no"), at("RSET", "500 no")), ENDED),
            # The server has given up on this session.
            (at("MAIL", "451 later"), UNCLEAN),
            (to("@", "450 later"), UNCLEAN),
            # Nobody asked for the second line.
            (at(BODY, "250 accepted\r\n421 and that was it"), ENDED),
            # Later commands would be answered with "503 send HELO first".
            (any_of(at("EHLO", "550 no"), at("HELO", "550 no")), UNCLEAN),
        ],
    )
    def test_follows_a_transaction_that_leaves_it_in_step(self, script, what, serve, caplog):
        caplog.set_level(logging.DEBUG, "email_hosts")
        with suppress(smtplib.SMTPException):
            send(serve(script), "a+b")
        told = [message for message in caplog.messages if "messages>: " in message]
        assert told[-1].endswith(f"messages>: {what}")
        assert parked() == (what == PARKED)

    @pytest.mark.parametrize("name", ["conn_max_age", "timeout"])
    def test_does_not_follow_a_change_from_outside(self, name, serve):
        with host(serve()) as backend:
            setattr(backend, name, None)
        assert parked() == 0


# Python closes a socket that nobody has any more, with a warning.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_time_limit_at_any_call_leaves_a_pool_that_works(serve):
    server = serve()
    number = 0
    times = interrupted_calls(lambda: park(server, 2, conn_max_idle=1), module)
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

    def test_of_a_host_leaves_those_used_last(self, serve):
        server = serve()
        with host(server, conn_max_idle=1) as last, host(server, conn_max_idle=1) as first:
            sessions = [last.connection, first.connection]
        assert [each.sock is None for each in sessions] == [False, True]

    def test_of_all_hosts_leaves_those_used_last(self, serve):
        server = serve()
        for number in [*range(100), 0, 100]:  # 0 is used again, and so 1 is the oldest
            send(server, local_hostname=f"host-{number}")
        assert (server.connections, parked()) == (101, 100)
        for number, connections in [(0, 101), (2, 101), (100, 101), (1, 102)]:
            send(server, local_hostname=f"host-{number}")
            assert server.connections == connections
        pool.forget()
        server.wait_for_clients_to_go()
        assert server.commands.count("QUIT") == 2  # of those that had to leave


LOST = smtplib.SMTPServerDisconnected
GONE = any_of(at("MAIL", None, CLOSE), at("banner", None, "421 busy"))


class TestDeath:
    """A connection that dies while it is parked costs a reconnect, and never a message."""

    @pytest.mark.parametrize("is_said", [True, False])
    def test_while_parked_costs_a_connection(self, is_said, serve):
        server = serve()
        send(server)
        server.say(b"421 bye\r\n") if is_said else server.disconnect()
        with host(server) as connection:
            assert server.connections == 2
            assert connection.send_messages(mails("b", "c")) == 2
        assert names_of(server) == ["a", "b", "c"]

    @pytest.mark.parametrize(
        ("step", "reply"),
        [
            *product(("MAIL", "RCPT", "DATA"), (CLOSE, RESET, HANG, "421 bye", "451 busy")),
            ("MAIL", "550 timed out"),  # it may have forgotten its greeting or login
        ],
    )
    @either_way
    def test_before_the_body_costs_a_connection(self, step, reply, extensions, serve):
        server = serve(at(step, None, reply), extensions=extensions)
        timeout = 0.3 if reply == HANG else 20
        send(server, timeout=timeout)
        assert send(server, "b", "c", timeout=timeout) == 2
        assert names_of(server) == ["a", "b", "c"]
        assert (server.connections, parked()) == (2, 1)

    @pytest.mark.parametrize(
        ("script", "error", "connections"),
        [
            (at("MAIL", None, "550 no", "550 no"), smtplib.SMTPSenderRefused, 2),
            (at("RCPT", None, "550 no"), smtplib.SMTPRecipientsRefused, 1),
            # The next one writes a group, too. So one command at a time gets a chance.
            (at("MAIL", None, *9 * [CLOSE]), LOST, 3),
            (GONE, smtplib.SMTPConnectError, 2),
            # Perhaps the server has the message.
            (at(BODY, None, CLOSE), LOST, 1),
        ],
    )
    def test_of_the_message_or_server_too_is_an_error(self, script, error, connections, serve):
        server = serve(script)
        connection = host(server)
        connection.send_messages(mails("a"))
        with pytest.raises(error):
            connection.send_messages(mails("b"))
        assert connection.connection is None
        assert server.connections == connections
        refusals = smtplib.SMTPSenderRefused, smtplib.SMTPRecipientsRefused
        assert parked() == (error in refusals)


def test_log_tells_of_each_connection(serve, clock, caplog):
    """And so does ``repr()``."""
    caplog.set_level(logging.DEBUG, "email_hosts")
    server = serve()
    for _ in range(2):
        send(server)
    assert repr(pool) == "<Pool: 1 parked for 1 hosts>"
    pool.close_all()
    park(server, 2, conn_max_idle=1)
    clock.now += 60
    pool.close_expired()
    assert repr(pool) == "<Pool: 0 parked for 0 hosts>"
    shown = f"<PooledConnection to 127.0.0.1:{server.port}, "
    assert {message.startswith(shown) for message in caplog.messages} == {True}
    assert [message.partition("messages>: ")[2] for message in caplog.messages] == [
        *("opened", "parked", "taken from the pool", "parked", "discarded, the process ends"),
        *("opened", "opened", "parked", "parked", "discarded, enough others are parked"),
        "discarded, conn_max_age is over",
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
class TestFork:
    """The parent's connections are the parent's alone."""

    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
    def test_leaves_connections_to_the_parent(self, serve, tls, cafile):
        """Of three, the child has one more, and parks another. It does not wait for a lock."""
        server = serve(context=tls)
        secure = {"use_ssl": True, "ssl_cafile": str(cafile)}
        used, closed = (host(server, conn_max_age=None, **secure) for _ in range(2))
        kept = host(server, **secure)
        used.open(), closed.open()

        def send_over(*connections):
            return [each.send_messages(mails("a")) for each in connections]

        assert send_over(used, closed, kept) == [1] * 3
        with ThreadPoolExecutor(1) as other:
            other.submit(pool._lock.acquire).result()
            if (child := os.fork()) == 0:  # pragma: no cover (coverage is not saved there)
                signal.alarm(20)  # ends it if it waits for the lock
                found = []
                try:
                    found = [parked(), used.open(), *send_over(used, used, kept, kept)]
                    used.close(), closed.close()
                finally:
                    os._exit(found != [0, True, 1, 1, 1, 1])
            other.submit(pool._lock.release).result()
        assert os.waitpid(child, 0)[1] == 0
        assert send_over(used, used, closed, closed, kept, kept) == [1] * 6
        used.close(), closed.close()
        pool.close_all()
        server.wait_for_clients_to_go()
        assert len(server.accepted) == 3 + 4 + 6
        assert server.connections == 3 + 2
        assert server.commands.count("QUIT") == 3 + 1

    def test_that_python_does_not_know_of_says_nothing_either(self, serve, monkeypatch):
        """What uWSGI does. One connection is parked, and one is open."""
        server = serve()
        with host(server, conn_max_age=None), host(server) as backend:
            connection = backend.connection
            backend.close()
            monkeypatch.setattr(os, "getpid", lambda: -1)
            send(server)
        assert connection.sock is None
        assert server.connections == 3
        assert "QUIT" not in server.commands
