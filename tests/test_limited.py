"""A host with a rate: messages wait for their turn, and a failover goes on instead."""

import math
from io import StringIO
from typing import Any

import pytest
from conftest import mails, told
from django.core.management import call_command
from scripted import at

from email_hosts import rate
from email_hosts.backends import can_be_retried, get_connection
from email_hosts.exceptions import AllHostsFailed, RateLimited


@pytest.fixture(autouse=True)
def clock(clock, rate_clock, monkeypatch):
    """One clock for rates, the pool and failover."""
    monkeypatch.setattr("email_hosts.backends.failover.clock", rate_clock)
    return rate_clock


@pytest.fixture
def hosts(serve, settings):
    """Make hosts of these queries, each with a server of its own. Return the servers."""

    def make(**queries):
        servers = {key: serve() for key in queries}
        settings.EMAIL_HOSTS = {
            key: query.format(f"smtp://127.0.0.1:{servers[key].port}")
            for key, query in queries.items()
        }
        return servers

    return make


@pytest.mark.parametrize(
    ("query", "number", "naps", "connections"),
    [
        ("rate=2/m&timeout=100", 5, [61, 61], 3),  # none is kept during a long wait
        ("rate=1/s&timeout=100", 3, [1.1, 1.1], 1),  # but during a short one
        ("rate=100/s", 3, [], 1),
    ],
)
def test_each_message_waits_for_its_turn(query, number, naps, connections, hosts, clock):
    server = hosts(shop=f"{{}}?{query}")["shop"]
    assert get_connection("shop").send_messages(mails(*"abcde"[:number])) == number
    assert len(server.accepted) == server.commands.count("DATA") == number
    assert clock.naps == pytest.approx(naps)
    assert server.connections == connections


def test_parallel_keeps_the_rate(hosts, clock):
    server = hosts(shop="{}?rate=4/m&timeout=200&parallel=3")["shop"]
    began = clock.now
    assert get_connection("shop").send_messages(mails(*"abcdefghij")) == 10
    assert len(server.accepted) == 10
    assert clock.now - began >= 120


@pytest.mark.parametrize("dsn", ["{}?rate=2/h&timeout=10", "console:?rate=2/h"])
def test_message_whose_turn_comes_too_late_is_an_error(dsn, hosts, clock):
    """Of a host of any scheme. Nothing is connected for it."""
    server = hosts(shop=dsn)["shop"]
    batch = mails(*"abcd")
    with told() as heard, pytest.raises(RateLimited) as caught:
        get_connection("shop").send_messages(batch)
    error: Any = caught.value
    assert (error.sent, error.unsent) == (batch[:2], batch[2:])
    assert (error.alias, clock.naps) == ("shop", [])
    assert 3500 < error.retry_after <= 3660
    assert can_be_retried(error)
    assert heard == [("a", None), ("b", None), ("c", RateLimited)]
    connections = server.connections
    with pytest.raises(RateLimited):
        get_connection("shop").send_messages(mails("e"))
    assert server.connections == connections


def test_fail_silently_ignores_those_that_come_too_late(hosts, caplog):
    hosts(shop="{}?rate=2/h&timeout=10")
    connection = get_connection("shop", fail_silently=True)
    assert connection.send_messages(mails(*"abcd")) == 2
    assert [text.partition(": its")[0] for text in caplog.messages] == [
        'host "shop": RateLimited: host "shop"'
    ] * 2


@pytest.mark.parametrize(
    ("names", "reason", "is_retried"),
    [("c+d", "ask again", True), ("c+d+e+f", "can never be sent", False)],
)
def test_recipients_may_be_counted(names, reason, is_retried, hosts):
    server = hosts(shop="{}?rate=3/h&rate_by=recipients&timeout=10")["shop"]
    connection = get_connection("shop")
    assert connection.send_messages(mails("a+b")) == 1
    with pytest.raises(RateLimited, match=reason) as caught:
        connection.send_messages(mails(names))
    assert can_be_retried(caught.value) is is_retried
    assert (caught.value.retry_after < math.inf) is is_retried
    assert len(server.accepted) == 1


def test_error_of_the_host_ends_it(hosts):
    server = hosts(shop="{}?rate=100/s")["shop"]
    server.script = at("MAIL", "550 no")
    with pytest.raises(OSError, match="550"):
        get_connection("shop").send_messages(mails(*"abc"))
    assert server.accepted == []


def test_interrupted_wait_is_over(hosts, monkeypatch):
    hosts(shop="{}?rate=1/m&timeout=100")

    def sleep(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(rate, "sleep", sleep)
    batch = mails("a", "b")
    with pytest.raises(KeyboardInterrupt) as caught:
        get_connection("shop").send_messages(batch)
    error: Any = caught.value
    assert (error.sent, error.unsent) == (batch[:1], batch[1:])


def test_wait_has_an_end_when_others_are_faster(hosts, clock, monkeypatch):
    hosts(shop="{}?rate=1/m&timeout=100")

    def sleep(seconds):
        clock.naps.append(seconds)
        assert len(clock.naps) < 3
        clock.now += seconds
        rate.take("shop", rate.limits("1/m"))

    monkeypatch.setattr(rate, "sleep", sleep)
    with pytest.raises(RateLimited):
        get_connection("shop").send_messages(mails("a", "b"))
    assert clock.naps == [61]


class TestFailover:
    """Full hosts are passed over, and are not down."""

    def test_spills_over_to_the_next_host_and_back(self, hosts, clock):
        query = "{}?rate=2/m&timeout=100"  # for which nobody waits while another is free
        servers = hosts(a=query, b=query, all="failover:a,b")
        connection = get_connection("all")
        assert connection.send_messages(mails(*"1234")) == 4
        assert [len(servers[key].accepted) for key in "ab"] == [2, 2]
        clock.now += 120
        assert connection.send_messages(mails("5")) == 1
        assert len(servers["a"].accepted) == 3
        assert clock.naps == []

    def test_waits_where_the_turn_comes_first(self, hosts, clock):
        query = "{}?timeout=90&rate="
        servers = hosts(a=query + "1/h", b=query + "1/m", all="failover:a,b")
        assert get_connection("all").send_messages(mails(*"123")) == 3
        assert [len(servers[key].accepted) for key in "ab"] == [1, 2]
        assert len(clock.naps) == 1

    def test_fails_if_no_turn_comes_in_time(self, hosts):
        query = "{}?rate=1/h&timeout=9"
        hosts(a=query, b=query, all="failover:a,b")
        with pytest.raises(AllHostsFailed) as caught:
            get_connection("all").send_messages(mails(*"123"))
        errors = {key: type(error) for key, error in caught.value.errors.items()}
        assert errors == {"a": RateLimited, "b": RateLimited}
        assert can_be_retried(caught.value)


def test_checkemailhosts_shows_how_much_is_used(hosts, settings):
    settings.CACHES = {"own": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    hosts(shop="{}?rate=5/m,100/d&rate_by=recipients")
    get_connection("shop").send_messages(mails("a+b+c"))

    def shown():
        out = StringIO()
        call_command("checkemailhosts", stdout=out)
        return out.getvalue()

    assert "rate: 5/m, 100/d\n" in shown()
    assert "rate by: recipients" in shown()
    settings.EMAIL_HOSTS_CACHE = "own"
    get_connection("shop").send_messages(mails("a+b"))
    assert "rate: 5/m (2 used), 100/d (2 used)\n" in shown()


def test_in_tests_nothing_waits_and_nothing_is_counted(clock, mailoutbox):
    connection = get_connection("shop", rate="1/h")
    assert connection.send_messages(mails(*"abc")) == len(mailoutbox) == 3
    assert clock.naps == []
