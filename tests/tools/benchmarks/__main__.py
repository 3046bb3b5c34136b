"""Measure how fast mail is sent, as ratios within one run."""

import argparse
import os
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import django
import trustme
from django.conf import settings
from roundtrips import RoundTrips

from .picture import draw
from .sink import PASSWORD, USER
from .ways import RAW, WAYS

DISTANCES = [0, 5, 20]  # milliseconds, there and back


def main():
    parser = argparse.ArgumentParser(prog="tools.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--picture", type=Path, help="draw the farthest into this SVG file")
    arguments = parser.parse_args()
    rounds, seconds = (3, 0.15) if arguments.quick else (7, 0.5)
    settings.configure(USE_TZ=True, EMAIL_HOSTS_CACHE="default")  # local memory
    django.setup()
    print(f"Django {django.__version__}, Python {sys.version.split()[0]}, {rounds} rounds")
    table = {}
    with servers(DISTANCES) as at:
        for ms, server in at.items():
            for recipients in (1, 20):
                table[ms, recipients] = measure(server, recipients, rounds, seconds)
                print(f"\n{ms} ms, to {recipients}")
                show(table[ms, recipients], server, recipients)
    if arguments.picture:
        draw(table, DISTANCES[-1], arguments.picture)


@contextmanager
def servers(distances):
    """Give the options for the servers, by their distance in milliseconds."""
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
            login = {"host": "127.0.0.1", "username": USER, "password": PASSWORD}
            yield {
                ms: {**login, "port": port if ms else direct}
                for ms, port in zip(distances, far, strict=True)
            }


def make_certificate(folder):
    """Return the file of a certificate that this process trusts from now on.

    It trusts those of the system, too: a new connection has to load them.
    """
    ca = trustme.CA()
    certificate = str(folder / "server.pem")
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    system = ssl.get_default_verify_paths().cafile
    known = Path(system).read_bytes() if system else b""
    (folder / "trusted.pem").write_bytes(known + ca.cert_pem.bytes())
    os.environ["SSL_CERT_FILE"] = str(folder / "trusted.pem")
    return certificate


def measure(server, recipients, rounds, seconds):
    """Send in every way, in turns. Return mails per second of each way, round by round."""
    speeds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            with way(server, recipients) as send:
                send()
                sent, took, start = 0, 0.0, time.perf_counter()
                while not sent or took < seconds:
                    sent += send()
                    took = time.perf_counter() - start
            speeds[name].append(sent / took)
    return speeds


def round_trips(way, server, recipients):
    """Return how many a message takes, TCP and TLS handshakes included."""
    with way(server, recipients) as send:
        send()
        with RoundTrips(all_threads=True) as trips:
            sent = send()
    return trips.count / sent


def show(table, server, recipients):
    """Print a line for each way."""
    print(f"{'':36}  mails/s (min - max)        round trips  ratio to smtplib (min - max)")
    for name, speeds in table.items():
        ratios = [one / other for one, other in zip(speeds, table[RAW], strict=True)]
        ratio = f"{median(ratios):5.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
        speed = f"{median(speeds):7.1f} ({min(speeds):7.1f} - {max(speeds):7.1f})"
        trips = round_trips(WAYS[name], server, recipients)
        print(f"{name:36}  {speed}  {trips:11.2f}  {ratio}", flush=True)


if __name__ == "__main__":
    main()
