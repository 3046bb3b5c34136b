"""Servers as they are: each message is accepted once, or the caller is told; never twice."""

import logging
import smtplib
from collections import Counter
from functools import partial
from typing import Any

import manners
import pytest
from conftest import mails
from django.core.mail.backends.smtp import EmailBackend
from scripted import AND_CLOSE, CLOSE, RESET, TAKEN

from email_hosts.backends import EmailHostsBackend, can_be_retried
from email_hosts.smtp.pace import Pace
from email_hosts.smtp.pool import pool
from email_hosts.smtp.transaction import PATIENCE

COUNT = 6  # messages of a way to send
GROUP = b"MAIL FROM:<sender@example.com> size=999\r\nRCPT TO:<1@example.net>\r\nDATA\r\n"
REFUSAL = b"503 5.5.1 bad sequence of commands\r\n"

# What servers do with what is behind a body. It costs nobody a message, as a rule.
BEHIND: Any = {
    "swallows": (manners.Swallows, {}),
    "refuses": (manners.Swallows, {"each": REFUSAL}),
    "refuses once": (manners.Swallows, {"once": REFUSAL}),
    "swallows in the clear": (manners.SwallowsInTheClear, {}),
    "drops after": (manners.Drops, {}),
    "drops before": (manners.Drops, {"end": TAKEN}),
    "drops untaken": (manners.Drops, {"end": CLOSE}),
}
UNSURE = {"drops before", "drops untaken"}
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
OTHERS: Any = {
    "none": (manners.Session, {}),
    "tires": (manners.Tires, {}),
    "defers": (manners.Defers, {}),
    "loses the refusal": (manners.LosesTheRefusal, {}),
}
MANNERS = {**BEHIND, **ALONE, **OTHERS}


@pytest.fixture(autouse=True)
def patience_is_short(monkeypatch):
    """What is swallowed is waited for."""
    for pace in (Pace.GROUPED, Pace.AHEAD):
        monkeypatch.setitem(PATIENCE, pace, 0.05)


@pytest.fixture
def start():
    """Start a server with these manners."""
    servers = []

    def start(kind, details=(), **options):
        servers.append(manners.Server(clients, kind, **dict(details), **options))
        return servers[-1].__enter__()

    with manners.Clients() as clients:
        yield start
        for server in servers:
            server.__exit__()


def numbered(numbers):
    return mails(*map(str, numbers), content="x" * 700)


def send(server, batches=(range(COUNT),), *, of=list, **options):
    """Send in so many calls. Return the number that they return, and their errors."""
    sent, errors = 0, []
    for batch in batches:
        backend = EmailHostsBackend("127.0.0.1", server.port, timeout=20, **options)
        try:
            sent += backend.send_messages(of(numbered(batch)))
        except OSError as error:
            errors.append(error)
    return sent, errors


ONE_BY_ONE = [[number] for number in range(COUNT)]
AHEAD: Any = {  # what writes ahead
    "list": send,
    "kept": partial(send, batches=[[0, 1], [2, 3], [4, 5]], conn_max_age=60),
    "silently": partial(send, fail_silently=True),
    "parallel": partial(send, parallel=3),
    "parallel kept": partial(send, parallel=3, conn_max_age=60, fail_silently=True),
}
GROUPED: Any = {
    "singly": partial(send, batches=ONE_BY_ONE),
    "generator": partial(send, of=iter),
    "kept singly": partial(send, batches=ONE_BY_ONE, conn_max_age=60),
}
WAYS = {**AHEAD, **GROUPED}
# Where the manners make a difference.
CASES = [
    *((manner, way) for manner in BEHIND for way in AHEAD),
    *((manner, way) for manner in ALONE for way in ("list", "parallel", *GROUPED)),
    *((manner, way) for manner in OTHERS for way in WAYS),
]


def accepted(server):
    """Return how often each message was accepted, by its number."""
    pool.close_all()
    server.wait_for_clients_to_go()
    return Counter(int(one.recipients[0].partition("@")[0]) for one in server.accepted)


def delivered(server, sent, errors, caplog):
    """Return how many were accepted: each once, or the caller was told. None was twice."""
    times = accepted(server)
    assert set(times.values()) <= {1}
    is_logged = any(record.levelno == logging.WARNING for record in caplog.records)
    assert len(times) == COUNT or errors or (is_logged and sent < COUNT)
    assert errors or sent <= len(times)
    return len(times)


@pytest.mark.parametrize(("manner", "way"), CASES)
def test_message_is_accepted_once_or_the_caller_is_told(manner, way, start, caplog):
    """Who cannot take a pace costs a connection once, and is not asked to again."""
    server = start(*MANNERS[manner])
    sent, errors = WAYS[way](server)
    number = delivered(server, sent, errors, caplog)
    if manner in OTHERS:
        return
    if manner not in UNSURE:
        assert (number, sent, errors) == (COUNT, COUNT, [])
    found_out = server.refused if manner in ALONE else server.groups
    before = list(found_out)
    # Each of several connections may find out by itself.
    assert 1 <= len(before) <= (3 if "parallel" in way else 1)
    for again in ("list", "kept", "parallel"):
        assert WAYS[again](server) == (COUNT, [])
    assert found_out == before


@pytest.mark.parametrize("way", ["list", "generator"])
@pytest.mark.parametrize("manner", ALONE)
def test_server_that_cannot_pipeline_costs_one_connection(manner, way, start):
    servers = start(*MANNERS[manner]), start(manners.Session)
    for each in servers:
        WAYS[way](each)
    assert servers[0].connections == servers[1].connections + 1


@pytest.mark.parametrize("manner", MANNERS)
def test_as_many_are_delivered_as_by_djangos_backend(manner, start):
    """Or more. It sends one command at a time."""
    theirs, ours = start(*MANNERS[manner]), start(*MANNERS[manner])
    backend = EmailBackend(
        host="127.0.0.1", port=theirs.port, timeout=20, fail_silently=True, alias="x"
    )
    backend.send_messages(numbered(range(COUNT)))
    send(ours, fail_silently=True)
    assert len(accepted(ours)) >= len(accepted(theirs)) - (manner in UNSURE)


@pytest.mark.parametrize("way", WAYS)
def test_refusal_that_a_reset_destroys_is_found_out(way, start):
    """The recipient is refused for good, which "connection lost" would not tell."""
    server = start(manners.LosesTheRefusal)
    sent, errors = WAYS[way](server)
    if not errors:  # of fail_silently
        assert (sorted(accepted(server)), sent) == ([0, 1, 3, 4, 5], COUNT - 1)
        return
    (error,) = errors
    assert isinstance(error, smtplib.SMTPRecipientsRefused)
    assert error.recipients == {"2@example.net": (550, b"5.1.1 no user")}
    assert not can_be_retried(error)


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
    server = start(kind, {"at": at})
    sent, errors = AHEAD[way](server)
    number = delivered(server, sent, errors, caplog)
    assert {len(group) for group in server.groups} == {len(GROUP)}
    if kind is manners.Breaks and at == len(GROUP):
        return  # the end comes after all the replies, and perhaps after the body
    assert len(server.groups) <= (3 if way == "parallel" else 1)
    assert (number, sent, errors) == (COUNT, COUNT, [])


@pytest.mark.parametrize("with_tls", [False, True], ids=["in the clear", "tls"])
def test_server_that_swallows_only_in_the_clear(with_tls, start, tls, cafile, monkeypatch):
    """With TLS, each write is a record of its own."""
    monkeypatch.setitem(PATIENCE, Pace.AHEAD, 20 if with_tls else 0.05)
    server = start(manners.SwallowsInTheClear, tls=tls if with_tls else None)
    options = {"use_tls": True, "ssl_cafile": str(cafile)} if with_tls else {}
    assert send(server, **options) == (COUNT, [])
    assert sorted(accepted(server)) == list(range(COUNT))
    assert len(server.groups) == (COUNT - 1 if with_tls else 1)


@pytest.mark.parametrize(
    ("kind", "batches", "arrive", "connections", "problem"),
    [
        (manners.Tires, ONE_BY_ONE, [0, 1, 2, 3, 4, 5], 3, None),
        (manners.Tires, [[0], [1, 2, 3]], [0, 1, 2, 3], 2, None),
        (manners.Tires, [[0, 1, 2, 3], [2, 3]], [0, 1, 2, 3], 2, smtplib.SMTPSenderRefused),
        (manners.Defers, ONE_BY_ONE, [1, 2, 3, 4, 5], 2, smtplib.SMTPRecipientsRefused),
    ],
)
def test_session_that_the_server_has_given_up_is_not_parked(
    kind, batches, arrive, connections, problem, start
):
    """4xx to MAIL, to all RCPTs or to DATA. It is replaced at no cost if it was parked.

    Over a new connection, it is an error once.
    """
    server = start(kind)
    _, errors = send(server, batches, conn_max_age=60)
    assert [type(error) for error in errors] == ([problem] if problem else [])
    assert all(can_be_retried(error) for error in errors)
    assert sorted(accepted(server)) == arrive
    assert server.connections == connections
