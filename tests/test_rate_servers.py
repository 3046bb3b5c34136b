"""Rates that are counted in a real Redis and a real Memcached."""

import getpass
import multiprocessing
import shutil
import socket
import subprocess
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import test_rate
from django.core.cache import caches
from test_rate import MEMCACHED, REDIS

from email_hosts import rate
from email_hosts.values import Limit

pytestmark = pytest.mark.slow

MESSAGES, PROCESSES, THREADS = 500, 4, 8

# The backend of a program, where it is, and how to start it, on a port.
SERVERS = {
    "redis-server": (REDIS, "redis://127.0.0.1:{}", "--bind 127.0.0.1 --port {}"),
    "memcached": (MEMCACHED, "127.0.0.1:{}", f"-l 127.0.0.1 -u {getpass.getuser()} -p {{}}"),
}

clock, start_host = test_rate.clock, test_rate.start_host  # of each test here, too


@pytest.fixture(scope="session", params=SERVERS)
def server(request, tmp_path_factory):
    """The backend and the location of a real server."""
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    backend, location, options = SERVERS[request.param]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [request.param, *options.format(port).split()]
    folder = tmp_path_factory.mktemp("cache")
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
        yield backend, location.format(port)
        process.kill()


@pytest.fixture
def cache(server, caplog):
    """A cache that counts."""
    with test_rate.use_cache(*server, **test_rate.TIMEOUTS[server[0]]):
        caches["default"].clear()
        yield caches["default"]
        assert caplog.messages == []


class TestServer(test_rate.TestCache):
    """The same as for any other cache."""


class SharedClock:
    """Time that all processes share. It passes while one of them sleeps."""

    def __init__(self, value):
        self.value = value
        self.seen = threading.local()  # by each thread, last

    def __call__(self):
        self.seen.now = self.value.value
        return self.seen.now

    def sleep(self, seconds):
        until = self.seen.now + seconds
        with self.value.get_lock():
            self.value.value = max(self.value.value, until)


def begin(server, value):
    """Prepare a process that sends."""
    test_rate.use_cache(*server).enable()
    rate.clock = SharedClock(value)
    rate.stopwatch = lambda: 0.0  # a busy machine makes no cache slow


def send(limits, messages):
    """Return when each message had its turn, as pairs of the message and the time."""
    clock: Any = rate.clock

    def send_one(message):
        while seconds := rate.take("shop", limits)[0]:
            clock.sleep(seconds)
        return message, clock.seen.now

    with ThreadPoolExecutor(THREADS) as threads:
        turns = list(threads.map(send_one, messages))
    assert None not in rate.usage("shop", limits)  # the cache has not failed
    return turns


@pytest.mark.parametrize("limits", [(Limit(30, 60),), (Limit(14, 1), Limit(200, 60))])
def test_many_processes_send_no_more_than_the_limit(server, limits):
    context = multiprocessing.get_context("spawn")
    parts = [range(first, MESSAGES, PROCESSES) for first in range(PROCESSES)]
    with test_rate.use_cache(*server):
        caches["default"].clear()
    shared = server, context.Value("d", 1.8e9)
    with ProcessPoolExecutor(PROCESSES, context, begin, shared) as processes:
        turns = [turn for part in processes.map(partial(send, limits), parts) for turn in part]
    assert sorted(message for message, _ in turns) == list(range(MESSAGES))
    times = sorted(when for _, when in turns)
    for limit in limits:
        assert test_rate.most_in_a_span(times, limit.span) <= limit.number
