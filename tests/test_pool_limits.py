"""The limits of what is parked, and what a look at it costs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import parked, run_python
from test_pool import host, message

from email_hosts.backends import connection_from_dsn
from email_hosts.smtp.connection import SMTP
from email_hosts.smtp.pool import MAX_PARKED, Pool, PooledConnection, pool
from email_hosts.testing import real_hosts

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc"
)


def names():
    """Who is parked, the least recently used first: each host has a name of its own."""
    keys: Any = [parked.host for parked in pool._parked]
    return [name for key in keys for name in key if str(name).startswith("host-")]


def send_as(server, name, **options):
    host(server, local_hostname=f"host-{name}", **options).send_messages([message()])


def park(server, number, **options):
    """Park so many connections, which were in use at the same time."""
    with ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(host(server, **options))


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


class TestOneHost:
    """``conn_max_idle`` connections of a host are parked, 10 if that is not given."""

    @pytest.mark.parametrize(("options", "expected"), [({}, 10), ({"conn_max_idle": 32}, 32)])
    def test_so_many_wait(self, options, expected, serve):
        server = serve()
        for _ in range(2):
            park(server, 32, **options)
            assert parked() == expected
        # Of a burst of 32, the second one connects for those alone that were not kept.
        assert server.connections == 32 + (32 - expected)

    def test_is_an_option_of_a_dsn(self, serve):
        server = serve()
        dsn = f"smtp://127.0.0.1:{server.port}?conn_max_age=60&conn_max_idle=2"
        with real_hosts():
            connections = [connection_from_dsn(dsn) for _ in range(3)]
        with connections[0], connections[1], connections[2]:
            pass
        assert parked() == 2

    def test_hundred_of_all_is_the_limit_of_one(self, serve):
        server = serve()
        park(server, MAX_PARKED + 5, conn_max_idle=1000)
        assert parked() == MAX_PARKED


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
        assert parked(many) == MAX_PARKED - 2
        assert many._parked.walks == 2  # to find what is due, and when the next one is

    def test_next_expiry_is_known_after_what_was_due(self, many, clock):
        for seconds in (60, 1, 1):
            clock.now += seconds
            many.close_expired()
        assert parked(many) == MAX_PARKED - 4

    def test_earlier_expiry_counts(self, many, clock):
        many.park(self.pooled("soon", clock.now + 1), max_idle=10)
        clock.now += 1
        many.close_expired()
        assert "soon" not in [each.host for each in many._parked]


@needs_proc
def test_look_at_a_parked_connection_needs_no_descriptor(serve):
    server = serve()
    assert run_python("-c", NONE_LEFT, str(server.port)).split() == ["1", "1"]
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
