"""Whatever a stranger can vary leaves no more than a bounded rest in memory."""

import gc
import logging
import tracemalloc
from contextlib import suppress

import pytest

from email_hosts.backends import connection_from_dsn, get_connection
from email_hosts.exceptions import InvalidEmailHost

pytestmark = pytest.mark.slow


def bytes_left_by(act, times):
    """Return the bytes that are left of doing this so often."""
    act(-1)
    gc.collect()
    tracemalloc.start()
    for number in range(times):
        act(number)
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size


@pytest.mark.filterwarnings("ignore:Django 2028 will not have a default mailer")
def test_memory_of_unknown_keys(monkeypatch):
    """1,024 are remembered, without the list of the hosts that there are."""
    monkeypatch.setattr(logging.getLogger("email_hosts"), "disabled", True)
    assert bytes_left_by(lambda number: get_connection(f"a{number}"), 1500) < 500_000
    assert bytes_left_by(lambda number: get_connection(f"b{number}"), 1500) < 100_000


@pytest.mark.parametrize("rest", ["", "?timout=5"])
def test_memory_of_dsns(rest):
    def act(number):
        with suppress(InvalidEmailHost):
            connection_from_dsn(f"smtp://u{number}:{'p' * 4000}@h{rest}")

    assert bytes_left_by(act, 600) < 256 * 16_000
