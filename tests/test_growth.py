"""Cost and memory are bounded, and the benchmark of growth has a line for each thing."""

import gc
import logging
import re
import tracemalloc

import pytest
from conftest import run_python
from django.core.mail import EmailMessage

from email_hosts.backends import connection_from_dsn, get_connection
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.registry import host_of_sender


@pytest.fixture(scope="module")
def shown():
    """The lines that it prints."""
    return run_python(
        *("-m", "benchmarks.growth", "--rounds", "1", "--seconds", "0.001", "--hosts", "20"),
        *("--messages", "60", "--threads", "2", "--batch", "2", "--milliseconds", "1"),
        environment={"PYTHONWARNINGS": "ignore"},  # development mode shows them all
    ).splitlines()[3:]


def test_big_messages_of_a_list_take_one_more_than_djangos_backend_has(shown):
    (line,) = [line for line in shown if "500 kB" in line]
    ours, theirs = map(float, re.findall(r"([0-9.]+) MB(?:, Django|$)", line))
    assert ours <= theirs + 0.6


def test_each_line_has_a_ratio(shown):
    ratios = [re.search(r"  [0-9]+\.[0-9]{2}", line) for line in shown]
    assert len(ratios) == 26
    assert all(ratios)


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


class TestMemory:
    """Whatever a stranger can vary leaves no more than a bounded rest."""

    @pytest.mark.filterwarnings("ignore:Django 2028 will not have a default mailer")
    def test_of_unknown_keys(self, monkeypatch):
        """1,024 are remembered, without the list of the hosts that there are."""
        monkeypatch.setattr(logging.getLogger("email_hosts"), "disabled", True)
        assert bytes_left_by(lambda number: get_connection(f"a{number}"), 1500) < 500_000
        assert bytes_left_by(lambda number: get_connection(f"b{number}"), 1500) < 100_000

    @pytest.mark.parametrize("rest", ["", "?timout=5"])
    def test_of_dsns(self, rest):
        def act(number):
            try:
                connection_from_dsn(f"smtp://u{number}:{'p' * 4000}@h{rest}")
            except InvalidEmailHost:
                assert rest

        assert bytes_left_by(act, 600) < 256 * 16_000

    def test_of_senders(self):
        def act(number):
            host_of_sender(EmailMessage(from_email=f"{number}@{number}.example"))

        assert bytes_left_by(act, 3000) < 100_000
