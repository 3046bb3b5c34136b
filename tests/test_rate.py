"""How much a host takes in a time: messages wait for their turn, or go to the next host."""

from __future__ import annotations

import math
import os
import socket
import time
from bisect import bisect_left
from typing import Any
from unittest import mock

import pytest
from conftest import Clock, SoftTimeLimitExceeded, host_of, mails, take, told
from django.core.cache import caches
from django.core.cache.backends import locmem
from django.core.management import call_command
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st
from scripted import CLOSE, any_of, at

from email_hosts import rate
from email_hosts.backends import can_be_retried, get_connection, limited
from email_hosts.exceptions import AllHostsFailed, InvalidEmailHost, RateLimited
from email_hosts.rate import usage
from email_hosts.values import Limit

LOCAL = "django.core.cache.backends.locmem.LocMemCache"
FILES = "django.core.cache.backends.filebased.FileBasedCache"
REDIS = "django.core.cache.backends.redis.RedisCache"
MEMCACHED = "django.core.cache.backends.memcached.PyMemcacheCache"
# What the README recommends, for a test of a cache that says nothing.
TIMEOUTS = {
    REDIS: {"socket_connect_timeout": 0.25, "socket_timeout": 0.25},
    MEMCACHED: {"connect_timeout": 0.25, "timeout": 0.25},
}

PER_SECOND, PER_MINUTE, PER_DAY = Limit(2, 1), Limit(3, 60), Limit(4, 86400)


@pytest.fixture(autouse=True)
def clock(clock):
    """Used by all tests here."""
    return clock


@pytest.fixture
def start_host(serve, settings):
    """Make a host with this query. Return its server."""

    def start_host(query, key="shop"):
        server = serve()
        settings.EMAIL_HOSTS[key] = f"smtp://127.0.0.1:{server.port}?{query}"
        return server

    settings.EMAIL_HOSTS = {}
    return start_host


@pytest.mark.parametrize(
    ("query", "number", "naps", "connections"),
    [
        ("rate=2/m", 5, [61, 61], 3),  # none is kept during a long wait
        ("rate=1/s&timeout=100", 3, [1.1, 1.1], 1),  # but during a short one
        ("rate=100/s,0100/h, 30/m", 3, [], 1),
    ],
)
def test_each_message_waits_for_its_turn(query, number, naps, connections, start_host, clock):
    server = start_host(query)
    assert get_connection("shop").send_messages(mails(*"abcde"[:number])) == number
    assert len(server.accepted) == server.commands.count("DATA") == number
    assert clock.naps == pytest.approx(naps)
    assert server.connections == connections


@pytest.mark.parametrize("key", ["shop", "all"])
def test_session_that_ends_during_a_long_wait_is_replaced(
    key, start_host, settings, clock, monkeypatch
):
    """The caller or a failover has opened it, so that it stays open."""
    server = start_host("rate=2/m&timeout=100")
    settings.EMAIL_HOSTS["all"] = "failover:shop"

    def sleep(seconds):
        server.disconnect()
        clock.now += seconds

    monkeypatch.setattr(limited, "sleep", sleep)
    with get_connection(key) as connection:
        assert connection.send_messages(mails(*"abcde")) == 5
    assert len(server.accepted) == 5


def test_host_that_is_not_valid_uses_up_nothing(start_host):
    start_host("rate=1/d&tls&ssl_cafile=/no/such")
    for _ in range(2):
        with pytest.raises(InvalidEmailHost):
            get_connection("shop").send_messages(mails("a"))


def test_wait_that_is_interrupted_leaves_nothing_in_doubt(start_host, monkeypatch):
    start_host("rate=1/m&timeout=100")
    monkeypatch.setattr(limited, "sleep", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt) as caught:
        get_connection("shop").send_messages(mails("a", "b"))
    error: Any = caught.value
    assert (len(error.sent), error.failed) == (1, [])


def test_turn_of_a_failover_is_not_that_of_its_members(start_host, settings):
    """The first of which is lost, and the second sends instead."""
    lost = any_of(at("MAIL", None, CLOSE), at("banner", None, "421 no"))
    start_host("", "first").script = lost
    start_host("", "second")
    settings.EMAIL_HOSTS["all"] = "failover:first,second?rate=2/h"
    with pytest.raises(RateLimited) as caught:
        get_connection("all").send_messages(mails(*"abc"))
    assert len(vars(caught.value)["sent"]) == 2


def test_what_is_never_offered_does_not_count(start_host, settings):
    start_host("rate=2/d&timeout=10").script = at("banner", "421 no", "421 no")
    settings.EMAIL_HOSTS["own"] = "backend://conftest.Recorder?rate=2/d"
    wrong, nobody = mails("a", "")
    wrong.extra_headers = {"a\nb": "c"}
    for key in ("shop", "own"):
        connection: Any = get_connection(key)
        if key == "own":
            refused = [OSError("421 no")] * 2
            connection.wrapped.open = mock.Mock(side_effect=[*refused, *[True] * 9])
        for _ in range(2):
            with pytest.raises(OSError, match="421"):
                connection.send_messages(iter(mails("a")))
        for _ in range(3):
            with pytest.raises(ValueError, match="header"):
                connection.send_messages([nobody, wrong])
        assert connection.send_messages(iter(mails("a", "b"))) == 2
        with pytest.raises(RateLimited):
            connection.send_messages(mails("c"))


def test_parallel_keeps_the_rate(start_host, clock):
    server = start_host("rate=4/m&timeout=200&parallel=3")
    began = clock.now
    assert get_connection("shop").send_messages(mails(*"abcdefghij")) == 10
    assert len(server.accepted) == 10
    assert clock.now - began >= 120


def test_hosts_without_a_key_are_told_apart_by_server_and_user(serve):
    server = serve()
    for username in ("me", "you"):
        login = {"username": username, "password": "secret", "rate": "1/h"}
        assert host_of(server, **login).send_messages(mails("a")) == 1
        with pytest.raises(RateLimited):
            host_of(server, **login).send_messages(mails("a"))


class TestTurnThatComesTooLate:
    """It is an error, before anything is sent or connected for it."""

    @pytest.mark.parametrize("scheme", ["smtp", "console"])
    def test_is_told_of_hosts_of_any_scheme(self, scheme, start_host, clock, settings, caplog):
        server, batch = start_host("rate=2/h&timeout=10"), mails(*"abcd")
        if scheme == "console":
            settings.EMAIL_HOSTS["shop"] = "console:?rate=2/h"
        with told() as heard, pytest.raises(RateLimited) as caught:
            get_connection("shop").send_messages(batch)
        error: Any = caught.value
        assert (error.sent, error.unsent) == (batch[:2], batch[2:])
        assert (error.alias, clock.naps) == ("shop", [])
        assert heard == [("a", None), ("b", None), ("c", RateLimited)]
        connections = server.connections
        assert get_connection("shop", fail_silently=True).send_messages(mails(*"cd")) == 0
        assert server.connections == connections
        assert caplog.text.count('host "shop": RateLimited: host "shop": its') == 2

    @pytest.mark.parametrize(
        ("limits", "names", "text", "seconds"),
        [
            ("3/m", "a", "its limit of 3/m is reached; ask again in 61 s", 61),
            ("9/s,3/d", "a", "its limit of 3/d is reached; ask again in 87840 s", 87840),
            ("3/m", "a+b+c+d", "a message to 4 recipients can never be sent with", math.inf),
        ],
    )
    def test_says_when_it_comes(self, limits, names, text, seconds, start_host):
        """Recipients may be counted."""
        server = start_host(f"rate={limits}&rate_by=recipients&timeout=10")
        connection = get_connection("shop")
        assert connection.send_messages(mails("a+b", "c")) == 2
        with pytest.raises(RateLimited, match=f'^host "shop": {text}') as caught:
            connection.send_messages(mails(names))
        assert caught.value.retry_after == seconds
        assert can_be_retried(caught.value) is (seconds < math.inf)
        assert len(server.accepted) == 2

    def test_is_so_when_others_are_faster(self, start_host, clock, monkeypatch):
        """It waits no longer than the timeout in all."""
        start_host("rate=1/m&timeout=100")

        def sleep(seconds):
            clock.naps.append(seconds)
            assert len(clock.naps) < 3
            clock.now += seconds
            take("shop", [Limit(1, 60)])

        monkeypatch.setattr(limited, "sleep", sleep)
        with pytest.raises(RateLimited):
            get_connection("shop").send_messages(mails("a", "b"))
        assert len(clock.naps) == 1


@pytest.mark.parametrize(
    ("limits", "first", "accepted", "naps"),
    [
        (("2/m", "2/h"), "2/m", [2, 2], 0),  # nobody waits while another host is free
        (("1/m", "9/m"), "inner", [1, 1], 0),  # nor does a failover in it
        (("1/m", "1/s"), "1/m", [1, 2], 1),  # or longer than the shorter of two waits
    ],
)
def test_failover_passes_over_full_hosts(
    limits, first, accepted, naps, start_host, clock, settings
):
    servers = [start_host(f"timeout=90&rate={limit}", limit) for limit in limits]
    settings.EMAIL_HOSTS |= {"inner": "failover:1/m", "all": f"failover:{first},{limits[1]}"}
    number = sum(accepted)
    assert get_connection("all").send_messages(mails(*"1234"[:number])) == number
    assert [len(server.accepted) for server in servers] == accepted
    assert len(clock.naps) == naps


def test_hosts_that_are_all_full_say_when_one_is_free():
    never, soon = (RateLimited("", retry_after=seconds) for seconds in (math.inf, 9))
    assert AllHostsFailed({"a": never, "b": soon}).retry_after == 9
    assert not hasattr(AllHostsFailed({"a": soon, "b": OSError()}), "retry_after")


def test_checkemailhosts_shows_how_much_is_used(start_host, settings, capsys):
    settings.CACHES = {"own": {"BACKEND": LOCAL}}
    start_host("rate=5/m,100/d&rate_by=recipients")
    for alias, shown in [(None, "5/m, 100/d"), ("own", "5/m (2 used), 100/d (2 used)")]:
        settings.EMAIL_HOSTS_CACHE = alias
        get_connection("shop").send_messages(mails("a+b"))
        call_command("checkemailhosts")
        printed = capsys.readouterr().out
        assert f"rate: {shown}\n" in printed
        assert "rate by: recipients" in printed


def test_in_tests_nothing_waits_and_nothing_is_counted(clock, mailoutbox):
    connection = get_connection("shop", rate="1/h")
    assert connection.send_messages(mails(*"abc")) == len(mailoutbox) == 3
    assert clock.naps == []


class TestTake:
    def test_has_a_wait_at_the_end_of_a_slice(self, clock):
        assert take("shop", [PER_MINUTE], 3) == 0
        clock.now += 60.999
        assert 0 < take("shop", [PER_MINUTE]) < 0.002

    def test_waits_for_the_oldest_alone(self, clock):
        for _ in range(3):
            assert take("shop", [PER_MINUTE]) == 0
            clock.now += 10
        assert take("shop", [PER_MINUTE]) == 31

    def test_counts_again_where_a_slice_ends_meanwhile(self, monkeypatch):
        now = 1_800_000_000.0
        times = iter([now, now + 2])  # asked when it begins and when it judges
        monkeypatch.setattr(rate, "clock", lambda: next(times, now + 2))
        assert take("shop", [PER_MINUTE], 3) == 0
        # It was counted once, and when it was offered.
        assert take("shop", [PER_MINUTE]) == 61

    def test_keeps_little_in_memory(self, monkeypatch):
        """The limit that was used last goes last."""
        monkeypatch.setattr(rate, "MAX_KEPT", 3)
        assert [take(name, [PER_DAY], 4) for name in "abcd"] == [0] * 4
        assert [take(name, [PER_DAY]) > 0 for name in "dcba"] == [True, True, True, False]

    def test_starts_anew_in_another_process(self, monkeypatch):
        turn = rate.take("shop", [PER_MINUTE], 3)
        monkeypatch.setattr(os, "getpid", lambda: -1)
        turn.give_back()
        assert take("shop", [PER_MINUTE], 3) == 0
        assert take("shop", [PER_MINUTE]) > 0


def most_in_a_span(times, span):
    """Return how many of these sorted times are in one span, wherever it begins."""
    # A microsecond less, because of the rounding of such large numbers.
    return max(
        bisect_left(times, begin + span - 1e-6) - number for number, begin in enumerate(times)
    )


ONE_LIMIT = [[Limit(n, span)] for n in (1, 2, 5, 20) for span in (1, 60, 3600)]
# As parts of the first span: many at once, a few slices, a span or two, more.
GAPS = st.one_of(st.just(0.0), st.floats(0, 0.1), st.floats(0, 2.5), st.floats(0, 30))
OFFERS = st.lists(st.tuples(GAPS, st.integers(1, 5)), min_size=1, max_size=80)


@given(
    limits=st.sampled_from([*ONE_LIMIT, [Limit(5, 1), Limit(12, 60)]]),
    offers=OFFERS,
    start=st.floats(0, 1),
)
def test_no_span_has_more_than_a_limit(limits, offers, start):
    clock, first = Clock(), limits[0]
    clock.now = 1_800_000_000 + start * first.span
    longest = first.span * (1 + 1 / (10 if first.span == 1 else 60)) + 1e-3
    accepted = [0.0]
    rate.forget()
    with mock.patch.object(rate, "clock", clock):
        for gap, wanted in offers:
            clock.now += gap * first.span
            number = min(wanted, first.number)
            seconds = take("shop", limits, number)
            if seconds > 0 and limits in ONE_LIMIT:
                # There is a reason within the span and one slice: it is gone after the wait.
                recent = [each for each in accepted if clock.now - each <= longest]
                assert len(recent) + number > first.number
                assert seconds <= longest
                clock.now += seconds
                seconds = take("shop", limits, number)
                assert seconds == 0
            accepted += [clock.now] * number * (seconds == 0)
    for limit in limits:
        assert most_in_a_span(accepted, limit.span) <= limit.number


@pytest.fixture(params=[LOCAL, FILES])
def cache(request, tmp_path, caplog):
    """A cache that counts, and one with the ``incr()`` of Django's base."""
    with use_cache(request.param, str(tmp_path)):
        yield caches["default"]
        assert caplog.messages == []


def use_cache(backend, location="", **options):
    """Count in this cache, while it is used as a context manager."""
    default = {"BACKEND": backend, "LOCATION": location, "OPTIONS": options}
    return override_settings(CACHES={"default": default}, EMAIL_HOSTS_CACHE="default")


class TestCache:
    def test_counts_over_processes(self, cache, clock, start_host):
        start_host("rate=3/m")
        assert get_connection("shop").send_messages(mails("a+b", "c")) == 2
        rate.forget()  # as in a process that knows nothing
        assert take("shop", [PER_MINUTE], 2) == 61
        assert take("shop", [PER_MINUTE], 1) == 0
        clock.now += 30
        rate.forget()
        assert take("shop", [PER_MINUTE], 1) == 31

    def test_knows_how_much_is_used(self, cache, clock):
        limits = [PER_SECOND, PER_MINUTE]
        take("shop", limits, 2)
        assert take("shop", limits) > 0  # and gets back what another limit refuses
        clock.now += 2
        take("shop", limits)
        rate.forget()
        assert usage("shop", limits) == (1, 3)
        assert usage("club", limits) == (0, 0)

    @pytest.mark.parametrize("name", ["a b\n", "ü" * 300])
    def test_gets_keys_that_it_can_keep(self, cache, name):
        assert take(name, [PER_MINUTE], 3) == 0
        assert take(name, [PER_MINUTE]) > 0

    def test_is_asked_once_for_a_message_that_may_be_sent(self, cache):
        take("shop", [PER_MINUTE])
        with (
            mock.patch.object(type(cache), "incr", autospec=True, side_effect=[2]) as incr,
            mock.patch.object(type(cache), "get_many") as get_many,
        ):
            assert take("shop", [PER_MINUTE]) == 0
        assert (incr.call_count, get_many.call_count) == (1, 0)


def test_cache_keeps_counts_longer_than_the_span_and_not_for_ever(cache, clock, monkeypatch):
    monkeypatch.setattr(time, "time", clock)
    added = mock.Mock(wraps=cache.add)
    monkeypatch.setattr(cache, "add", added)
    take("shop", [PER_DAY], 2)
    take("shop", [PER_DAY, PER_SECOND], 2)
    assert take("shop", [Limit(5, 86400), PER_SECOND], 1) > 0
    clock.now += 86399
    assert usage("shop", [PER_DAY]) == (4,)
    clock.now += 2 * 86400
    keys = [call.args[0] for call in added.mock_calls]
    assert len(keys) == 2
    assert cache.get_many(keys) == {}


@pytest.fixture
def fail(clock):
    """Use a cache of which one method does something else, until it is told of another."""

    def fail(method="", effect=None):
        broken.undo()
        if method:
            broken.setattr(locmem.LocMemCache, method, mock.Mock(side_effect=effect))

    with use_cache(LOCAL, "failing"), pytest.MonkeyPatch.context() as broken:
        caches["default"].clear()
        yield fail


def answer(result, seconds=0.0):
    """Make a method of a cache that answers so, after this time."""

    def answer(*args):
        limited.sleep(seconds)
        return result

    return answer


class TestCacheThatFails:
    """Mail goes on, and this process counts for itself."""

    def goes_on(self, caplog, reason):
        assert [take("shop", [PER_MINUTE]) for _ in range(3)] == [0] * 3
        assert 60 < take("shop", [PER_MINUTE]) <= 61
        (text,) = caplog.messages
        assert text.startswith("EMAIL_HOSTS_CACHE cannot count what hosts with a rate send: ")
        assert f" {reason}; for 60 seconds, each process counts for itself" in text

    @pytest.mark.parametrize(
        ("method", "effect", "reason"),
        [
            ("incr", answer(False), "TypeError"),
            ("incr", OSError("redis://:Kx7vQz9@h"), "OSError"),
            ("incr", ValueError("Key not found"), "ValueError"),
            ("get_many", answer(None), "AttributeError"),
            ("get_many", answer({}, 0.6), "TimeoutError"),
        ],
    )
    def test_in_some_way(self, method, effect, reason, fail, caplog, clock):
        fail(method, effect)
        self.goes_on(caplog, reason)
        assert len(clock.naps) <= 1  # it is not asked again

    @pytest.mark.parametrize(
        ("backend", "location", "reason"),
        [
            ("no.such.Cache", "", "InvalidCacheBackendError"),
            ("django.core.cache.backends.dummy.DummyCache", "", "ValueError"),
            (REDIS, "redis://127.0.0.1:{}", "TimeoutError"),
            (MEMCACHED, "127.0.0.1:{}", "TimeoutError"),
        ],
    )
    def test_because_it_is_none_or_says_nothing(self, backend, location, reason, caplog):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            location = location.format(silent.getsockname()[1])
            with use_cache(backend, location, **TIMEOUTS.get(backend, {})):
                self.goes_on(caplog, reason)

    def test_when_it_is_first_used_only_in_being_slow(self, fail, caplog):
        """Its client is imported then."""
        times = iter([2.0])

        def get(key, default=None, version=None):
            limited.sleep(next(times, 0))
            return default

        fail("get", get)
        assert take("shop", [PER_MINUTE]) == 0
        assert caplog.records == []

    def test_once_as_a_connection_does_that_has_been_idle(self, fail, caplog):
        fail("incr", [OSError, 3])
        assert take("shop", [PER_MINUTE]) == 0
        assert caplog.records == []

    def test_with_an_answer_that_came_too_late_but_came(self, fail, caplog):
        fail("incr", answer(4, 0.6))
        assert take("shop", [PER_MINUTE]) > 0  # three others were faster
        assert "TimeoutError" in caplog.text
        assert take("shop", [PER_MINUTE], 3) == 0  # this process counts

    def test_before_it_gets_something_back(self, fail):
        """The process, which counts now, has nothing of it."""
        turn = rate.take("shop", [PER_MINUTE], 2)
        fail("incr", OSError)
        assert take("shop", [PER_MINUTE], 3) == 0
        turn.give_back()
        assert take("shop", [PER_MINUTE]) > 0

    def test_when_it_gets_something_back(self, fail, caplog):
        fail("decr", OSError)
        take("shop", [PER_MINUTE], 2)
        assert take("shop", [PER_MINUTE], 2) > 0
        assert caplog.records == []
        assert usage("shop", [PER_MINUTE]) == (4,)  # less for a span, and never more

    def test_is_asked_and_logged_once_a_minute(self, clock, fail, caplog):
        fail("incr", OSError)
        for expected in (1, 1, 1, 2):
            take("shop", [PER_MINUTE])
            assert len(caplog.records) == expected
            clock.now += 20
        fail()
        clock.now += 39
        assert usage("shop", [PER_MINUTE]) == (None,)
        clock.now += 1
        assert take("shop", [PER_MINUTE]) == 0
        assert usage("shop", [PER_MINUTE]) == (1,)

    def test_is_logged_by_one_of_those_who_ask_it_at_once(self, fail, caplog):
        def fail_together(*args):
            fail("incr", OSError)
            take("shop", [PER_MINUTE])  # as another thread, meanwhile
            raise OSError

        fail("incr", fail_together)
        take("shop", [PER_MINUTE])
        assert len(caplog.records) == 1

    def test_does_not_know_the_past_for_sure(self, clock, fail):
        take("shop", [PER_DAY], 4)
        clock.now += 1440
        rate.forget()
        fail("get_many", answer({}))  # as pymemcache does for a while
        with mock.patch.object(locmem.LocMemCache, "incr", side_effect=OSError):
            take("shop", [PER_DAY])
        fail()
        clock.now += 60
        assert take("shop", [PER_DAY]) > 0

    def test_makes_usage_unknown(self, fail, caplog):
        fail("get_many", OSError)
        assert usage("shop", [PER_MINUTE, PER_DAY]) == (None, None)
        assert "OSError" in caplog.text

    @pytest.mark.parametrize("method", ["incr", "decr"])
    def test_does_not_hide_a_time_limit(self, method, fail):
        take("shop", [PER_MINUTE], 2)
        rate.forget()
        fail(method, SoftTimeLimitExceeded)
        with pytest.raises(SoftTimeLimitExceeded):
            take("shop", [PER_MINUTE], 2)
