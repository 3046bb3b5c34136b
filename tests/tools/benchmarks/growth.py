"""Measure how the cost grows: with hosts and kept connections.

``python -m tools.benchmarks.growth``, in the folder of the tests; with ``--quick``, it ends
within a minute.
Everything is a ratio within one run, and each pair is measured in turns.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from statistics import median

import django
from django.conf import settings
from django.core.checks import run_checks
from django.core.mail import EmailMessage
from django.core.signals import request_finished
from django.test import override_settings

from email_hosts import mailers
from email_hosts.backends import get_connection
from email_hosts.dsn import _parse
from email_hosts.registry import host_of_sender
from email_hosts.smtp.connection import SMTP
from email_hosts.smtp.pool import PooledConnection, pool

from .__main__ import servers
from .ways import Server, kept, message

FEW, MANY = 10, 10_000

# Does something, and returns how often.
Act = Callable[[], int]


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools.benchmarks.growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    arguments, _ = parser.parse_known_args()  # the other benchmark takes more
    rounds, seconds = (3, 0.1) if arguments.quick else (5, 0.3)
    logging.disable()  # of the unknown keys
    settings.configure(USE_TZ=True, EMAIL_HOSTS={}, INSTALLED_APPS=["email_hosts"])
    django.setup()
    print(f"Django {django.__version__}, Python {sys.version.split()[0]}, {rounds} rounds\n")
    print(f"{'':52}{'ratio (min - max)':24}wanted")
    compare_imports(rounds)
    compare_hosts(rounds, seconds)
    with servers([0]) as at:
        compare_parked(at[0], rounds, seconds)


def show(
    name: str, ones: list[float], others: list[float], wanted: str, more: str = ""
) -> None:
    """Print how many times as much the ones are, round by round."""
    ratios = [one / other for one, other in zip(ones, others, strict=True)]
    between = f"{median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
    print(f"{name:52}{between:24}{wanted:8}{more}".rstrip())


IMPORTS = """
import sys, time
start = time.perf_counter()
import django
from django.conf import settings
settings.configure()
django.setup()
import django.core.mail.backends.smtp
middle, before = time.perf_counter(), len(sys.modules)
import email_hosts.backends
end = time.perf_counter()
print(end - middle, middle - start, len(sys.modules) - before)
"""


def compare_imports(rounds: int) -> None:
    """Print what importing the app costs, compared with Django and its mail."""
    command = [sys.executable, "-W", "ignore", "-c", IMPORTS]
    outputs = [subprocess.check_output(command, text=True) for _ in range(rounds + 1)]
    rows = [[float(number) for number in output.split()] for output in outputs[1:]]
    ours, theirs, modules = map(list, zip(*rows, strict=True))
    more = f"{median(ours) * 1000:.1f} ms, {modules[0]:.0f} modules"
    show("import email_hosts.backends, to django.setup()", ours, theirs, "0.2", more)


def hosts(number: int) -> dict[str, str]:
    """Return so many hosts, and two that a failover names."""
    many = {
        f"shop-{i}": f"submission://u:p{i}@smtp{i}.example.com?_default_from_email=s@{i}.example"
        for i in range(number)
    }
    return {**many, "a": "dummy:", "b": "dummy:", "safe": "failover:a,b"}


def compare_hosts(rounds: int, seconds: float) -> None:
    """Print what a choice costs with many hosts, compared with few."""
    times: dict[str, tuple[list[float], list[float]]] = {}
    for _ in range(rounds):
        for position, number in enumerate((FEW, MANY)):
            configured = hosts(number)
            with override_settings(EMAIL_HOSTS=configured):
                for name, act in choices(configured).items():
                    act()
                    cost = seconds_each(act, seconds)
                    times.setdefault(name, ([], []))[position].append(cost)
    for name, (few, many) in times.items():
        wanted = "0.2 ms" if name.endswith("a host") else "1.5"
        more = f"{median(many) * 1000:.3f} ms"
        show(f"{name}, {MANY:,} hosts to {FEW}", many, few, wanted, more)


def choices(configured: dict[str, str]) -> dict[str, Act]:
    """Return what is done with these hosts. Each goes on to the next host when done again."""
    keys = [key for key in configured if key.startswith("shop-")]
    turn = count()
    one = EmailMessage("Hello", "World", "x@y.example", ["someone@example.net"])

    def times(act: Callable[[int], object], number: int = 100) -> Act:
        def several() -> int:
            for _ in range(number):
                act(next(turn) * 7919 % len(keys))
            return number

        return several

    def of_all(act: Callable[[], object]) -> int:
        _parse.cache_clear()  # or it would know few hosts, and not many
        act()
        return len(configured)

    def choose(i: int) -> None:
        one.from_email = f"s@{i}.example"
        host_of_sender(one)

    return {
        "choose a host by its sender": times(choose),
        "get_connection": times(lambda i: get_connection(keys[i])),
        "get_connection with options": times(lambda i: get_connection(keys[i], timeout=5)),
        "an unknown key": times(lambda i: get_connection(f"unknown-{next(turn)}")),
        "a failover send": times(lambda i: get_connection("safe").send_messages([one])),
        "check, a host": lambda: of_all(lambda: run_checks(tags=["email_hosts"])),
        "mailers(), a host": lambda: of_all(lambda: mailers(configured)),
    }


def seconds_each(act: Act, seconds: float) -> float:
    """Return the processor time that it takes once, whatever else the machine does."""
    done, start = 0, time.process_time()
    while not done or time.process_time() - start < seconds:
        done += act()
    return (time.process_time() - start) / done


def compare_parked(server: Server, rounds: int, seconds: float) -> None:
    """Print what a kept connection costs after many hosts have parked some."""
    acts: dict[str, Act] = {
        "a send over a kept connection": lambda: kept(server).send_messages([message(1)]),
        "a finished request": lambda: len(request_finished.send(sender=None)),
    }
    for name, act in acts.items():
        costs: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for those, number in zip(costs, (0, MANY), strict=True):
                for i in range(number):
                    parked = PooledConnection(SMTP(), "h:25", i, pool.clock() + 3600)
                    pool.park(parked, max_idle=10)
                act()
                those.append(seconds_each(act, seconds))
                pool.close_all()
        show(f"{name}, {MANY:,} parked to 1", costs[1], costs[0], "1.5")


if __name__ == "__main__":
    main()
