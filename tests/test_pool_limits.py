"""The limits of what is parked, and what a look at it costs."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from conftest import run_python
from django.core.mail import EmailMessage
from django.core.signals import request_finished

from email_hosts.backends import EmailHostsBackend, connection_from_dsn
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.smtp.connection import SMTP
from email_hosts.smtp.pool import MAX_PARKED, Pool, PooledConnection, pool
from email_hosts.testing import real_hosts

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc"
)


def message(recipient="a@example.net"):
    return EmailMessage("Subject", "Hello", "sender@example.com", [recipient])


def host(server, **options):
    options = {"conn_max_age": 60, "timeout": 20, **options}
    return EmailHostsBackend("127.0.0.1", server.port, **options)


def names():
    """Who is parked, the least recently used first: each host has a name of its own."""
    keys: Any = [parked.host for parked in pool._parked]
    return [name for key in keys for name in key if str(name).startswith("host-")]


def send_as(server, name, **options):
    host(server, local_hostname=f"host-{name}", **options).send_messages([message()])


class TestAllHostsTogether:
    """At most 100 connections are parked, whatever the number of hosts."""

    @needs_proc
    def test_thousand_hosts_leave_a_hundred_descriptors(self, serve):
        server = serve()
        shown = run_python("-c", THOUSAND_HOSTS, str(server.port))
        before, after, at_the_end = map(int, shown.split())
        assert (after - before, at_the_end - before) == (MAX_PARKED, 0)
        assert MAX_PARKED == 100
        assert len(server.accepted) == 1000

    def test_least_recently_used_leaves_first(self, serve):
        server = serve()
        for number in range(MAX_PARKED):
            send_as(server, str(number))
        send_as(server, "0")  # uses the parked one, and so 1 is the oldest
        assert server.connections == MAX_PARKED
        send_as(server, "new")
        expected = [*map(str, range(2, MAX_PARKED)), "0", "new"]
        assert names() == [f"host-{name}" for name in expected]

    def test_one_that_leaves_says_goodbye(self, serve):
        server = serve()
        for number in range(MAX_PARKED + 3):
            send_as(server, str(number))
        pool.forget()
        server.wait_for_clients_to_go()
        assert server.commands.count("QUIT") == 3

    def test_what_is_parked_is_known_by_its_host(self, serve):
        server = serve()
        for number in range(MAX_PARKED + 20):
            send_as(server, str(number % 7), conn_max_idle=3)
        assert sorted(names()) == [f"host-{number}" for number in range(7)]
        assert sum(map(len, pool._by_host.values())) == len(pool._parked) == 7


class TestOneHost:
    """``conn_max_idle`` connections of a host are parked, 10 if that is not given."""

    @pytest.mark.parametrize(("options", "expected"), [({}, 10), ({"conn_max_idle": 32}, 32)])
    def test_so_many_wait(self, options, expected, serve):
        server = serve()
        for _ in range(2):
            connections = [host(server, **options) for _ in range(32)]
            for connection in connections:
                connection.open()
            for connection in connections:
                connection.close()
            assert len(pool._parked) == expected
        # Of a burst of 32, the second one connects for those alone that were not kept.
        assert server.connections == 32 + (32 - expected)

    def test_is_an_option_of_a_dsn(self, serve):
        server = serve()
        dsn = f"smtp://127.0.0.1:{server.port}?conn_max_age=60&conn_max_idle=2"
        with real_hosts():
            connections = [connection_from_dsn(dsn) for _ in range(3)]
        for connection in connections:
            connection.open()
        for connection in connections:
            connection.close()
        assert len(pool._parked) == 2

    @pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "", "true"])
    def test_is_a_whole_number_in_a_dsn(self, value):
        with pytest.raises(InvalidEmailHost, match="'conn_max_idle' must be a positive whole"):
            connection_from_dsn(f"smtp://h?conn_max_idle={value}")

    def test_hundred_of_all_is_the_limit_of_one(self, serve):
        server = serve()
        connections = [host(server, conn_max_idle=1000) for _ in range(MAX_PARKED + 5)]
        for connection in connections:
            connection.open()
        for connection in connections:
            connection.close()
        assert len(pool._parked) == MAX_PARKED

    def test_last_one_parked_is_taken_first(self, serve):
        server = serve()
        with host(server) as first, host(server) as second:
            older, newer = first.connection, second.connection
            second.close()
            first.close()
        with host(server) as third, host(server) as fourth:
            assert [third.connection, fourth.connection] == [older, newer]


class Walked(dict[Any, Any]):
    """What is parked, which counts how often somebody walks over it."""

    walks = 0

    def __iter__(self):
        self.walks += 1
        return super().__iter__()


class TestCost:
    """A take, a park and a finished request cost the same with one host and with many."""

    @pytest.fixture
    def many(self, clock):
        """A pool with as many connections as it takes, none of which is due."""
        many = Pool()
        many.clock = clock
        for number in range(MAX_PARKED - 1):
            many.park(self.pooled(number, clock.now + 60 + number), max_idle=10)
        many._parked = Walked(many._parked)
        return many

    @staticmethod
    def pooled(host, expires_at):
        return PooledConnection(SMTP(), "h:25", host, expires_at)

    def test_walks_over_nothing_while_nothing_is_due(self, many, clock):
        many.take("nobody's")
        many.park(self.pooled("mine", clock.now + 60), max_idle=10)
        many.close_expired()
        many.take("mine")
        assert many._parked.walks == 0

    def test_walks_once_when_something_is_due(self, many, clock):
        clock.now += 60
        for _ in range(5):
            many.close_expired()
        assert len(many._parked) == MAX_PARKED - 2
        assert many._parked.walks == 2  # to find what is due, and when the next one is

    def test_next_expiry_is_known_after_what_was_due(self, many, clock):
        for seconds in (60, 1, 1):
            clock.now += seconds
            many.close_expired()
        assert len(many._parked) == MAX_PARKED - 4

    def test_earlier_expiry_counts(self, many, clock):
        many.park(self.pooled("soon", clock.now + 1), max_idle=10)
        clock.now += 1
        many.close_expired()
        assert "soon" not in many._parked.values()

    def test_finished_request_looks_at_the_clock_alone(self, serve, clock, monkeypatch):
        send_as(serve(), "one")
        monkeypatch.setattr(pool, "_close", None)  # fails if it is called
        monkeypatch.setattr(pool, "_lock", None)
        request_finished.send(sender=None)
        monkeypatch.undo()

    def test_empty_pool_never_closes_anything(self, monkeypatch):
        empty = Pool()
        monkeypatch.setattr(empty, "_close", None)
        empty.close_expired()


class TestDescriptors:
    """A look at a parked connection needs no descriptor."""

    @needs_proc
    def test_none_is_left_and_kept_connections_work(self, serve):
        server = serve()
        assert run_python("-c", NONE_LEFT, str(server.port)).split() == ["1", "1"]
        assert server.connections == 1

    def test_look_makes_no_object_that_has_one(self, serve, monkeypatch):
        server = serve()
        send_as(server, "one")
        monkeypatch.setattr(socket, "socket", None)
        monkeypatch.setattr("selectors.DefaultSelector", None)
        monkeypatch.setattr("select.epoll", None, raising=False)
        send_as(server, "one")
        monkeypatch.undo()
        assert server.connections == 1


START = """
import os, resource, sys
import django
from django.conf import settings
settings.configure(EMAIL_HOSTS={})
django.setup()
from django.core.mail import EmailMessage
from email_hosts.backends import connection_from_dsn
from email_hosts.smtp.pool import pool

def descriptors():
    return len(os.listdir("/proc/self/fd"))

def send(name):
    dsn = f"smtp://127.0.0.1:{sys.argv[1]}?conn_max_age=60&local_hostname={name}"
    message = EmailMessage("Subject", "Hello", "a@example.com", ["b@example.net"])
    return connection_from_dsn(dsn).send_messages([message])
"""

THOUSAND_HOSTS = f"""{START}
before = descriptors()
for number in range(1000):
    send(f"stranger-{{number}}")
print(before, descriptors())
pool.close_all()
print(descriptors())
"""

NONE_LEFT = f"""{START}
print(send("kept"))
resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() - 1, 4096))
try:
    os.dup(0)
except OSError:
    print(send("kept"))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_child_forgets_the_limits_of_its_parent(serve):
    send_as(serve(), "one")
    pool.forget()
    assert (len(pool._parked), len(pool._by_host)) == (0, 0)
    assert pool._next_expiry == float("inf")
