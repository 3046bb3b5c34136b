"""Measure how the cost grows: with hosts and kept connections. ``--quick`` ends in a minute.

Everything is a ratio within one run, and each pair is measured in turns.
"""

import subprocess
import sys
import time
from itertools import cycle
from statistics import median

import django
from django.conf import settings
from django.core.signals import request_finished
from django.test import override_settings

from email_hosts.backends import get_connection
from email_hosts.registry import host_of_sender
from email_hosts.smtp.connection import SMTP
from email_hosts.smtp.pool import PooledConnection, pool

from .__main__ import servers
from .ways import kept, messages

DSN = "submission://u:{0}@smtp.example.com?_default_from_email=s@{0}.example"
FEW, MANY = 10, 10_000
ROUNDS, SECONDS = (range(3), 0.1) if "--quick" in sys.argv else (range(5), 0.3)


def main():
    settings.configure(USE_TZ=True, EMAIL_HOSTS={}, INSTALLED_APPS=["email_hosts"])
    django.setup()
    print(f"{len(ROUNDS)} rounds\n{'':52}{'ratio (min - max)':24}wanted")
    compare_imports()
    compare_hosts()
    with servers([0]) as at:
        compare_parked(at[0])


def show(name, ones, others, wanted, more=""):
    """Print how many times as much the ones are, round by round."""
    ratios = [one / other for one, other in zip(ones, others, strict=True)]
    between = f"{median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
    print(f"{name:52}{between:24}{wanted:8}{more}".rstrip(), flush=True)


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


def compare_imports():
    """Print what importing the app costs, compared with Django and its mail."""
    command = [sys.executable, "-W", "ignore", "-c", IMPORTS]
    subprocess.check_output(command)  # compiles what was not
    outputs = [subprocess.check_output(command, text=True) for _ in ROUNDS]
    rows = [[float(number) for number in output.split()] for output in outputs]
    ours, theirs, modules = zip(*rows, strict=True)
    more = f"{median(ours) * 1000:.1f} ms, {modules[0]:.0f} modules"
    show("import email_hosts.backends, to django.setup()", ours, theirs, "0.2", more)


def compare_hosts():
    """Print what a choice costs with many hosts, compared with few."""
    costs: dict[str, dict[int, list[float]]] = {}
    for _ in ROUNDS:
        for number in (FEW, MANY):
            keys = [f"shop-{i}" for i in range(number)]
            hosts = {key: DSN.format(key) for key in keys}
            hosts |= {"a": "dummy:", "b": "dummy:", "safe": "failover:a,b"}
            with override_settings(EMAIL_HOSTS=hosts):
                for name, act in choices(keys).items():
                    ones = costs.setdefault(name, {FEW: [], MANY: []})
                    ones[number].append(seconds_each(act))
    for name, ones in costs.items():
        more = f"{median(ones[MANY]) * 1000:.3f} ms"
        show(f"{name}, {MANY:,} hosts to {FEW}", ones[MANY], ones[FEW], "1.5", more)


def choices(keys):
    """Return what is done with the hosts of these keys."""
    turn = cycle(keys)
    batch = messages(1, 1)

    def choose():
        batch[0].from_email = f"s@{next(turn)}.example"
        host_of_sender(batch[0])

    return {
        "choose a host by its sender": choose,
        "get_connection": lambda: get_connection(next(turn)),
        "a failover send": lambda: get_connection("safe").send_messages(batch),
    }


def seconds_each(act):
    """Return the processor time that it takes once, whatever else the machine does."""
    act()  # what is done once is not counted
    done, start = 0, time.process_time()
    while not done or time.process_time() - start < SECONDS:
        act()
        done += 1
    return (time.process_time() - start) / done


def compare_parked(server):
    """Print what a kept connection costs after many hosts have parked some."""
    acts = {
        "a send over a kept connection": lambda: kept(server).send_messages(messages(1, 1)),
        "a finished request": lambda: request_finished.send(sender=None),
    }
    for name, act in acts.items():
        costs: dict[int, list[float]] = {0: [], MANY: []}
        for _ in ROUNDS:
            for number, ones in costs.items():
                for i in range(number):
                    parked = PooledConnection(SMTP(), "h:25", i, pool.clock() + 3600)
                    pool.park(parked, max_idle=10)
                ones.append(seconds_each(act))
                pool.close_all()
        show(f"{name}, {MANY:,} parked to 1", costs[MANY], costs[0], "1.5")


if __name__ == "__main__":
    main()
