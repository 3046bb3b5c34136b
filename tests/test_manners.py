"""Servers as they are: each message is accepted once, or the caller is told; never twice."""

import logging
import smtplib
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import manners
import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from django.test import override_settings
from scripted import ScriptedServer

from email_hosts.backends import RoutingBackend, can_be_retried, get_connection
from email_hosts.smtp.pace import Pace
from email_hosts.smtp.pool import pool
from email_hosts.smtp.transaction import PATIENCE

STEPWISE = ("SIZE 10000000",)
COUNT = 6  # messages of a way to send
SENDER = "s@example.com"
GROUP = b"MAIL FROM:<s@example.com> size=999\r\nRCPT TO:<1@example.net>\r\nDATA\r\n"


@pytest.fixture(autouse=True)
def patience_is_short(monkeypatch):
    """What is swallowed is waited for."""
    for pace in (Pace.GROUPED, Pace.AHEAD):
        monkeypatch.setitem(PATIENCE, pace, 0.05)


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


class Way(NamedTuple):
    """How to send the six messages: with what host, and how many in one call."""

    options: dict[str, Any] = {}
    size: int = COUNT
    iterable: Callable[[list[EmailMessage]], Any] = list
    key: str | None = "first"  # None: the router
    fail_silently: bool = False

    def __call__(self, site):
        with site.settings(**self.options):
            for start in range(0, COUNT, self.size):
                batch = numbered(range(start, min(start + self.size, COUNT)))
                site.send(self.iterable(batch), self.key, fail_silently=self.fail_silently)


KEPT = {"conn_max_age": 60}
SEVERAL = {"parallel": 3}

# They write ahead, one connection at a time.
LISTS = {
    "list": Way(),
    "kept": Way(KEPT, 2),
    "silently": Way(fail_silently=True),
    "silently_kept": Way(KEPT, 3, fail_silently=True),
    "router": Way(key=None),
}
PARALLEL = {
    "parallel": Way(SEVERAL),
    "parallel_kept": Way({**SEVERAL, **KEPT}, 4),  # one of three connections has to send two
    "parallel_silently": Way(SEVERAL, fail_silently=True),
}
AHEAD = {**LISTS, **PARALLEL}
KEPT_SINGLY = Way(KEPT, 1)
FAILOVER_KEPT = Way(KEPT, 2, key="all")
WAYS = {
    **AHEAD,
    "singly": Way(size=1),
    "generator": Way(iterable=iter),
    "kept_singly": KEPT_SINGLY,
    "kept_generator": Way(KEPT, 3, iter),
    "failover": Way(key="all"),
    "failover_kept": FAILOVER_KEPT,
    "failover_generator": Way(iterable=iter, key="all"),
    "router_generator": Way(KEPT, iterable=iter, key=None),
}

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
    "takes the first": (manners.Alone, {}),
    "proxy": (manners.Proxy, {}),
    "syntax": (manners.SyntaxProxy, {}),
    "address": (manners.AddressProxy, {}),
    "option": (manners.OptionProxy, {}),
    "polite": (manners.PoliteProxy, {}),
    "rude": (manners.RudeProxy, {}),
    "synchronizes": (manners.Synchronizes, {}),
    "goodbye": (manners.SaysGoodbye, {}),
    "closes": (manners.Closes, {}),
    "resets": (manners.Resets, {}),
    "refuses the rest": (manners.RefusesTheRest, {}),
    "has no rest": (manners.HasNoRest, {}),
}
ALONE = [name for name, (kind, _) in MANNERS.items() if issubclass(kind, manners.Alone)]
NOT_AHEAD = ["refuses", "refuses once", "swallows", "drops after"]
# They cost nobody a message. Neither do the others where nothing is written ahead.
FREE = ["none", *NOT_AHEAD, "swallows in the clear", "no pipelining", *ALONE]
UNSURE = ["drops before", "drops untaken"]


@pytest.fixture
def start(clients):
    """Start a server with these manners, and a spare one."""
    servers = []

    def start(kind, **options):
        servers.extend([manners.Server(clients, kind, **options), ScriptedServer()])
        for server in servers[-2:]:
            server.__enter__()
        return Site(*servers[-2:])

    yield start
    for server in servers:
        server.__exit__()


def assert_nothing_is_lost_or_twice(site, caplog):
    """Each message was accepted once, or the caller was told. None was accepted twice."""
    accepted = site.accepted()
    assert set(accepted.values()) <= {1}
    is_logged = any(record.levelno == logging.WARNING for record in caplog.records)
    is_told = bool(site.errors) or (is_logged and site.sent < COUNT)
    assert len(accepted) == COUNT or is_told
    if not site.errors:
        assert site.sent <= len(accepted)
    return len(accepted)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("manner", MANNERS)
def test_message_is_accepted_once_or_the_caller_is_told(manner, way, start, caplog):
    kind, options = MANNERS[manner]
    site = start(kind, **options)
    WAYS[way](site)
    delivered = assert_nothing_is_lost_or_twice(site, caplog)
    if manner in FREE or (manner in UNSURE and way not in AHEAD):
        assert (delivered, site.sent, site.errors) == (COUNT, COUNT, [])


@pytest.mark.parametrize("way", AHEAD)
@pytest.mark.parametrize("manner", [*NOT_AHEAD, "swallows in the clear", *UNSURE])
def test_nothing_is_written_ahead_again_to_a_server_that_does_not_take_it(manner, way, start):
    kind, options = MANNERS[manner]
    site = start(kind, **options)
    AHEAD[way](site)
    groups = list(site.server.groups)
    assert 1 <= len(groups) <= (3 if way in PARALLEL else 1)
    site.errors.clear()
    for again in ("list", "kept", "parallel", "router"):
        AHEAD[again](site)
    assert (site.server.groups, site.errors) == (groups, [])


@pytest.mark.parametrize("manner", MANNERS)
def test_as_many_are_delivered_as_by_djangos_backend(manner, start):
    """Or more. It sends one command at a time."""
    kind, options = MANNERS[manner]
    theirs, ours = start(kind, **options), start(kind, **options)
    backend = EmailBackend(
        host="127.0.0.1", port=theirs.server.port, timeout=20, fail_silently=True, alias="x"
    )
    backend.send_messages(numbered(range(COUNT)))
    WAYS["silently"](ours)
    missing = {"drops before": 1, "drops untaken": 1}.get(manner, 0)
    assert len(ours.accepted()) >= len(theirs.accepted()) - missing


@pytest.mark.parametrize("way", ["list", "singly", "kept_singly", "generator", "parallel"])
@pytest.mark.parametrize("manner", ALONE)
def test_server_that_cannot_pipeline_costs_one_connection_once(manner, way, start):
    kind, options = MANNERS[manner]
    site, good = start(kind, **options), start(manners.Session)
    for each in (site, good):
        WAYS[way](each)
    in_parallel = way == "parallel"  # each of three connections may find out by itself
    found_out = len(site.server.refused)
    assert 1 <= found_out <= (3 if in_parallel else 1)
    if not in_parallel:  # otherwise, it depends on who is faster
        assert site.server.connections == good.server.connections + 1
    WAYS[way](site)
    assert (len(site.server.refused), site.errors) == (found_out, [])


@pytest.mark.parametrize("way", ["list", "singly", "generator", "kept", "parallel"])
def test_refusal_that_a_reset_destroys_is_found_out(way, start, caplog):
    """The recipient is refused for good, which "connection lost" would not tell."""
    site = start(manners.LosesTheRefusal)
    WAYS[way](site)
    (error,) = site.errors
    assert isinstance(error, smtplib.SMTPRecipientsRefused)
    assert error.recipients == {"2@example.net": (550, b"5.1.1 no user")}
    assert not can_be_retried(error)


@pytest.mark.parametrize("way", ["silently", "parallel_silently"])
def test_refusal_that_a_reset_destroys_ends_no_list(way, start):
    site = start(manners.LosesTheRefusal)
    WAYS[way](site)
    assert (sorted(site.accepted()), site.sent) == ([0, 1, 3, 4, 5], COUNT - 1)


@pytest.mark.parametrize("kind", [manners.Breaks, manners.SwallowsSome])
@pytest.mark.parametrize(
    ("at", "way"),
    [
        (at, way)
        for at in range(1, len(GROUP) + 1)
        for way in AHEAD
        if way in ("list", "kept") or GROUP[:at].endswith(b"\r\n")  # between commands
    ],
)
def test_break_at_any_byte_of_what_was_written_ahead(
    kind, at, way, start, caplog, monkeypatch
):
    monkeypatch.setattr(manners.Breaks, "at", at)
    site = start(kind)
    AHEAD[way](site)
    delivered = assert_nothing_is_lost_or_twice(site, caplog)
    assert {len(group) for group in site.server.groups} == {len(GROUP)}
    if kind is manners.Breaks and at == len(GROUP):
        return  # the end comes after all the replies, and perhaps after the body
    assert len(site.server.groups) <= (3 if way in PARALLEL else 1)
    assert (delivered, site.sent, site.errors) == (COUNT, COUNT, [])


@pytest.mark.parametrize(
    ("with_tls", "groups"), [(False, 1), (True, COUNT - 1)], ids=["in the clear", "tls"]
)
def test_server_that_swallows_only_in_the_clear(
    with_tls, groups, start, tls, cafile, monkeypatch
):
    """With TLS, each write is a record of its own."""
    monkeypatch.setitem(PATIENCE, Pace.AHEAD, 20 if with_tls else 0.05)
    site = start(manners.SwallowsInTheClear, tls=tls if with_tls else None)
    with site.settings(**({"ssl_cafile": cafile} if with_tls else {})):
        site.send(numbered(range(COUNT)))
    assert (sorted(site.accepted()), site.sent) == (list(range(COUNT)), COUNT)
    assert len(site.server.groups) == groups


class TestSessionThatTheServerHasGivenUp:
    """4xx to MAIL, to all RCPTs or to DATA: it is not parked, and replaced if it was."""

    def test_after_some_messages_is_replaced_at_no_cost(self, start):
        site = start(manners.Tires)
        KEPT_SINGLY(site)
        assert (site.sent, site.errors, len(site.accepted())) == (COUNT, [], COUNT)
        assert site.server.connections == COUNT / 2

    def test_within_a_list_is_replaced_if_it_was_parked(self, start):
        site = start(manners.Tires)
        with site.settings(conn_max_age=60):
            site.send(numbered([0]))
            site.send(numbered([1, 2, 3]))
        assert (site.sent, site.errors, len(site.accepted())) == (4, [], 4)
        assert site.server.connections == 2

    def test_within_a_list_over_a_new_connection_is_an_error_once(self, start):
        site = start(manners.Tires)
        with site.settings(conn_max_age=60):
            site.send(numbered([0, 1, 2, 3]))
            site.send(numbered([2, 3]))
        (error,) = site.errors
        assert (error.smtp_code, can_be_retried(error)) == (452, True)
        assert sorted(site.accepted()) == [0, 1, 2, 3]
        assert site.server.connections == 2

    def test_that_is_the_first_is_not_the_next(self, start):
        site = start(manners.Defers)
        KEPT_SINGLY(site)
        (error,) = site.errors
        assert isinstance(error, smtplib.SMTPRecipientsRefused)
        assert can_be_retried(error)
        assert sorted(site.accepted()) == list(range(1, COUNT))
        assert site.server.connections == 2

    @pytest.mark.parametrize("manner", [manners.Tires, manners.Defers])
    def test_costs_nothing_where_there_is_another_host(self, manner, start):
        site = start(manner)
        FAILOVER_KEPT(site)
        assert (site.sent, site.errors, len(site.accepted())) == (COUNT, [], COUNT)
