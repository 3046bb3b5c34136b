"""Sends mail while servers misbehave. Exits with 1 if a message is not accounted for."""

import argparse
import faulthandler
import logging
import random
import re
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import django
from django.conf import settings
from django.core.mail import EmailMessage
from scripted import BODY, CLOSE, HANG, RESET, TAKEN, ScriptedServer

from email_hosts.backends import can_be_retried, get_connection

MESSAGES, THREADS = 50_000, 8
HOSTS = ("one", "two", "three")
WAYS = (*5 * ["failover"], *2 * ["roundrobin"], *HOSTS)
BATCHES = (*50 * [1], 10)
RECIPIENTS = ["someone@example.net", "all@example.net"]
OPTIONS = "timeout=0.25&conn_max_age=5&conn_max_messages=50"

FAULTS = {
    "banner": [CLOSE, RESET, HANG, "421 too busy", "554 go away"],
    "EHLO": [CLOSE, HANG, "421 too busy"],
    "MAIL": [CLOSE, RESET, HANG, "421 closing", "451 later", "550 no", "what?"],
    "RCPT": [CLOSE, HANG, "421 closing", "450 later", "550 no such user"],
    "DATA": [CLOSE, RESET, HANG, "421 closing", "451 later", "554 no"],
    "CONTENT": [CLOSE, RESET],
    BODY: [CLOSE, RESET, HANG, TAKEN, TAKEN, "421 closing", "451 later", "554 spam", "what?"],
    "RSET": [CLOSE, "421 closing"],
    "QUIT": [CLOSE, HANG],
}
FAULTS_PER_STEP = 0.01
UP, DOWN = 1.0, 0.2  # seconds, on average


def main():
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="stop after these")
    parser.add_argument("--seed", default=str(random.randrange(10**6)))  # noqa: S311
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}")
    # A send that does not end is a mistake like any other: show where, and exit with 1.
    faulthandler.dump_traceback_later(chosen.seconds + 60, exit=True)
    account, done = Account(), threading.Event()
    servers = {host: ScriptedServer() for host in HOSTS}
    configure({host: server.port for host, server in servers.items()})
    with ThreadPoolExecutor(len(HOSTS) + THREADS) as pool:
        running = [
            pool.submit(misbehave, server, f"{chosen.seed} {host}", done)
            for host, server in servers.items()
        ]
        end = time.monotonic() + chosen.seconds
        seeds = [f"{chosen.seed} {thread}" for thread in range(THREADS)]
        try:
            list(pool.map(lambda seed: account.send(seed, end), seeds))
        finally:
            done.set()
    accepted = [message for each in running for message in each.result()]
    messages = MESSAGES - len(list(account.numbers))
    mistakes = account.mistakes(messages, accepted)
    if len(account.sent) <= messages / 2:
        mistakes.append("most messages were not sent: this proves nothing")
    print(f"{messages} messages, {len(accepted)} accepted, {len(account.sent)} sent, ", end="")
    print(f"{len(account.not_sent)} surely not, {len(account.unsure)} perhaps")
    for mistake in mistakes[:20]:
        print(mistake)
    print(f"{len(mistakes)} mistakes" if mistakes else "All messages are accounted for.")
    return int(bool(mistakes))


def configure(ports):
    """Make a project with a host for each server, and hosts of these."""
    several = f"{','.join(HOSTS)}?retry=0.1"
    hosts = {
        host: f"smtp://127.0.0.1:{port}?_default_from_email={host}@example.com&{OPTIONS}"
        for host, port in ports.items()
    }
    hosts |= {"failover": f"failover:{several}", "roundrobin": f"roundrobin:{several}"}
    settings.configure(EMAIL_HOSTS=hosts)
    django.setup()
    logging.disable()  # it would log thousands of faults


class Account:
    """What the senders were told, by the number of each message."""

    def __init__(self) -> None:
        self.numbers = iter(range(MESSAGES))
        self.sent: list[int] = []
        self.not_sent: list[int] = []  # surely
        self.unsure: list[int] = []

    def send(self, seed, end):
        """Send the next messages until there are no more, or the time is over."""
        choose = random.Random(seed).choice  # noqa: S311
        while time.monotonic() < end and (batch := [*islice(self.numbers, choose(BATCHES))]):
            messages = [EmailMessage(f"{each}", "Hello", to=RECIPIENTS) for each in batch]
            try:
                sent = get_connection(choose(WAYS)).send_messages(messages)
            except OSError as error:
                # Those before the one that failed have been sent.
                is_sure = can_be_retried(error) and len(batch) == 1
                (self.not_sent if is_sure else self.unsure).extend(batch)
            else:
                assert sent == len(batch)
                self.sent += batch

    def mistakes(self, messages, accepted):
        subjects = [re.findall(rb"^Subject: (\d+)\r$", one.content, re.M) for one in accepted]
        times = Counter(int(number) for (number,) in subjects)
        told = Counter([*self.sent, *self.not_sent, *self.unsure])
        return [
            *(f"{n}: not accounted for" for n in range(messages) if told[n] != 1),
            *(f"{n}: lost" for n in self.sent if times[n] == 0),
            *(f"{n}: reported as not sent, and was" for n in self.not_sent if times[n] > 0),
            *(f"{n}: accepted {count} times" for n, count in times.items() if count > 1),
        ]


def misbehave(server, seed, done):
    """Be up and down, with a fault now and then. Return which messages were accepted."""
    chance, accepted = random.Random(seed), []  # noqa: S311

    def script(step, argument):
        if chance.random() < FAULTS_PER_STEP and step in FAULTS:
            return chance.choice(FAULTS[step])
        return None

    server.script = script
    while True:
        with server:
            done.wait(chance.expovariate(1 / UP))
        accepted += server.accepted
        done.wait(chance.expovariate(1 / DOWN))
        if done.is_set():
            return accepted
        server = ScriptedServer(script, port=server.port)


if __name__ == "__main__":
    sys.exit(main())
