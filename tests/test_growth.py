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


def test_each_line_has_a_ratio(shown):
    ratios = [re.search(r"  [0-9]+\.[0-9]{2}", line) for line in shown]
    assert len(ratios) == 25
    assert all(ratios)


def test_quick_one_is_smaller():
    from benchmarks.growth import QUICK, THOROUGH

    assert all(quick <= full for quick, full in zip(QUICK, THOROUGH, strict=True))
