"""Measure how fast mail is sent, as ratios within one run."""

from __future__ import annotations

import argparse
import os
import smtplib
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import django
import trustme
from django.conf import settings
from django.core.mail.backends.smtp import EmailBackend
from django.test import override_settings

from email_hosts.backends import get_connection

from .sink import PASSWORD, USER
from .ways import FRESH, KEPT, RAW, WAYS, Server, Way

THREADS = 8


class Column(NamedTuple):
    """Where the server is, and how many are to get each message."""

    milliseconds: float
    recipients: int

    def __str__(self) -> str:
        plural = "s" if self.recipients > 1 else ""
        return f"{self.milliseconds:g} ms, {self.recipients} recipient{plural}"


class Result(NamedTuple):
    """Mails per second, round by round, and round trips per mail."""

    speeds: list[float]
    round_trips: float


def main() -> None:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="how often each way is tried")
    parser.add_argument("--seconds", type=float, default=0.5, help="and for how long")
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument(
        "--distances",
        type=float,
        nargs="+",
        default=[0, 5, 20],
        metavar="MILLISECONDS",
        help="round trip times to the server",
    )
    parser.add_argument("--picture", type=Path, help="draw the ratios into this SVG file")
    arguments = parser.parse_args()
    precise = (arguments.rounds, arguments.seconds)
    rounds, seconds = (3, 0.15) if arguments.quick else precise
    settings.configure(USE_TZ=True)
    django.setup()
    say(f"Django {django.__version__}, Python {sys.version.split()[0]}, {rounds} rounds")
    with servers(arguments.distances) as (at, statistics):
        columns = [Column(ms, recipients) for ms in at for recipients in (1, 20)]
        table = measure(columns, at, statistics, rounds, seconds)
        show(columns, table)
        for ms, server in at.items():
            compare_threads(ms, server, rounds, seconds)
    compare_constructors()
    if arguments.picture:  # pragma: no cover (needs what only tox -e bench installs)
        from .picture import draw

        speeds = {way: [table[way, column].speeds for column in columns] for way in WAYS}
        draw(speeds, [str(column) for column in columns], arguments.picture)


@contextmanager
def servers(round_trips: list[float]) -> Iterator[tuple[dict[float, Server], Statistics]]:
    """Give the servers by their distance in milliseconds, and what they count."""
    if "SMTP_HOST" in os.environ:
        names = ("HOST", "PORT", "USER", "PASSWORD")
        host, port, user, password = (os.environ[f"SMTP_{name}"] for name in names)
        distance = float(os.environ.get("SMTP_MILLISECONDS", "0"))
        with Statistics(host, int(port)) as statistics:
            yield {distance: Server(host, int(port), user, password)}, statistics
        return
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        sink = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.sink", certificate, *map(str, round_trips)],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with sink:
            assert sink.stdout
            direct, *far = map(int, sink.stdout.readline().split())
            ports = {
                ms: port if ms else direct for ms, port in zip(round_trips, far, strict=True)
            }
            at = {ms: Server("127.0.0.1", port, USER, PASSWORD) for ms, port in ports.items()}
            with Statistics("127.0.0.1", direct) as statistics:
                yield at, statistics


def make_certificate(folder: Path) -> str:
    """Return the file of a certificate that this process trusts from now on.

    It trusts the authorities of the system, too: to load them is a part of what a new
    connection costs.
    """
    ca = trustme.CA()
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(folder / "server.pem")
    )
    system = ssl.get_default_verify_paths().cafile
    known = Path(system).read_bytes() if system else b""
    (folder / "trusted.pem").write_bytes(known + ca.cert_pem.bytes())
    os.environ["SSL_CERT_FILE"] = str(folder / "trusted.pem")
    return str(folder / "server.pem")


class Statistics:
    """The counters of a server, over a connection of their own."""

    def __init__(self, host: str, port: int) -> None:
        self.connection = smtplib.SMTP(host, port)

    def __enter__(self) -> Statistics:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.connection.close()

    def round_trips(self) -> int:
        """Return how many there have been: turns, TCP and TLS handshakes."""
        _, text = self.connection.docmd("XSTAT")
        counters = dict(pair.split(b"=") for pair in text.split())
        return sum(int(counters.get(name, 0)) for name in (b"turn", b"conn", b"tls"))


def measure(
    columns: list[Column],
    at: dict[float, Server],
    statistics: Statistics,
    rounds: int,
    seconds: float,
) -> dict[tuple[str, Column], Result]:
    """Send in every way, in turns. Return the results by way and column."""
    table = {}
    for column in columns:
        server = at[column.milliseconds]
        speeds: dict[str, list[float]] = {name: [] for name in WAYS}
        trips: dict[str, float] = {}
        for _ in range(rounds):
            for name, way in WAYS.items():
                with way(server, column.recipients) as send:
                    send()
                    before = statistics.round_trips()
                    sent, took = repeat(send, seconds)
                    # To ask the first time was a turn, too.
                    trips[name] = (statistics.round_trips() - before - 1) / sent
                speeds[name].append(sent / took)
        for name in WAYS:
            table[name, column] = Result(speeds[name], trips[name])
    return table


def repeat(send: Callable[[], int], seconds: float) -> tuple[int, float]:
    """Send until the time is over. Return how many messages that were, and the time."""
    sent, took, start = 0, 0.0, time.perf_counter()
    while not sent or took < seconds:
        sent += send()
        took = time.perf_counter() - start
    return sent, took


def show(columns: list[Column], table: dict[tuple[str, Column], Result]) -> None:
    """Print the table: a line for each way, a part for each column."""
    for column in columns:
        say(f"\n{column}")
        say(f"{'':36}  mails/s (min - max)        round trips  ratio to smtplib (min - max)")
        raw = table[RAW, column].speeds
        for name in WAYS:
            speeds, trips = table[name, column]
            ratios = [one / other for one, other in zip(speeds, raw, strict=True)]
            ratio = f"{median(ratios):5.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
            speed = f"{median(speeds):7.1f} ({min(speeds):7.1f} - {max(speeds):7.1f})"
            say(f"{name:36}  {speed}  {trips:11.2f}  {ratio}")


def compare_threads(ms: float, server: Server, rounds: int, seconds: float) -> None:
    """Print how much faster eight threads are with ``conn_max_age`` than with Django's."""
    ratios = []
    for _ in range(rounds):
        speed = {name: in_threads(WAYS[name], server, seconds) for name in (FRESH, KEPT)}
        ratios.append(speed[KEPT] / speed[FRESH])
    say(
        f"\n{ms:g} ms, {THREADS} threads: conn_max_age to Django's new connections: "
        f"{median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
    )


def in_threads(way: Way, server: Server, seconds: float) -> float:
    """Return the mails per second of all threads together."""
    ready = threading.Barrier(THREADS)
    results = []

    def work() -> None:
        with way(server, 1) as send:
            send()
            ready.wait()
            results.append(repeat(send, seconds))

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(sent / took for sent, took in results)


def compare_constructors(times: int = 2000, rounds: int = 15) -> None:
    """Print what ``get_connection`` costs, compared with Django's backend itself."""
    dsn = "submission://user:secret@smtp.example.com?timeout=10"
    options: dict[str, Any] = {
        "host": "smtp.example.com",
        "port": 587,
        "username": "user",
        "password": "secret",
        "use_tls": True,
        "use_ssl": False,
        "timeout": 10,
        "alias": "shop",
    }
    ratios = []
    with override_settings(EMAIL_HOSTS={"shop": dsn}):
        for _ in range(rounds):
            took = []
            for make in (partial(get_connection, "shop"), partial(EmailBackend, **options)):
                start = time.perf_counter()
                for _ in range(times):
                    make()
                took.append(time.perf_counter() - start)
            ratios.append(took[0] / took[1])
    say(
        f"\nget_connection() to EmailBackend(): {median(ratios):.2f} "
        f"({min(ratios):.2f} - {max(ratios):.2f}) times the cost"
    )


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
