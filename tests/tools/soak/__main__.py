"""Sends mail while servers misbehave. Exits with 1 if a message is not accounted for."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice

import django
from django.conf import settings
from django.core.mail import EmailMessage

from email_hosts.backends import get_connection

from .account import Account
from .chaos import Chaos

HOSTS = ("one", "two", "three")
WAYS = (*5 * ["failover"], *2 * ["roundrobin"], *HOSTS)
BATCHES = (*50 * [1], 10)
OPTIONS = "timeout=0.25&conn_max_age=5&conn_max_messages=50"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=__doc__)
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=600, help="stop after these")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seed", default=str(random.randrange(10**6)))  # noqa: S311
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}")
    # A send that does not end is a mistake like any other: show where, and exit with 1.
    faulthandler.dump_traceback_later(chosen.seconds + 60, exit=True)
    with ExitStack() as stack:
        servers = [stack.enter_context(Chaos(f"{chosen.seed} {host}")) for host in HOSTS]
        warnings = configure([server.port for server in servers])
        numbers = iter(range(chosen.messages))
        account = Account()
        started = time.monotonic()
        with ThreadPoolExecutor(chosen.threads) as pool:
            senders = [
                pool.submit(send, numbers, account, f"{chosen.seed} {thread}", chosen.seconds)
                for thread in range(chosen.threads)
            ]
        for sender in senders:
            sender.result()  # raises what it has raised
        seconds = time.monotonic() - started
    accepted = [message for server in servers for message in server.accepted]
    messages = chosen.messages - len(list(numbers))
    mistakes = account.mistakes(messages, accepted)
    if len(account.sent) <= messages / 2:
        mistakes.append("most messages were not sent: this proves nothing")
    print(f"{messages} messages in {seconds:.0f} seconds, {len(accepted)} accepted")
    print(f"{len(account.sent)} sent, {len(account.not_sent)} surely not, ", end="")
    print(f"{len(account.unsure)} perhaps: {dict(account.errors)}")
    print(f"{sum(server.restarts for server in servers)} restarts, {dict(warnings)}")
    for mistake in mistakes[:20]:
        print(mistake)
    print(f"{len(mistakes)} mistakes" if mistakes else "All messages are accounted for.")
    return int(bool(mistakes))


def configure(ports: list[int]) -> Counter[str]:
    """Make a project with a host for each server, and hosts of these.

    Returns a count of its warnings, which go nowhere else.
    """
    several = f"{','.join(HOSTS)}?retry=0.1"
    settings.configure(
        EMAIL_HOSTS={
            "failover": f"failover:{several}",
            "roundrobin": f"roundrobin:{several}",
            **{
                host: f"smtp://127.0.0.1:{port}?_default_from_email={host}@example.com&{OPTIONS}"
                for host, port in zip(HOSTS, ports, strict=True)
            },
        }
    )
    django.setup()
    warnings: Counter[str] = Counter()

    def count(record: logging.LogRecord) -> bool:
        warnings[record.msg] += 1
        return False

    logging.getLogger("email_hosts").addFilter(count)
    return warnings


def send(numbers: Iterator[int], account: Account, seed: str, seconds: float) -> None:
    """Send messages with these numbers until there are no more, or the time is over."""
    choose = random.Random(seed).choice  # noqa: S311
    end = time.monotonic() + seconds
    while time.monotonic() < end and (batch := list(islice(numbers, choose(BATCHES)))):
        messages = [
            EmailMessage(str(number), "Hello", to=[f"{number}@example.net", "all@example.net"])
            for number in batch
        ]
        try:
            sent = get_connection(choose(WAYS)).send_messages(messages)
        except OSError as error:
            account.report(batch, error)
        else:
            assert sent == len(batch)
            account.sent += batch


if __name__ == "__main__":
    sys.exit(main())
