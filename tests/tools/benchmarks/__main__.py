"""Measure how fast mail is sent, as ratios within one run."""

from __future__ import annotations

import argparse
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import NamedTuple

import django
import trustme
from django.conf import settings
from roundtrips import RoundTrips

from .picture import draw
from .sink import PASSWORD, USER
from .ways import RAW, WAYS, Server, stepwise

DISTANCES: list[float] = [0, 5, 20]  # milliseconds, there and back


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
    parser = argparse.ArgumentParser(prog="tools.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument(
        "--without-pipelining",
        action="store_true",
        help="measure a server that does not offer it, as Amazon SES does not",
    )
    parser.add_argument("--picture", type=Path, help="draw the farthest into this SVG file")
    arguments = parser.parse_args()
    rounds, seconds = (3, 0.15) if arguments.quick else (7, 0.5)
    settings.configure(USE_TZ=True, EMAIL_HOSTS_CACHE="default")  # local memory
    django.setup()
    print(f"Django {django.__version__}, Python {sys.version.split()[0]}, {rounds} rounds")
    manners = stepwise() if arguments.without_pipelining else nullcontext()
    with manners, servers(DISTANCES) as at:
        columns = [Column(ms, recipients) for ms in at for recipients in (1, 20)]
        table = measure(columns, at, rounds, seconds)
        show(columns, table)
    if arguments.picture:
        draw(table, columns[-2:], arguments.picture)


@contextmanager
def servers(distances: list[float]) -> Iterator[dict[float, Server]]:
    """Give the servers by their distance in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        sink = subprocess.Popen(
            [sys.executable, "-m", "tools.benchmarks.sink", certificate, *map(str, distances)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with sink:
            assert sink.stdout
            direct, *far = map(int, sink.stdout.readline().split())
            yield {
                ms: Server("127.0.0.1", port if ms else direct, USER, PASSWORD)
                for ms, port in zip(distances, far, strict=True)
            }


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


def measure(columns, at, rounds, seconds):
    """Send in every way, in turns. Return the results by way and column."""
    table = {}
    for column in columns:
        server = at[column.milliseconds]
        speeds: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(rounds):
            for name, way in WAYS.items():
                with way(server, column.recipients) as send:
                    send()
                    sent, took, start = 0, 0.0, time.perf_counter()
                    while not sent or took < seconds:
                        sent += send()
                        took = time.perf_counter() - start
                speeds[name].append(sent / took)
        for name, way in WAYS.items():
            trips = round_trips(way, server, column.recipients)
            table[name, column] = Result(speeds[name], trips)
    return table


def round_trips(way, server, recipients):
    """Return how many a message takes, TCP and TLS handshakes included."""
    with way(server, recipients) as send:
        send()
        with RoundTrips(all_threads=True) as trips:
            sent = send()
    return trips.count / sent


def show(columns: list[Column], table: dict[tuple[str, Column], Result]) -> None:
    """Print the table: a line for each way, a part for each column."""
    for column in columns:
        print(f"\n{column}")
        print(f"{'':36}  mails/s (min - max)        round trips  ratio to smtplib (min - max)")
        raw = table[RAW, column].speeds
        for name in WAYS:
            speeds, trips = table[name, column]
            ratios = [one / other for one, other in zip(speeds, raw, strict=True)]
            ratio = f"{median(ratios):5.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
            speed = f"{median(speeds):7.1f} ({min(speeds):7.1f} - {max(speeds):7.1f})"
            print(f"{name:36}  {speed}  {trips:11.2f}  {ratio}")


if __name__ == "__main__":
    main()
