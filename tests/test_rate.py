"""How much a host takes in a time."""

import copy
import math
import multiprocessing
import os
import pickle
import smtplib
import socket
import threading
import time
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import rate_worker
from conftest import Clock, run_python
from django.core.cache import BaseCache, caches
from django.core.cache.backends.locmem import LocMemCache
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from email_hosts import rate
from email_hosts.dsn import parse
from email_hosts.exceptions import InvalidEmailHost, RateLimited, summarize
from email_hosts.host import Host, from_python
from email_hosts.rate import Limit, take, usage, wait_for_turn

LOCAL = "django.core.cache.backends.locmem.LocMemCache"
REDIS = "django.core.cache.backends.redis.RedisCache"
MEMCACHED = "django.core.cache.backends.memcached.PyMemcacheCache"
# What the README recommends, for a test of a cache that says nothing.
TIMEOUTS = {
    REDIS: {"socket_connect_timeout": 0.25, "socket_timeout": 0.25},
    MEMCACHED: {"connect_timeout": 0.25, "timeout": 0.25},
}

PER_SECOND, PER_MINUTE, PER_DAY = Limit(2, 1), Limit(3, 60), Limit(4, 86400)


@pytest.fixture(autouse=True)
def clock(rate_clock):
    return rate_clock


def use_cache(backend, location="", **options):
    """Count in this cache, while it is used as a context manager."""
    default = {"BACKEND": backend, "LOCATION": location, "OPTIONS": options}
    return override_settings(CACHES={"default": default}, EMAIL_HOSTS_CACHE="default")


class TestOption:
    @pytest.mark.parametrize(
        "value",
        [
            *("30", "/m", "0/m", "-1/m", "1.5/m", "30/M", "30/w", "30/min", "30/m,", "30m"),
            *("30/m;1/s", "٣/m", "1e3/m", "9999999999/d"),
            *([30], [Limit(0, 60)], [Limit(30, 7)], []),
        ],
    )
    def test_is_a_number_for_each_span(self, value):
        with pytest.raises(InvalidEmailHost, match="must be a whole number per second, "):
            from_python(parse("smtp://h"), {"rate": value})

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (30, 'must be .*; write it like "30/m"'),
            (b"30/m", 'must be .*; write it like "30/m"'),
            ("30/m,20/m", "has two limits for one span; remove 20/m or the other one"),
        ],
    )
    def test_is_text_and_has_each_span_once(self, value, reason):
        with pytest.raises(InvalidEmailHost, match=f"option 'rate' {reason}"):
            from_python(parse("smtp://h"), {"rate": value})

    @pytest.mark.parametrize(
        "change", [tuple, list, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))]
    )
    def test_can_be_given_again(self, change):
        limits = parse("smtp://h?rate=14/s,50000/d,0100/h, 30/m").options["rate"]
        assert limits == (Limit(14, 1), Limit(50000, 86400), Limit(100, 3600), Limit(30, 60))
        again = from_python(parse("smtp://h"), {"rate": change(limits)})
        assert again.options["rate"] == limits
        assert [str(limit) for limit in limits] == ["14/s", "50000/d", "100/h", "30/m"]

    @pytest.mark.parametrize(
        "dsn", ["smtp://h", "console:", "failover:shop", "anymail+brevo:", "backend://a.b.C"]
    )
    def test_is_for_any_host_and_survives_mailers(self, dsn):
        host = parse(f"{dsn}?rate=30/m&rate_by=recipients")
        options = {**host.mailer["OPTIONS"]}
        options.pop("backend", None)
        again = from_python(Host("shop", host.backend, {}, setting="MAILERS"), options)
        for each in (host, again):
            assert each.options["rate"] == (Limit(30, 60),)
            assert each.options["rate_by"] == "recipients"

    def test_of_recipients_needs_a_number(self):
        with pytest.raises(InvalidEmailHost, match="'rate_by' needs 'rate' beside it"):
            parse("smtp://h?rate_by=messages")


class TestTake:
    def test_gives_what_the_limit_has_to_each_host(self):
        assert take("shop", [PER_MINUTE], 2) == 0
        assert take("shop", [PER_MINUTE], 2) > 0
        assert take("shop", [PER_MINUTE], 1) == take("club", [PER_MINUTE], 3) == 0
        assert take("shop", [PER_MINUTE], 1) > 0
        assert take("shop", [Limit(4, 60)], 1) == 0  # it goes on counting
        assert take("shop", [Limit(100, 60), PER_MINUTE], 4) == math.inf
        assert usage("shop", [PER_MINUTE, PER_DAY]) == (None, None)  # which a cache knows
        assert take("shop", []) == 0

    def test_tells_when_to_ask_again(self, clock):
        start = clock.now
        for wait in (0, 10, 10):
            clock.now += wait
            take("shop", [PER_MINUTE])
        # The first message came 20 seconds ago, and counts for a slice of a second longer.
        assert [take("shop", [PER_MINUTE], number) for number in (1, 2, 3)] == [41, 51, 61]
        clock.now = start + 60.999
        assert 0 < take("shop", [PER_MINUTE]) < 0.002
        clock.now = start + 61
        assert take("shop", [PER_MINUTE]) == 0
        assert take("shop", [PER_MINUTE]) == 10

    @pytest.mark.parametrize("limits", [[PER_SECOND, PER_DAY], [PER_DAY, PER_SECOND]])
    def test_gives_back_what_another_limit_refuses(self, limits, clock):
        assert take("shop", limits, 2) == 0
        assert take("shop", limits, 1) == pytest.approx(1.1, abs=1e-6)
        clock.now += 1.1
        assert take("shop", limits, 2) == 0  # the day had not counted what was refused
        clock.now += 1.1
        assert take("shop", limits, 1) > 80_000

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
        assert take("shop", [PER_MINUTE], 3) == 0
        monkeypatch.setattr(os, "getpid", lambda: -1)
        assert take("shop", [PER_MINUTE], 3) == 0
        assert take("shop", [PER_MINUTE]) > 0


def most_in_a_span(times, span):
    """Return how many of these sorted times are in one span, wherever it begins."""
    # A microsecond less, because of the rounding of such large numbers.
    return max(
        bisect_left(times, begin + span - 1e-6) - number for number, begin in enumerate(times)
    )


LIMITS = st.sampled_from([Limit(n, span) for n in (1, 2, 5, 20) for span in (1, 60, 3600)])
# As parts of the span: many at once, a few slices, a span or two.
GAPS = st.one_of(st.just(0.0), st.floats(0, 0.1), st.floats(0, 2.5))


@given(limit=LIMITS, gaps=st.lists(GAPS, min_size=1, max_size=80), start=st.floats(0, 1))
def test_no_span_has_more_than_the_limit(limit, gaps, start):
    clock = Clock()
    clock.now = 1_800_000_000 + start * limit.span
    accepted = [0.0]
    rate.forget()
    with mock.patch.object(rate, "clock", clock):
        for gap in gaps:
            clock.now += gap * limit.span
            seconds = take("shop", [limit])
            if seconds > 0:
                # There is a reason within the span and one slice: it is gone after the wait.
                longest = limit.span * (1 + 1 / (10 if limit.span == 1 else 60)) + 1e-3
                recent = [each for each in accepted if clock.now - each <= longest]
                assert len(recent) >= limit.number
                assert seconds <= longest
                clock.now += seconds
                assert take("shop", [limit]) == 0
            accepted.append(clock.now)
    assert most_in_a_span(accepted, limit.span) <= limit.number


OFFERS = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 5)), min_size=1, max_size=80)


@given(offers=OFFERS)
def test_no_span_has_more_recipients_than_any_limit(offers):
    clock = Clock()
    limits = [Limit(5, 1), Limit(12, 60)]
    accepted = [0.0]
    rate.forget()
    with mock.patch.object(rate, "clock", clock):
        for gap, number in offers:
            clock.now += gap
            if take("shop", limits, number) == 0:
                accepted += [clock.now] * number
    for limit in limits:
        assert most_in_a_span(accepted, limit.span) <= limit.number


class TestWait:
    @pytest.mark.parametrize(("taken", "naps", "left"), [(0, [], 2), (2, [], 0), (3, [61], 2)])
    def test_lasts_until_the_turn_comes(self, taken, naps, left, clock):
        take("shop", [PER_MINUTE], taken)
        wait_for_turn("shop", [PER_MINUTE], 1, 61 if naps else 0, alias="shop")
        assert clock.naps == naps
        assert left == 0 or take("shop", [PER_MINUTE], left) == 0
        assert take("shop", [PER_MINUTE]) > 0

    @pytest.mark.parametrize(
        ("limits", "number", "text", "seconds"),
        [
            ([PER_MINUTE], 1, "its limit of 3/m is reached; ask again in 61 s", 61),
            ([PER_SECOND, PER_DAY], 1, "its limit of 4/d is reached", 87840),
            ([PER_MINUTE], 4, "a message to 4 recipients can never be sent", math.inf),
        ],
    )
    def test_does_not_begin_if_that_is_too_late(self, limits, number, text, seconds, clock):
        for limit in limits:
            take("shop", [limit], limit.number)
        with pytest.raises(RateLimited, match=f'^host "shop": {text}') as caught:
            wait_for_turn("shop", limits, number, 60, alias="shop")
        assert (caught.value.alias, caught.value.retry_after) == ("shop", seconds)
        assert clock.naps == []

    def test_ends_when_others_were_faster(self, clock, monkeypatch):
        def sleep(seconds):
            clock.now += seconds
            take("shop", [PER_MINUTE], 3)

        monkeypatch.setattr(rate, "sleep", sleep)
        sleep(0)
        with pytest.raises(RateLimited, match="ask again in 61 s"):
            wait_for_turn("shop", [PER_MINUTE], 1, 100, alias="shop")


@pytest.mark.parametrize("alias", ["shop", None])
@pytest.mark.parametrize("change", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_error_can_be_pickled(alias, change):
    error = RateLimited("its limit is reached", alias=alias, retry_after=2.5)
    again = change(error)
    assert (type(again), again.alias, again.retry_after) == (RateLimited, alias, 2.5)
    assert str(again) == str(error)


def test_error_shows_its_host_and_no_dsn():
    assert issubclass(RateLimited, smtplib.SMTPException)
    error = RateLimited("is full", alias="smtp://shop:Kx7vQz9@h", retry_after=1)
    assert summarize(error) == 'RateLimited: host "(a DSN)": is full'


@pytest.fixture
def cache():
    """A cache that counts."""
    with use_cache(LOCAL, "rate"):
        caches["default"].clear()
        yield caches["default"]
        assert rate._failures == {}


class TestCache:
    def test_counts_over_processes(self, cache, clock):
        assert take("shop", [PER_MINUTE], 2) == 0
        rate.forget()  # as in a process that knows nothing
        assert take("shop", [PER_MINUTE], 2) == 61
        assert take("shop", [PER_MINUTE], 1) == 0
        clock.now += 30
        rate.forget()
        assert take("shop", [PER_MINUTE], 1) == 31
        clock.now += 31
        assert take("shop", [PER_MINUTE], 3) == 0

    def test_knows_how_much_is_used(self, cache, clock):
        limits = [PER_SECOND, PER_MINUTE]
        take("shop", limits, 2)
        assert take("shop", limits) > 0  # and gets back what another limit refuses
        clock.now += 2
        take("shop", limits)
        rate.forget()
        assert usage("shop", limits) == (1, 3)
        assert usage("club", limits) == (0, 0)

    @pytest.mark.parametrize("name", ["a b\n", "ü" * 300, "x" * 300])
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
        ((_, key, number),) = [call.args for call in incr.mock_calls]
        assert key.startswith("email_hosts.rate.")
        assert number == 1
        get_many.assert_not_called()


def test_counts_are_kept_for_two_spans():
    spy = mock.patch.object(LocMemCache, "add", autospec=True, side_effect=LocMemCache.add)
    with use_cache(LOCAL, "spans"), spy as add:
        take("shop", [PER_MINUTE, PER_DAY])
    assert [call.args[3] for call in add.mock_calls] == [172800, 120]


class CacheWithoutIncr(LocMemCache):
    """Has the one of Django's base, which gives a key the cache's default timeout."""

    incr = BaseCache.incr


def test_counts_are_kept_as_long_where_the_cache_has_no_incr():
    limits = [PER_MINUTE, PER_DAY]
    spy = mock.patch.object(LocMemCache, "touch", autospec=True, side_effect=LocMemCache.touch)
    with use_cache(f"{__name__}.CacheWithoutIncr", "no incr"), spy as touch:
        assert take("shop", limits, 3) == 0
        assert take("shop", limits) > 0  # and gives back what it has counted
        kept = [call.args[1:] for call in touch.mock_calls]
    day, minute = kept[:2]
    assert [lifetime for _, lifetime in (day, minute)] == [172800, 120]
    assert kept[2:] == [day, minute, minute, day]
    assert all(key.startswith("email_hosts.rate.") for key, _ in kept)


MESSAGES = 500


@pytest.mark.parametrize("caches", [{}, {"default": {"BACKEND": LOCAL, "LOCATION": "many"}}])
def test_many_threads_send_no_more_than_the_limit(caches):
    limits = (Limit(14, 1), Limit(200, 60))
    clock = multiprocessing.Value("d", 1_800_000_000.0)
    check_turns(rate_worker.send(caches, clock, limits, range(MESSAGES), threads=32), limits)


def check_turns(turns, limits):
    assert sorted(message for message, _ in turns) == list(range(MESSAGES))
    times = sorted(when for _, when in turns)
    for limit in limits:
        assert most_in_a_span(times, limit.span) <= limit.number


IN_DATABASE = """
import sys
from django.conf import settings
from django.core.management import call_command
import django
from email_hosts import rate
DATABASE = {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}
CACHE = {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "counts"}
settings.configure(
    DATABASES={"default": DATABASE}, CACHES={"default": CACHE}, EMAIL_HOSTS_CACHE="default"
)
django.setup()
call_command("createcachetable", verbosity=0)
limits = rate.limits("5/d")
print([rate.take("shop", limits) == 0 for _ in range(3)], rate.usage("shop", limits))
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SELECT MIN(expires) > datetime('now', '+1 day') FROM counts")
    print(cursor.fetchall())
"""


def test_database_counts_over_processes(tmp_path):
    path = str(tmp_path / "db.sqlite3")
    first, second = (run_python("-c", IN_DATABASE, path, environment={}) for _ in range(2))
    assert first == "[True, True, True] (3,)\n[(1,)]\n"
    assert second == "[True, True, False] (5,)\n[(1,)]\n"


@pytest.fixture
def fail(monkeypatch):
    """Use a cache of which one method does something else, until it is told of another."""

    def fail(method="", result=None):
        broken.undo()
        if method:
            answer = result if callable(result) else lambda *args: result
            broken.setattr(LocMemCache, method, mock.Mock(side_effect=answer))
            if isinstance(result, BaseException):
                broken.setattr(LocMemCache, method, mock.Mock(side_effect=result))

    with use_cache(LOCAL, "failing"), pytest.MonkeyPatch.context() as broken:
        caches["default"].clear()
        yield fail


class TestCacheThatFails:
    """Mail goes on, and this process counts for itself."""

    def goes_on(self, caplog, reason):
        assert [take("shop", [PER_MINUTE]) for _ in range(3)] == [0] * 3
        assert 60 < take("shop", [PER_MINUTE]) <= 61
        (record,) = caplog.records
        assert record.name == "email_hosts"
        assert record.getMessage() == (
            f"EMAIL_HOSTS_CACHE cannot count what hosts with a rate send: {reason}; for 60 "
            "seconds, each process counts for itself"
        )

    @pytest.mark.parametrize(
        ("method", "result", "reason"),
        [
            ("incr", None, "TypeError"),
            ("incr", False, "TypeError"),
            ("incr", OSError("redis://:Kx7vQz9@h"), "OSError"),
            ("incr", NotImplementedError(), "NotImplementedError"),
            ("incr", ValueError("Key not found"), "ValueError"),
            ("add", OSError(), "OSError"),
            ("add", False, "ValueError"),
            ("get_many", None, "AttributeError"),
            ("get_many", MemoryError(), "MemoryError"),
        ],
    )
    def test_in_some_way(self, method, result, reason, fail, caplog):
        fail(method, result)
        self.goes_on(caplog, reason)

    @pytest.mark.parametrize(
        ("alias", "reason"),
        [
            ("dummy", "ValueError"),
            ("unknown", "InvalidCacheBackendError"),
            ("strange", "AttributeError"),
        ],
    )
    def test_because_it_is_none(self, alias, reason, caplog, settings, monkeypatch):
        settings.CACHES = {"dummy": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
        settings.EMAIL_HOSTS_CACHE = alias
        if alias == "strange":  # it has no incr()
            monkeypatch.setattr(rate, "caches", {"strange": object()})
        self.goes_on(caplog, reason)

    @pytest.mark.parametrize(
        ("backend", "is_silent", "reason"),
        [
            (REDIS, False, "ConnectionError"),
            (MEMCACHED, False, "ConnectionRefusedError"),
            (REDIS, True, "TimeoutError"),
            (MEMCACHED, True, "TimeoutError"),
        ],
    )
    def test_because_it_is_down_or_silent(
        self, backend, is_silent, reason, closed_port, caplog
    ):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1] if is_silent else closed_port
            location = f"{'redis://' * (backend == REDIS)}127.0.0.1:{port}"
            with use_cache(backend, location, **TIMEOUTS[backend]):
                began = time.monotonic()
                self.goes_on(caplog, reason)
                # Less than a second, on a machine that is busy, too.
                assert not is_silent or time.monotonic() - began < 3

    def test_because_it_is_slow(self, clock, fail, caplog):
        def slow(*args):
            clock.now += 0.6
            return {}

        fail("get_many", slow)
        self.goes_on(caplog, "TimeoutError")
        assert clock.now == 1_800_000_000.6

    def test_with_an_answer_that_came_too_late_but_came(self, clock, fail, caplog):
        def slow(*args):
            clock.now += 0.6
            return 4

        fail("incr", slow)
        assert take("shop", [PER_MINUTE]) > 0  # three others were faster
        (text,) = caplog.messages
        assert "TimeoutError" in text
        assert take("shop", [PER_MINUTE], 3) == 0  # this process counts

    def test_when_it_gets_something_back(self, fail, caplog):
        fail("decr", OSError())
        take("shop", [PER_MINUTE], 2)
        assert take("shop", [PER_MINUTE], 2) > 0
        assert caplog.records == []
        assert usage("shop", [PER_MINUTE]) == (4,)  # less for a span, and never more

    def test_is_asked_again_after_a_minute(self, clock, fail, caplog):
        fail("incr", OSError())
        take("shop", [PER_MINUTE])
        fail()
        clock.now += 59
        take("shop", [PER_MINUTE])
        assert usage("shop", [PER_MINUTE]) == (None,)
        clock.now += 1
        assert take("shop", [PER_MINUTE]) == 0
        assert usage("shop", [PER_MINUTE]) == (1,)
        assert len(caplog.records) == 1

    def test_is_logged_once_a_minute_by_one_thread(self, clock, fail, caplog):
        def fail_together(*args):
            barrier.wait(timeout=60)
            raise OSError

        barrier = threading.Barrier(8)
        fail("incr", fail_together)
        with ThreadPoolExecutor(8) as executor:
            list(executor.map(lambda _: take("shop", [PER_DAY]), range(8)))
        fail("incr", OSError())
        for expected in (1, 1, 1, 2):
            take("shop", [PER_DAY])
            assert len(caplog.records) == expected
            clock.now += 20

    def test_does_not_know_the_past_for_sure(self, clock, fail):
        take("shop", [PER_DAY], 4)
        clock.now += 1440
        rate.forget()
        fail("get_many", {})  # as pymemcache does for a while
        with mock.patch.object(LocMemCache, "incr", side_effect=OSError):
            take("shop", [PER_DAY])
        fail()
        clock.now += 60
        assert take("shop", [PER_DAY]) > 0

    def test_makes_usage_unknown(self, fail, caplog):
        fail("get_many", OSError())
        assert usage("shop", [PER_MINUTE, PER_DAY]) == (None, None)
        (text,) = caplog.messages
        assert "OSError" in text

    @pytest.mark.parametrize("method", ["incr", "decr", "get_many"])
    def test_does_not_hide_a_time_limit(self, method, fail):
        class SoftTimeLimitExceeded(Exception):
            __module__ = "billiard.exceptions"

        take("shop", [PER_MINUTE], 2)
        rate.forget()
        fail(method, SoftTimeLimitExceeded())
        with pytest.raises(SoftTimeLimitExceeded):
            take("shop", [PER_MINUTE], 2)
