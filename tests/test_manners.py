"""Servers as they are: each message is accepted once, or the caller is told; never twice."""

import logging
import smtplib
from collections import Counter

import manners
import pytest
from django.core.mail import EmailMessage
from django.test import override_settings
from scripted import ScriptedServer

from email_hosts.backends import RoutingBackend, can_be_retried, get_connection
from email_hosts.smtp import pipelining
from email_hosts.smtp.pool import pool

STEPWISE = ("SIZE 10000000",)
COUNT = 6  # messages of a way to send
SENDER = "s@example.com"
GROUP = b"MAIL FROM:<s@example.com> size=999\r\nRCPT TO:<1@example.net>\r\nDATA\r\n"


@pytest.fixture(autouse=True)
def patience_is_short(monkeypatch):
    """What is swallowed is waited for."""
    monkeypatch.setattr(pipelining, "AHEAD_TIMEOUT", 0.05)


@pytest.fixture
def clients():
    with manners.Clients() as clients:
        yield clients


def numbered(numbers):
    headers = {"Date": "now", "Message-ID": "<1@example.com>"}
    return [
        EmailMessage("Subject", "x" * 700, SENDER, [f"{i}@example.net"], headers=headers)
        for i in numbers
    ]


class Site:
    """A server with manners, one without, and all ways to send messages through them."""

    def __init__(self, server, spare):
        self.server, self.spare = server, spare
        self.errors = []
        self.sent = 0

    def settings(self, **options):
        query = "&".join(f"{name}={value}" for name, value in options.items())
        scheme = "submission" if self.server.tls else "smtp"
        first = f"{scheme}://127.0.0.1:{self.server.port}?timeout=20&{query}"
        return override_settings(
            EMAIL_HOSTS={
                "first": first,
                "spare": f"smtp://127.0.0.1:{self.spare.port}?timeout=20",
                "default": first,
                "all": "failover:first,spare",
            }
        )

    def send(self, messages, key="first", **options):
        """Send the messages in one call, and note how it ends."""
        connection = (
            RoutingBackend(**options) if key is None else get_connection(key, **options)
        )
        try:
            self.sent += connection.send_messages(messages)
        except OSError as error:
            self.errors.append(error)

    def accepted(self):
        """Return how often each message was accepted, by its number, over all servers."""
        pool.close_all()
        for server in (self.server, self.spare):
            server.wait_for_clients_to_go()
        return Counter(
            int(recipient.partition("@")[0])
            for server in (self.server, self.spare)
            for one in server.accepted
            for recipient in one.recipients
        )


def singly(site):
    with site.settings():
        for message in numbered(range(COUNT)):
            site.send([message])


def list_(site):
    with site.settings():
        site.send(numbered(range(COUNT)))


def generator(site):
    with site.settings():
        site.send(message for message in numbered(range(COUNT)))


def kept(site):
    with site.settings(conn_max_age=60):
        for start in range(0, COUNT, 2):
            site.send(numbered(range(start, start + 2)))


def kept_singly(site):
    with site.settings(conn_max_age=60):
        for message in numbered(range(COUNT)):
            site.send([message])


def kept_generator(site):
    with site.settings(conn_max_age=60):
        for start in range(0, COUNT, 3):
            site.send(message for message in numbered(range(start, start + 3)))


def silently(site):
    with site.settings():
        site.send(numbered(range(COUNT)), fail_silently=True)


def silently_kept(site):
    with site.settings(conn_max_age=60):
        for start in range(0, COUNT, 3):
            site.send(numbered(range(start, start + 3)), fail_silently=True)


def failover(site):
    with site.settings():
        site.send(numbered(range(COUNT)), "all")


def failover_kept(site):
    with site.settings(conn_max_age=60):
        for start in range(0, COUNT, 2):
            site.send(numbered(range(start, start + 2)), "all")


def failover_generator(site):
    with site.settings():
        site.send((message for message in numbered(range(COUNT))), "all")


def router(site):
    with site.settings():
        site.send(numbered(range(COUNT)), None)


def router_generator(site):
    with site.settings(conn_max_age=60):
        site.send((message for message in numbered(range(COUNT))), None)


def parallel(site):
    with site.settings(parallel=3):
        site.send(numbered(range(COUNT)))


def parallel_kept(site):
    with site.settings(parallel=3, conn_max_age=60):
        site.send(numbered(range(4)))  # one of the three connections has to send two
        site.send(numbered(range(4, COUNT)))


def parallel_silently(site):
    with site.settings(parallel=3):
        site.send(numbered(range(COUNT)), fail_silently=True)


WAYS = [
    *(singly, list_, generator, kept, kept_singly, kept_generator, silently, silently_kept),
    *(failover, failover_kept, failover_generator, router, router_generator),
    *(parallel, parallel_kept, parallel_silently),
]
# They write ahead, one connection at a time.
LISTS = [list_, kept, silently, silently_kept, router]
PARALLEL = [parallel, parallel_kept, parallel_silently]

MANNERS = {
    "none": (manners.Session, {}),
    "refuses": (manners.Refuses, {}),
    "refuses once": (manners.RefusesOnce, {}),
    "swallows": (manners.Swallows, {}),
    "swallows in the clear": (manners.SwallowsInTheClear, {}),
    "drops before": (manners.DropsBefore, {}),
    "drops untaken": (manners.DropsUntaken, {}),
    "drops after": (manners.DropsAfter, {}),
    "tires": (manners.Tires, {}),
    "defers": (manners.Defers, {}),
    "no pipelining": (manners.Session, {"extensions": STEPWISE}),
}
NOT_AHEAD = ["refuses", "refuses once", "swallows", "drops after"]
# They cost nobody a message. Neither do the others where nothing is written ahead.
FREE = ["none", *NOT_AHEAD, "swallows in the clear", "no pipelining"]
UNSURE = ["drops before", "drops untaken"]


@pytest.fixture
def start(clients):
    """Start a server with these manners, and a spare one."""
    servers = []

    def start(kind, **options):
        servers.extend([manners.Server(clients, kind, **options), ScriptedServer()])
        for server in servers:
            server.__enter__()
        return Site(*servers)

    yield start
    for server in servers:
        server.__exit__()


def assert_nothing_is_lost_or_twice(site, records):
    """Each message was accepted once, or the caller was told. None was accepted twice."""
    accepted = site.accepted()
    assert set(accepted.values()) <= {1}
    is_told = bool(site.errors) or (len(records) > 0 and site.sent < COUNT)
    assert len(accepted) == COUNT or is_told
    if not site.errors:
        assert site.sent <= len(accepted)
    return len(accepted)


def log(caplog):
    return [record for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("manner", MANNERS)
def test_message_is_accepted_once_or_the_caller_is_told(manner, way, start, caplog):
    kind, options = MANNERS[manner]
    site = start(kind, **options)
    way(site)
    delivered = assert_nothing_is_lost_or_twice(site, log(caplog))
    is_ahead = way in LISTS + PARALLEL
    if manner in FREE or (manner in UNSURE and not is_ahead):
        assert (delivered, site.sent, site.errors) == (COUNT, COUNT, [])


@pytest.mark.parametrize("way", LISTS + PARALLEL, ids=lambda way: way.__name__)
@pytest.mark.parametrize("manner", [*NOT_AHEAD, "swallows in the clear", *UNSURE])
def test_nothing_is_written_ahead_again_to_a_server_that_does_not_take_it(manner, way, start):
    kind, options = MANNERS[manner]
    site = start(kind, **options)
    way(site)
    groups = list(site.server.groups)
    assert 1 <= len(groups) <= (3 if way in PARALLEL else 1)
    site.errors.clear()
    for again in (list_, kept, parallel, router):
        again(site)
    assert (site.server.groups, site.errors) == (groups, [])


def breaks():
    """Give each byte of a group, and what happens there, to the ways that write ahead."""
    for kind in (manners.Breaks, manners.BreaksUnanswered, manners.SwallowsSome):
        for at in range(1, len(GROUP) + 1):
            is_between_commands = GROUP[:at].endswith(b"\r\n")
            others = [silently, silently_kept, router, *PARALLEL]
            for way in [list_, kept, *is_between_commands * others]:
                yield pytest.param(kind, at, way, id=f"{kind.__name__}-{at}-{way.__name__}")


@pytest.mark.parametrize(("kind", "at", "way"), list(breaks()))
def test_break_at_any_byte_of_what_was_written_ahead(
    kind, at, way, start, caplog, monkeypatch
):
    monkeypatch.setattr(manners.Breaks, "at", at)
    site = start(kind)
    way(site)
    delivered = assert_nothing_is_lost_or_twice(site, log(caplog))
    assert {len(group) for _, group in site.server.groups} == {len(GROUP)}
    if kind is manners.Breaks and at == len(GROUP):
        return  # the end comes after all the replies, and perhaps after the body
    assert len(site.server.groups) <= (3 if way in PARALLEL else 1)
    if kind is not manners.BreaksUnanswered:
        assert (delivered, site.sent, site.errors) == (COUNT, COUNT, [])


@pytest.mark.parametrize(
    ("with_tls", "groups"), [(False, 1), (True, COUNT - 1)], ids=["in the clear", "tls"]
)
def test_server_that_swallows_only_in_the_clear(
    with_tls, groups, start, tls, cafile, monkeypatch
):
    """With TLS, each write is a record of its own."""
    monkeypatch.setattr(pipelining, "AHEAD_TIMEOUT", 20 if with_tls else 0.05)
    site = start(manners.SwallowsInTheClear, tls=tls if with_tls else None)
    with site.settings(**({"ssl_cafile": cafile} if with_tls else {})):
        site.send(numbered(range(COUNT)))
    assert (sorted(site.accepted()), site.sent) == (list(range(COUNT)), COUNT)
    assert len(site.server.groups) == groups


class TestSessionThatTheServerHasGivenUp:
    """4xx to MAIL, to all RCPTs or to DATA: it is not parked, and replaced if it was."""

    def connections(self, site):
        return site.server.connections

    def test_after_some_messages_is_replaced_at_no_cost(self, start):
        site = start(manners.Tires)
        kept_singly(site)
        assert (site.sent, site.errors, len(site.accepted())) == (COUNT, [], COUNT)
        assert self.connections(site) == COUNT / 2

    def test_within_a_list_is_replaced_if_it_was_parked(self, start):
        site = start(manners.Tires)
        with site.settings(conn_max_age=60):
            site.send(numbered([0]))
            site.send(numbered([1, 2, 3]))
        assert (site.sent, site.errors, len(site.accepted())) == (4, [], 4)
        assert self.connections(site) == 2

    def test_within_a_list_over_a_new_connection_is_an_error_once(self, start):
        site = start(manners.Tires)
        with site.settings(conn_max_age=60):
            site.send(numbered([0, 1, 2, 3]))
            site.send(numbered([2, 3]))
        (error,) = site.errors
        assert (error.smtp_code, can_be_retried(error)) == (452, True)
        assert sorted(site.accepted()) == [0, 1, 2, 3]
        assert self.connections(site) == 2

    def test_that_is_the_first_is_not_the_next(self, start):
        site = start(manners.Defers)
        kept_singly(site)
        (error,) = site.errors
        assert isinstance(error, smtplib.SMTPRecipientsRefused)
        assert can_be_retried(error)
        assert sorted(site.accepted()) == list(range(1, COUNT))
        assert self.connections(site) == 2

    @pytest.mark.parametrize("manner", [manners.Tires, manners.Defers])
    def test_costs_nothing_where_there_is_another_host(self, manner, start):
        site = start(manner)
        failover_kept(site)
        assert (site.sent, site.errors, len(site.accepted())) == (COUNT, [], COUNT)
