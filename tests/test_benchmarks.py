"""The round trips that the benchmark counts. Its times are nobody's promise."""

import os
from unittest import mock

import pytest
from benchmarks.__main__ import round_trips, servers
from benchmarks.ways import BATCH, WAYS
from conftest import run_python


@pytest.fixture(scope="module")
def server():
    """The server of the benchmark, on this machine."""
    with mock.patch.dict(os.environ), servers([0]) as at:
        yield at[0]


@pytest.mark.parametrize(
    ("way", "to_one", "to_twenty"),
    [
        # TCP, TLS, banner, EHLO, STARTTLS, EHLO, AUTH; MAIL, RCPT, DATA, body; QUIT
        ("Django, a new connection each", 12, 31),
        ("email_hosts, a new connection each", 10, 10),
        ("Django, one open connection", 4, 23),
        ("smtplib, one open connection", 4, 23),
        ("email_hosts, conn_max_age", 2, 2),
        ("email_hosts, batches of 25", (BATCH + 1) / BATCH, (BATCH + 1) / BATCH),
        ("email_hosts, parallel=4", (BATCH + 1) / BATCH, (BATCH + 1) / BATCH),
    ],
)
def test_round_trips_per_mail(way, to_one, to_twenty, server):
    assert [round_trips(WAYS[way], server, to) for to in (1, 20)] == [to_one, to_twenty]


def run(*arguments, **environment):
    shortest = ("-m", "benchmarks", "--rounds", "1", "--seconds", "0")
    return run_python(*shortest, *arguments, environment=environment)


def test_table_has_each_way_at_each_distance():
    shown = run("--distances", "1")
    for distance in ("1 ms, 1 recipient\n", "1 ms, 20 recipients\n", "1 ms, 8 threads: "):
        assert distance in shown
    assert all(shown.count(way) == 2 for way in WAYS)
    assert shown.count(" 1.04 ") >= 2


def test_another_server_can_be_measured_without_pipelining(server):
    shown = run(
        "--without-pipelining",
        SMTP_HOST=server.host,
        SMTP_PORT=str(server.port),
        SMTP_USER=server.username,
        SMTP_PASSWORD=server.password,
        SMTP_MILLISECONDS="0.5",
    )
    assert "0.5 ms, 20 recipients\n" in shown
    assert shown.count(" 1.04 ") == 0
