"""The round trips that the benchmark counts. Its times are nobody's promise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from benchmarks.__main__ import Statistics, servers
from benchmarks.ways import BATCH, WAYS
from conftest import run_python


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Any, Statistics]]:
    """The server of the benchmark, on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SSL_CERT_FILE", raising=False)  # the benchmark sets it
        with servers([0]) as (at, statistics):
            yield at[0], statistics


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
    ],
)
def test_round_trips_per_mail(
    way: str, to_one: float, to_twenty: float, running: tuple[Any, Statistics]
) -> None:
    server, statistics = running
    for recipients, expected in ((1, to_one), (20, to_twenty)):
        with WAYS[way](server, recipients) as send:
            send()
            before = statistics.round_trips()
            sent = send() + send()
            assert (statistics.round_trips() - before - 1) / sent == expected


def run(*arguments: str, **environment: str) -> str:
    """Return what the benchmark prints when it is as short as can be."""
    shortest = ("-m", "benchmarks", "--rounds", "1", "--seconds", "0")
    return run_python(*shortest, *arguments, environment=environment)


def test_table_has_each_way_at_each_distance() -> None:
    shown = run("--distances", "0", "1")
    for distance in ("0 ms, 1 recipient\n", "1 ms, 20 recipients\n", "1 ms, 8 threads: "):
        assert distance in shown
    assert all(shown.count(way) == 4 for way in WAYS)
    assert "get_connection() to EmailBackend(): " in shown


def test_another_server_can_be_measured(running: tuple[Any, Statistics]) -> None:
    server, _ = running
    shown = run(
        SMTP_HOST=server.host,
        SMTP_PORT=str(server.port),
        SMTP_USER=server.username,
        SMTP_PASSWORD=server.password,
        SMTP_MILLISECONDS="0.5",
    )
    assert "0.5 ms, 20 recipients\n" in shown
