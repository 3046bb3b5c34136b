"""Servers as they are: each message is accepted once, or the caller is told; never twice."""

import logging
import smtplib
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import manners
import pytest
from conftest import mails
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from django.test import override_settings
from scripted import AND_CLOSE, CLOSE, RESET, TAKEN, ScriptedServer

from email_hosts.backends import RoutingBackend, can_be_retried, get_connection
from email_hosts.smtp.pace import Pace
from email_hosts.smtp.pool import pool
from email_hosts.smtp.transaction import PATIENCE

COUNT = 6  # messages of a way to send
GROUP = b"MAIL FROM:<sender@example.com> size=999\r\nRCPT TO:<1@example.net>\r\nDATA\r\n"


@pytest.fixture(autouse=True)
def patience_is_short(monkeypatch):
    """What is swallowed is waited for."""
    for pace in (Pace.GROUPED, Pace.AHEAD):
        monkeypatch.setitem(PATIENCE, pace, 0.05)


def numbered(numbers):
    return mails(*map(str, numbers), content="x" * 700)


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
KEPT_SINGLY = Way(KEPT, 1)
FAILOVER_KEPT = Way(KEPT, 2, key="all")
AHEAD = {  # what writes ahead
    "list": Way(),
    "kept": Way(KEPT, 2),
    "silently": Way(fail_silently=True),
    "router": Way(key=None),
    "parallel": Way({"parallel": 3}),
    "parallel kept": Way({"parallel": 3, **KEPT}, 4, fail_silently=True),
}
GROUPED = {
    "singly": Way(size=1),
    "generator": Way(iterable=iter),
    "kept generator": Way(KEPT, 3, iter),
    "failover": FAILOVER_KEPT,
}

REFUSAL = b"503 5.5.1 bad sequence of commands\r\n"

# What servers do with what is behind a body. The first cost nobody a message.
BEHIND = {
    "swallows": (manners.Swallows, {}),
    "refuses": (manners.Swallows, {"each": REFUSAL}),
    "refuses once": (manners.Swallows, {"once": REFUSAL}),
    "swallows in the clear": (manners.SwallowsInTheClear, {}),
    "drops after": (manners.Drops, {}),
}
UNSURE = {
    "drops before": (manners.Drops, {"end": TAKEN}),
    "drops untaken": (manners.Drops, {"end": CLOSE}),
}
# And with groups.
ALONE = {
    "takes the first": (manners.Alone, {}),
    "refuses the rest": (manners.Alone, {"each": REFUSAL}),
    "has no rest": (manners.Alone, {"each": b"502 not implemented\r\n"}),
    "proxy": (manners.Proxy, {}),
    "syntax": (manners.Proxy, {"once": "501 5.5.4 Syntax error in parameters"}),
    "address": (manners.Proxy, {"once": "553 malformed address"}),
    "option": (manners.Proxy, {"once": "555 unsupported parameter"}),
    "polite": (manners.Proxy, {"once": "451 4.3.0 try again later"}),
    "rude": (manners.Proxy, {"once": "550 5.7.1 refused" + AND_CLOSE}),
    "synchronizes": (manners.Proxy, {"once": "554 SMTP synchronization error" + AND_CLOSE}),
    "goodbye": (manners.Proxy, {"once": "421 4.7.0 bye" + AND_CLOSE}),
    "closes": (manners.Proxy, {"once": CLOSE}),
    "resets": (manners.Proxy, {"once": RESET}),
}
OTHERS = {
    "none": (manners.Session, {}),
    "tires": (manners.Tires, {}),
    "defers": (manners.Defers, {}),
}
MANNERS = {**BEHIND, **UNSURE, **ALONE, **OTHERS}
# Where the manners make a difference.
CASES = [
    *((manner, way) for manner in {**BEHIND, **UNSURE} for way in AHEAD),
    *((manner, way) for manner in ALONE for way in ("list", "parallel", *GROUPED)),
    *((manner, way) for manner in OTHERS for way in ("parallel", "router", "kept generator")),
]
WAYS = {**AHEAD, **GROUPED}


@pytest.fixture
def start():
    """Start a server with these manners, and a spare one."""
    servers = []

    def start(kind, details=(), **options):
        server = manners.Server(clients, kind, **dict(details), **options)
        servers.extend([server, ScriptedServer()])
        for each in servers[-2:]:
            each.__enter__()
        return Site(*servers[-2:])

    with manners.Clients() as clients:
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


@pytest.mark.parametrize(("manner", "way"), CASES)
def test_message_is_accepted_once_or_the_caller_is_told(manner, way, start, caplog):
    """Who cannot take a pace costs a connection once, and is not asked to again."""
    site = start(*MANNERS[manner])
    WAYS[way](site)
    delivered = assert_nothing_is_lost_or_twice(site, caplog)
    if manner not in UNSURE and manner not in OTHERS:
        assert (delivered, site.sent, site.errors) == (COUNT, COUNT, [])
    found_out = site.server.refused if manner in ALONE else site.server.groups
    if manner not in OTHERS:  # each of three connections may find out by itself
        assert 1 <= len(found_out) <= (3 if "parallel" in way else 1)
        before = list(found_out)
        site.errors.clear()
        for again in ("list", "kept", "parallel", "router"):
            WAYS[again](site)
        assert (found_out, site.errors) == (before, [])


@pytest.mark.parametrize("way", ["list", "generator"])
@pytest.mark.parametrize("manner", ALONE)
def test_server_that_cannot_pipeline_costs_one_connection(manner, way, start):
    site, good = start(*MANNERS[manner]), start(manners.Session)
    for each in (site, good):
        WAYS[way](each)
    assert site.server.connections == good.server.connections + 1


@pytest.mark.parametrize("manner", MANNERS)
def test_as_many_are_delivered_as_by_djangos_backend(manner, start):
    """Or more. It sends one command at a time."""
    theirs, ours = start(*MANNERS[manner]), start(*MANNERS[manner])
    backend = EmailBackend(
        host="127.0.0.1", port=theirs.server.port, timeout=20, fail_silently=True, alias="x"
    )
    backend.send_messages(numbered(range(COUNT)))
    WAYS["silently"](ours)
    assert len(ours.accepted()) >= len(theirs.accepted()) - (manner in UNSURE)


@pytest.mark.parametrize("way", ["list", "singly", "generator", "kept", "parallel"])
def test_refusal_that_a_reset_destroys_is_found_out(way, start):
    """The recipient is refused for good, which "connection lost" would not tell."""
    site = start(manners.LosesTheRefusal)
    WAYS[way](site)
    (error,) = site.errors
    assert isinstance(error, smtplib.SMTPRecipientsRefused)
    assert error.recipients == {"2@example.net": (550, b"5.1.1 no user")}
    assert not can_be_retried(error)


@pytest.mark.parametrize("way", ["silently", "parallel kept"])
def test_refusal_that_a_reset_destroys_ends_no_list(way, start):
    site = start(manners.LosesTheRefusal)
    WAYS[way](site)
    assert (sorted(site.accepted()), site.sent) == ([0, 1, 3, 4, 5], COUNT - 1)


# Around the end of each command, and in its middle.
BYTES = [
    at
    for at in range(1, len(GROUP) + 1)
    if b"\n" in GROUP[at - 2 : at + 2] or at in (5, 20, 50)
]


@pytest.mark.parametrize("kind", [manners.Breaks, manners.SwallowsSome])
@pytest.mark.parametrize("at", BYTES)
@pytest.mark.parametrize("way", ["list", "kept", "parallel"])
def test_break_at_a_byte_of_what_was_written_ahead(kind, at, way, start, caplog):
    site = start(kind, {"at": at})
    AHEAD[way](site)
    delivered = assert_nothing_is_lost_or_twice(site, caplog)
    assert {len(group) for group in site.server.groups} == {len(GROUP)}
    if kind is manners.Breaks and at == len(GROUP):
        return  # the end comes after all the replies, and perhaps after the body
    assert len(site.server.groups) <= (3 if way == "parallel" else 1)
    assert (delivered, site.sent, site.errors) == (COUNT, COUNT, [])


@pytest.mark.parametrize("with_tls", [False, True], ids=["in the clear", "tls"])
def test_server_that_swallows_only_in_the_clear(with_tls, start, tls, cafile, monkeypatch):
    """With TLS, each write is a record of its own."""
    monkeypatch.setitem(PATIENCE, Pace.AHEAD, 20 if with_tls else 0.05)
    site = start(manners.SwallowsInTheClear, tls=tls if with_tls else None)
    with site.settings(**({"ssl_cafile": cafile} if with_tls else {})):
        site.send(numbered(range(COUNT)))
    assert (sorted(site.accepted()), site.sent) == (list(range(COUNT)), COUNT)
    assert len(site.server.groups) == (COUNT - 1 if with_tls else 1)


class TestSessionThatTheServerHasGivenUp:
    """4xx to MAIL, to all RCPTs or to DATA: it is not parked, and replaced if it was."""

    def test_after_some_messages_is_replaced_at_no_cost(self, start):
        site = start(manners.Tires)
        KEPT_SINGLY(site)
        assert (site.sent, site.errors, len(site.accepted())) == (COUNT, [], COUNT)
        assert site.server.connections == COUNT / 2

    @pytest.mark.parametrize(
        ("lists", "codes"), [([[0], [1, 2, 3]], []), ([[0, 1, 2, 3], [2, 3]], [452])]
    )
    def test_within_a_list_is_replaced_if_it_was_parked(self, lists, codes, start):
        """Over a new connection, it is an error once."""
        site = start(manners.Tires)
        with site.settings(conn_max_age=60):
            for each in lists:
                site.send(numbered(each))
        assert [error.smtp_code for error in site.errors] == codes
        assert all(can_be_retried(error) for error in site.errors)
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
