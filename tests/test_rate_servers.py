"""Rates that are counted in a real Redis and a real Memcached."""

import getpass
import multiprocessing
import shutil
import socket
import subprocess
from contextlib import contextmanager, suppress

import pytest
import rate_worker
import test_rate
from django.core.cache import caches
from django.test import override_settings
from test_rate import MEMCACHED, REDIS

from email_hosts import rate
from email_hosts.rate import Limit

pytestmark = pytest.mark.slow

PROCESSES = 4

clock = test_rate.clock  # of each test here, too


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


@contextmanager
def started(*command, port):
    """Run a server, which listens on this port when it is ready."""
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not is_open(port):
            assert server.poll() is None
        yield
    finally:
        server.kill()
        server.wait()


def is_open(port):
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@pytest.fixture(scope="session")
def redis(tmp_path_factory):
    """The settings of a real Redis."""
    port = free_port()
    options = ["--save", "", "--dir", str(tmp_path_factory.mktemp("redis"))]
    address = ["--bind", "127.0.0.1", "--port", str(port)]
    with started("redis-server", *address, *options, port=port):
        yield REDIS, f"redis://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def memcached():
    """The settings of a real Memcached."""
    port = free_port()
    user = ["-u", getpass.getuser()]  # root has to say so
    with started("memcached", "-l", "127.0.0.1", "-p", str(port), *user, port=port):
        yield MEMCACHED, f"127.0.0.1:{port}"


@pytest.fixture(params=["redis", "memcached"])
def cache(request):
    """A cache that counts."""
    backend, location = request.getfixturevalue(request.param)
    with test_rate.use_cache(backend, location, **test_rate.TIMEOUTS[backend]):
        caches["default"].clear()
        yield caches["default"]
        assert rate._failures == {}
        caches["default"].clear()


class TestServer(test_rate.TestCache):
    """The same as for any other cache."""


@pytest.mark.parametrize("limits", [(Limit(30, 60),), (Limit(14, 1), Limit(200, 60))])
@pytest.mark.parametrize("server", ["redis", "memcached"])
def test_many_processes_send_no_more_than_the_limit(server, limits, request):
    backend, location = request.getfixturevalue(server)
    context = multiprocessing.get_context("spawn")
    settings = {"default": {"BACKEND": backend, "LOCATION": location, "KEY_PREFIX": "many"}}
    clock = context.Value("d", 1_800_000_000.0)
    with override_settings(CACHES=settings):
        caches["default"].clear()
    found = context.SimpleQueue()
    workers = [
        context.Process(
            target=rate_worker.send_and_tell,
            args=(found, settings, clock, limits, range(first, test_rate.MESSAGES, PROCESSES)),
        )
        for first in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    turns = [turn for _ in workers for turn in found.get()]
    for worker in workers:
        worker.join()
    test_rate.check_turns(turns, limits)
