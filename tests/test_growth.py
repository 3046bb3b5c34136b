"""The benchmark of growth runs and has a line for each thing; memory is bounded."""

import re

import pytest
from conftest import run_python


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


def test_table_has_each_line(shown):
    assert [re.split(r" {2,}", line)[0] for line in shown] == [
        "choose a host by its sender, 20 hosts to 10",
        "get_connection, 20 hosts to 10",
        "get_connection with options, 20 hosts to 10",
        "an unknown key, 20 hosts to 10",
        "a failover send, 20 hosts to 10",
        "check, a host, 20 hosts to 10",
        "mailers(), a host, 20 hosts to 10",
        "a send over a kept connection, 20 parked to 1",
        "a finished request, 20 parked to 1",
        "0 ms, conn_max_age to Django's open connection",
        "0 ms, conn_max_age, 2 threads to 1",
        "0 ms, conn_max_age, 2 threads to Django's",
        "memory of a generator of 60, parallel=1",
        "memory of a generator of 60, parallel=4",
        "memory of a list of 10 messages of 500 kB",
        *(
            f"1 ms, {offered}, parallel={pair}"
            for offered in ("PIPELINING", "no PIPELINING")
            for pair in ("1 to Django", "4 to 1", "4 to Django", "10 to 1", "10 to Django")
        ),
    ]


def test_quick_one_is_smaller():
    from benchmarks.growth import QUICK, THOROUGH

    assert all(quick <= full for quick, full in zip(QUICK, THOROUGH, strict=True))
