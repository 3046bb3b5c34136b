"""A host with a rate: messages wait for their turn, and a failover goes on instead."""

import math
import pickle
from io import StringIO
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.core.management import call_command
from scripted import at

from email_hosts import rate
from email_hosts.backends import can_be_retried, get_connection
from email_hosts.exceptions import AllHostsFailed, RateLimited
from email_hosts.signals import message_failed, message_sent


def messages(number, recipients=1):
    return [
        EmailMessage(
            f"{i}", "", "s@example.com", [f"{i}-{j}@x.net" for j in range(recipients)]
        )
        for i in range(number)
    ]


@pytest.fixture
def time(clock, monkeypatch):
    """Time that passes while somebody sleeps. ``slept`` says for how long each time."""

    def sleep(seconds):
        clock.slept.append(round(seconds))
        clock.now += seconds

    clock.slept = []
    monkeypatch.setattr(rate, "clock", clock)
    monkeypatch.setattr(rate, "sleep", sleep)
    return clock


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


class TestWaiting:
    """One host."""

    def test_each_message_waits_for_its_turn(self, hosts, time):
        servers = hosts(shop="{}?rate=2/m&timeout=100")
        assert get_connection("shop").send_messages(messages(5)) == 5
        assert len(servers["shop"].accepted) == 5
        assert len(time.slept) == 2
        assert all(55 <= seconds <= 62 for seconds in time.slept)

    def test_connection_is_not_kept_during_a_long_wait(self, hosts, time):
        servers = hosts(shop="{}?rate=1/m&timeout=100")
        get_connection("shop").send_messages(messages(3))
        assert servers["shop"].connections == 3

    def test_connection_is_kept_during_a_short_wait(self, hosts, time):
        servers = hosts(shop="{}?rate=1/s&timeout=100")
        get_connection("shop").send_messages(messages(3))
        assert servers["shop"].connections == 1
        assert time.slept

    def test_nothing_is_connected_for_a_turn_that_comes_too_late(self, hosts, time):
        servers = hosts(shop="{}?rate=1/h&timeout=10")
        connection = get_connection("shop")
        assert connection.send_messages(messages(1)) == 1
        with pytest.raises(RateLimited) as caught:
            connection.send_messages(messages(1))
        error = caught.value
        assert servers["shop"].connections == 1
        assert (error.alias, time.slept) == ("shop", [])
        assert 3500 < error.retry_after <= 3660
        assert can_be_retried(error)
        copied = pickle.loads(pickle.dumps(error))
        assert (str(copied), copied.retry_after) == (str(error), error.retry_after)

    def test_list_ends_at_the_first_that_comes_too_late(self, hosts, time):
        hosts(shop="{}?rate=2/h&timeout=10")
        batch = messages(4)
        with pytest.raises(RateLimited) as caught:
            get_connection("shop").send_messages(batch)
        error: Any = caught.value
        assert (error.sent, error.unsent) == (batch[:2], batch[2:])

    def test_fail_silently_ignores_those_that_come_too_late(self, hosts, time, caplog):
        hosts(shop="{}?rate=2/h&timeout=10")
        connection = get_connection("shop", fail_silently=True)
        assert connection.send_messages(messages(4)) == 2
        assert [text.partition(": its")[0] for text in caplog.messages] == [
            'host "shop": RateLimited: host "shop"'
        ] * 2

    def test_recipients_may_be_counted(self, hosts, time):
        servers = hosts(shop="{}?rate=3/h&rate_by=recipients&timeout=10")
        connection = get_connection("shop")
        assert connection.send_messages(messages(1, recipients=2)) == 1
        with pytest.raises(RateLimited) as caught:
            connection.send_messages(messages(1, recipients=2))
        assert can_be_retried(caught.value)
        with pytest.raises(RateLimited, match="can never be sent") as caught:
            connection.send_messages(messages(1, recipients=4))
        assert caught.value.retry_after == math.inf
        assert not can_be_retried(caught.value)
        assert len(servers["shop"].accepted) == 1

    def test_hosts_of_any_scheme_have_a_rate(self, settings, time, capsys):
        settings.EMAIL_HOSTS = {"shop": "console:?rate=2/h"}
        with pytest.raises(RateLimited):
            get_connection("shop").send_messages(messages(3))
        assert capsys.readouterr().out.count("Subject: ") == 2

    def test_parallel_keeps_the_rate(self, hosts, time):
        servers = hosts(shop="{}?rate=4/m&timeout=200&parallel=3")
        assert get_connection("shop").send_messages(messages(10)) == 10
        assert len(servers["shop"].accepted) == 10

    def test_is_not_written_ahead(self, hosts, time):
        servers = hosts(shop="{}?rate=100/s")
        get_connection("shop").send_messages(messages(3))
        assert servers["shop"].commands.count("DATA") == 3
        assert len(servers["shop"].accepted) == 3

    def test_error_of_the_host_ends_it(self, hosts, time):
        servers = hosts(shop="{}?rate=100/s")
        servers["shop"].script = at("MAIL", "550 no")
        with pytest.raises(OSError, match="550"):
            get_connection("shop").send_messages(messages(3))
        assert servers["shop"].accepted == []

    def test_interrupted_wait_is_over(self, hosts, time, monkeypatch):
        hosts(shop="{}?rate=1/m&timeout=100")

        def sleep(seconds):
            raise KeyboardInterrupt

        monkeypatch.setattr(rate, "sleep", sleep)
        batch = messages(2)
        with pytest.raises(KeyboardInterrupt) as caught:
            get_connection("shop").send_messages(batch)
        error: Any = caught.value
        assert (error.sent, error.unsent) == (batch[:1], batch[1:])


class TestFailover:
    """Full hosts are passed over, and are not down."""

    def test_spills_over_to_the_next_host_and_back(self, hosts, time):
        servers = hosts(
            a="{}?rate=2/m&timeout=10", b="{}?rate=2/m&timeout=10", all="failover:a,b"
        )
        connection = get_connection("all")
        assert connection.send_messages(messages(4)) == 4
        assert [len(servers[key].accepted) for key in "ab"] == [2, 2]
        time.now += 120
        assert connection.send_messages(messages(1)) == 1
        assert len(servers["a"].accepted) == 3
        assert time.slept == []

    def test_waits_where_the_turn_comes_first(self, hosts, time):
        servers = hosts(
            a="{}?rate=1/h&timeout=90", b="{}?rate=1/m&timeout=90", all="failover:a,b"
        )
        assert get_connection("all").send_messages(messages(3)) == 3
        assert [len(servers[key].accepted) for key in "ab"] == [1, 2]
        assert len(time.slept) == 1

    def test_fails_if_no_turn_comes_in_time(self, hosts, time):
        hosts(a="{}?rate=1/h&timeout=9", b="{}?rate=1/h&timeout=9", all="failover:a,b")
        with pytest.raises(AllHostsFailed) as caught:
            get_connection("all").send_messages(messages(3))
        assert {key: type(error) for key, error in caught.value.errors.items()} == {
            "a": RateLimited,
            "b": RateLimited,
        }
        assert can_be_retried(caught.value)


def test_checkemailhosts_shows_how_much_is_used(hosts, time, settings):
    settings.CACHES = {"own": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    hosts(shop="{}?rate=5/m,100/d&rate_by=recipients")
    get_connection("shop").send_messages(messages(1, recipients=3))

    def shown():
        out = StringIO()
        call_command("checkemailhosts", stdout=out)
        return out.getvalue()

    assert "rate: 5/m, 100/d\n" in shown()
    assert "rate by: recipients" in shown()
    settings.EMAIL_HOSTS_CACHE = "own"
    get_connection("shop").send_messages(messages(1, recipients=2))
    assert "rate: 5/m (2 used), 100/d (2 used)\n" in shown()


def test_signals_tell_of_it(hosts, time):
    hosts(shop="{}?rate=1/h&timeout=10")
    told = []

    def receive(signal, alias, seconds, **others):
        told.append((signal is message_sent, alias, type(others.get("error")), seconds >= 0))

    for signal in (message_sent, message_failed):
        signal.connect(receive)
    try:
        with pytest.raises(RateLimited):
            get_connection("shop").send_messages(messages(2))
    finally:
        for signal in (message_sent, message_failed):
            signal.disconnect(receive)
    assert told == [
        (True, "shop", type(None), True),
        (False, "shop", RateLimited, True),
    ]


def test_in_tests_nothing_waits_and_nothing_is_counted(time, mailoutbox):
    connection = get_connection("shop", rate="1/h")
    assert connection.send_messages(messages(3)) == len(mailoutbox) == 3
    assert time.slept == []
