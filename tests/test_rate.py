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
from typing import Any
from unittest import mock

import pytest
import rate_worker
from conftest import Clock, TimeLimit, run_python
from django.core.cache import caches
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
def clock(monkeypatch):
    """The clock of rates, which sleeping moves."""
    clock: Any = Clock()
    clock.now = 1_800_000_000.0
    clock.naps = []

    def sleep(seconds):
        clock.naps.append(seconds)
        clock.now += seconds

    monkeypatch.setattr(rate, "clock", clock)
    monkeypatch.setattr(rate, "stopwatch", clock)
    monkeypatch.setattr(rate, "sleep", sleep)
    rate.forget()
    yield clock
    rate.forget()


def use_cache(backend, location="", **options):
    """Count in this cache, while it is used as a context manager."""
    default = {"BACKEND": backend, "LOCATION": location, "OPTIONS": options}
    return override_settings(CACHES={"default": default}, EMAIL_HOSTS_CACHE="default")


class TestOption:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("14/s", (Limit(14, 1),)),
            ("30/m", (Limit(30, 60),)),
            ("100/h", (Limit(100, 3600),)),
            ("0500/d", (Limit(500, 86400),)),
            ("14/s,50000/d", (Limit(14, 1), Limit(50000, 86400))),
            ("50000/d, 14/s ", (Limit(50000, 86400), Limit(14, 1))),
        ],
    )
    def test_is_a_number_for_each_span(self, text, expected):
        assert parse(f"smtp://h?rate={text}").options["rate"] == expected
        assert from_python(parse("smtp://h"), {"rate": text}).options["rate"] == expected

    @pytest.mark.parametrize(
        "text",
        [
            *(
                "",
                "30",
                "/m",
                "0/m",
                "-1/m",
                "1.5/m",
                "30/M",
                "30/w",
                "30/min",
                "30/m,",
                "30m",
            ),
            *("30/m;1/s", "٣/m", "1e3/m", "9999999999/d"),
        ],
    )
    def test_says_what_it_must_be(self, text):
        reason = "^option 'rate' must be a whole number for each second, minute, hour or day, "
        with pytest.raises(InvalidEmailHost, match=f"{reason}like 30/m, or"):
            parse(f"smtp://h?rate={text}")

    def test_has_each_span_once(self):
        reason = "'rate' must have one limit for each span; remove 20/m or the other"
        with pytest.raises(InvalidEmailHost, match=reason):
            parse("smtp://h?rate=30/m,20/m")

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (30, "must be text, not int"),
            (Limit(30, 60), "must be text, not Limit"),
            ([30], "must be a whole number"),
            ([Limit(0, 60)], "must be a whole number"),
            ([Limit(30, 7)], "must be a whole number"),
            ([], "must be a whole number"),
        ],
    )
    def test_is_refused_in_python_too(self, value, reason):
        with pytest.raises(InvalidEmailHost, match=f"option 'rate' {reason}"):
            from_python(parse("smtp://h"), {"rate": value})

    @pytest.mark.parametrize("change", [tuple, list, copy.deepcopy])
    def test_can_be_given_again(self, change):
        limits = parse("smtp://h?rate=14/s,50000/d").options["rate"]
        again = from_python(parse("smtp://h"), {"rate": change(limits)})
        assert again.options["rate"] == limits
        assert [str(limit) for limit in limits] == ["14/s", "50000/d"]

    def test_can_be_pickled(self):
        limits = parse("smtp://h?rate=14/s").options["rate"]
        assert pickle.loads(pickle.dumps(limits)) == limits

    def test_survives_mailers(self):
        host = parse("console:?rate=14/s&rate_by=recipients")
        mailer = host.mailer
        options = {**mailer["OPTIONS"]}
        del options["backend"]
        again = from_python(Host("shop", host.backend, {}, setting="MAILERS"), options)
        assert again.options == host.options

    @pytest.mark.parametrize(
        "dsn", ["smtp://h", "console:", "failover:shop", "anymail+brevo:", "backend://a.b.C"]
    )
    def test_is_for_any_host(self, dsn):
        options = parse(f"{dsn}?rate=30/m&rate_by=recipients").options
        assert options["rate"] == (Limit(30, 60),)
        assert options["rate_by"] == "recipients"

    @pytest.mark.parametrize(
        ("query", "reason"),
        [
            ("rate=1/s&rate_by=mails", "option 'rate_by' must be messages or recipients"),
            ("rate_by=messages", "option 'rate_by' needs 'rate' beside it"),
        ],
    )
    def test_counts_messages_or_recipients(self, query, reason):
        with pytest.raises(InvalidEmailHost, match=reason):
            parse(f"smtp://h?{query}")

    def test_is_not_there_at_first(self):
        table = parse("smtp://h").table
        assert (table["rate"].default, table["rate_by"].default) == ((), "messages")


class TestTake:
    def test_gives_what_the_limit_has(self):
        assert [take("shop", [PER_MINUTE]) for _ in range(3)] == [0, 0, 0]
        assert take("shop", [PER_MINUTE]) > 0

    def test_counts_nothing_without_a_limit(self):
        assert [take("shop", []) for _ in range(9)] == [0] * 9

    def test_tells_when_to_ask_again(self, clock):
        start = clock.now
        for wait in (0, 10, 10):
            clock.now += wait
            take("shop", [PER_MINUTE])
        # The first message came 20 seconds ago, and counts for a slice of a second longer.
        assert take("shop", [PER_MINUTE]) == 41
        assert take("shop", [PER_MINUTE], 2) == 51
        assert take("shop", [PER_MINUTE], 3) == 61
        clock.now = start + 60.999
        assert 0 < take("shop", [PER_MINUTE]) < 0.002
        clock.now = start + 61
        assert take("shop", [PER_MINUTE]) == 0
        assert take("shop", [PER_MINUTE]) == 10

    def test_counts_each_recipient(self):
        assert take("shop", [PER_MINUTE], 2) == 0
        assert take("shop", [PER_MINUTE], 2) > 0
        assert take("shop", [PER_MINUTE], 1) == 0

    def test_never_gives_more_than_the_limit_at_once(self):
        assert take("shop", [Limit(100, 60), PER_MINUTE], 4) == math.inf
        assert take("shop", [PER_MINUTE], 3) == 0

    def test_counts_each_host_for_itself(self):
        assert take("shop", [PER_MINUTE], 3) == take("club", [PER_MINUTE], 3) == 0

    @pytest.mark.parametrize("limits", [[PER_SECOND, PER_DAY], [PER_DAY, PER_SECOND]])
    def test_gives_back_what_another_limit_refuses(self, limits, clock):
        assert take("shop", limits, 2) == 0
        assert take("shop", limits, 1) == pytest.approx(1.1, abs=1e-6)
        clock.now += 1.1
        assert take("shop", limits, 2) == 0  # the day had not counted what was refused
        clock.now += 1.1
        assert take("shop", limits, 1) > 80_000

    def test_goes_on_counting_when_a_limit_is_changed(self):
        take("shop", [Limit(3, 60)], 3)
        assert take("shop", [Limit(4, 60)], 1) == 0
        assert take("shop", [Limit(4, 60)], 1) > 0

    def test_counts_again_where_a_slice_ends_meanwhile(self, clock, monkeypatch):
        count = rate._InMemory.count

        def slow_count(self, *args):
            found = count(self, *args)
            clock.now += late.pop() if late else 0
            return found

        late = [2]
        monkeypatch.setattr(rate._InMemory, "count", slow_count)
        assert take("shop", [PER_MINUTE], 3) == 0
        # It was counted once, and when it was offered.
        assert take("shop", [PER_MINUTE]) == 61

    def test_keeps_little_in_memory(self, monkeypatch, clock):
        monkeypatch.setattr(rate, "MAX_KEPT", 10)
        for number in range(25):
            assert take(f"host{number}", [PER_MINUTE], 3) == 0
        assert len(rate._memory._counts) <= 10
        assert len(rate._memory.past) <= 10
        assert take("host24", [PER_MINUTE]) > 0

    def test_drops_what_is_over_first(self, monkeypatch, clock):
        monkeypatch.setattr(rate, "MAX_KEPT", 10)
        take("day", [PER_DAY], 4)
        for number in range(20):
            clock.now += 60
            take(f"host{number}", [PER_MINUTE])
        assert take("day", [PER_DAY]) > 0

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
            if seconds == 0:
                accepted.append(clock.now)
                continue
            # There is a reason within the span and one slice, and it is gone after the wait.
            longest = limit.span * (1 + 1 / (10 if limit.span == 1 else 60)) + 1e-3
            assert len([t for t in accepted if clock.now - t <= longest]) >= limit.number
            assert seconds <= longest
            clock.now += seconds
            assert take("shop", [limit]) == 0
            accepted.append(clock.now)
    assert most_in_a_span(accepted, limit.span) <= limit.number


@given(
    offers=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 5)), min_size=1, max_size=80)
)
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
    def test_is_not_needed_below_the_limit(self, clock):
        wait_for_turn("shop", [PER_MINUTE], 1, 0, alias="shop")
        assert clock.naps == []

    def test_lasts_until_the_turn_comes(self, clock):
        take("shop", [PER_MINUTE], 3)
        wait_for_turn("shop", [PER_MINUTE], 1, 61, alias="shop")
        assert clock.naps == [61]
        assert take("shop", [PER_MINUTE], 2) == 0
        assert take("shop", [PER_MINUTE]) > 0

    def test_does_not_begin_if_the_turn_comes_too_late(self, clock):
        take("shop", [PER_MINUTE], 3)
        with pytest.raises(RateLimited) as caught:
            wait_for_turn("shop", [PER_MINUTE], 1, 60, alias="shop")
        assert caught.value.alias == "shop"
        assert caught.value.retry_after == 61
        text = 'host "shop": its limit of 3/m is reached; ask again in 61 s'
        assert str(caught.value) == text
        assert clock.naps == []

    def test_names_the_limit_that_is_reached(self):
        take("shop", [PER_SECOND, PER_DAY], 2)
        take("shop", [PER_DAY], 2)
        with pytest.raises(RateLimited, match="limit of 4/d is reached"):
            wait_for_turn("shop", [PER_SECOND, PER_DAY], 1, 60, alias="shop")

    def test_ends_when_others_were_faster(self, clock, monkeypatch):
        def sleep(seconds):
            clock.now += seconds
            take("shop", [PER_MINUTE], 3)

        monkeypatch.setattr(rate, "sleep", sleep)
        sleep(0)
        with pytest.raises(RateLimited, match="ask again in 61 s"):
            wait_for_turn("shop", [PER_MINUTE], 1, 100, alias="shop")

    def test_is_never_for_what_cannot_be_sent(self, clock):
        with pytest.raises(RateLimited) as caught:
            wait_for_turn("shop", [PER_MINUTE], 4, 1e9, alias="shop")
        text = 'host "shop": what counts as 4 can never be sent with its limit of 3/m'
        assert str(caught.value) == text
        assert caught.value.retry_after == math.inf

    def test_can_be_interrupted(self, monkeypatch):
        def interrupt(seconds):
            raise TimeLimit

        take("shop", [PER_MINUTE], 3)
        monkeypatch.setattr(rate, "sleep", interrupt)
        with pytest.raises(TimeLimit):
            wait_for_turn("shop", [PER_MINUTE], 1, 100, alias="shop")


class TestError:
    def test_is_one_of_smtplib(self):
        assert issubclass(RateLimited, smtplib.SMTPException)

    @pytest.mark.parametrize("alias", ["shop", None])
    @pytest.mark.parametrize("change", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
    def test_can_be_pickled(self, alias, change):
        error = RateLimited("its limit is reached", alias=alias, retry_after=2.5)
        again = change(error)
        assert (type(again), again.alias, again.retry_after) == (RateLimited, alias, 2.5)
        assert str(again) == str(error)

    def test_shows_no_dsn(self):
        error = RateLimited("is full", alias="smtp://shop:Kx7vQz9@h", retry_after=1)
        assert str(error) == 'host "(a DSN)": is full'

    def test_is_shown_whole_in_logs(self):
        error = RateLimited("is full", alias="shop", retry_after=1)
        assert summarize(error) == 'RateLimited: host "shop": is full'


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
        take("shop", limits)
        clock.now += 2
        take("shop", limits, 2)
        rate.forget()
        assert usage("shop", limits) == (2, 3)
        assert usage("club", limits) == (0, 0)

    def test_gets_back_what_another_limit_refuses(self, cache):
        take("shop", [PER_SECOND, PER_DAY], 2)
        assert take("shop", [PER_SECOND, PER_DAY]) > 0
        assert usage("shop", [PER_SECOND, PER_DAY]) == (2, 2)

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


def test_usage_is_unknown_without_a_cache():
    take("shop", [PER_MINUTE])
    assert usage("shop", [PER_MINUTE, PER_DAY]) == (None, None)


MESSAGES = 500


@pytest.mark.parametrize("name", ["memory", "local"])
def test_many_threads_send_no_more_than_the_limit(name):
    settings = (
        {"default": {"BACKEND": LOCAL, "LOCATION": "threads"}} if name == "local" else {}
    )
    limits = (Limit(14, 1), Limit(200, 60))
    clock = multiprocessing.Value("d", 1_800_000_000.0)
    check_turns(rate_worker.send(settings, clock, limits, range(MESSAGES), threads=32), limits)


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


class Failing(LocMemCache):
    """A cache of which one method does something else."""

    method = "incr"
    result: object = None

    def _do(self, name, *args, **kwargs):
        if name != self.method:
            return getattr(LocMemCache, name)(self, *args, **kwargs)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result(*args, **kwargs) if callable(self.result) else self.result

    def incr(self, *args, **kwargs):
        return self._do("incr", *args, **kwargs)

    def decr(self, *args, **kwargs):
        return self._do("decr", *args, **kwargs)

    def add(self, *args, **kwargs):
        return self._do("add", *args, **kwargs)

    def get_many(self, *args, **kwargs):
        return self._do("get_many", *args, **kwargs)


@pytest.fixture
def fail(monkeypatch):
    """Use a cache of which one method does something else."""

    def fail(method, result):
        monkeypatch.setattr(Failing, "method", method)
        monkeypatch.setattr(
            Failing, "result", staticmethod(result) if callable(result) else result
        )

    fail("", None)
    with use_cache("test_rate.Failing", "failing"):
        caches["default"].clear()
        yield fail


def forget_key(self, *args):
    raise ValueError("Key not found")


class TestCacheThatFails:
    """Mail goes on, and this process counts for itself."""

    def goes_on(self, caplog, reason, *, count=3):
        assert [take("shop", [PER_MINUTE]) for _ in range(count)] == [0] * count
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
            ("incr", forget_key, "ValueError"),
            ("add", OSError(), "OSError"),
            ("add", False, "ValueError"),
            ("get_many", None, "AttributeError"),
            ("get_many", MemoryError(), "MemoryError"),
        ],
    )
    def test_in_some_way(self, method, result, reason, fail, caplog):
        fail(method, result)
        self.goes_on(caplog, reason)

    @pytest.mark.parametrize("backend", [REDIS, MEMCACHED])
    def test_because_it_is_down(self, backend, closed_port, caplog):
        scheme = "redis://" if backend == REDIS else ""
        with use_cache(backend, f"{scheme}127.0.0.1:{closed_port}", **TIMEOUTS[backend]):
            reason = "ConnectionError" if backend == REDIS else "ConnectionRefusedError"
            self.goes_on(caplog, reason)

    @pytest.mark.parametrize("backend", [REDIS, MEMCACHED])
    def test_because_it_says_nothing(self, backend, caplog):
        scheme = "redis://" if backend == REDIS else ""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"{scheme}127.0.0.1:{silent.getsockname()[1]}"
            with use_cache(backend, address, **TIMEOUTS[backend]):
                began = time.monotonic()
                self.goes_on(caplog, "TimeoutError")
                assert time.monotonic() - began < 1

    def test_because_it_keeps_nothing(self, caplog):
        with use_cache("django.core.cache.backends.dummy.DummyCache"):
            self.goes_on(caplog, "ValueError")

    def test_because_the_alias_is_unknown(self, caplog):
        with override_settings(EMAIL_HOSTS_CACHE="counts"):
            self.goes_on(caplog, "InvalidCacheBackendError")

    def test_because_it_has_no_incr(self, caplog, monkeypatch):
        monkeypatch.setattr(rate, "caches", {"own": object()})
        with override_settings(EMAIL_HOSTS_CACHE="own"):
            self.goes_on(caplog, "AttributeError")

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
        assert len(caplog.records) == 1
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
        fail("", None)
        clock.now += 59
        take("shop", [PER_MINUTE])
        assert usage("shop", [PER_MINUTE]) == (None,)
        clock.now += 1
        assert take("shop", [PER_MINUTE]) == 0
        assert usage("shop", [PER_MINUTE]) == (1,)
        assert len(caplog.records) == 1

    def test_is_logged_once_a_minute(self, clock, fail, caplog):
        fail("incr", OSError())
        for _ in range(6):
            take("shop", [PER_DAY])
            clock.now += 20
        assert len(caplog.records) == 2

    def test_is_logged_by_one_thread(self, fail, caplog):
        def fail_together(*args):
            barrier.wait(timeout=60)
            raise OSError

        barrier = threading.Barrier(8)
        fail("incr", fail_together)
        threads = [
            threading.Thread(target=take, args=("shop", [PER_MINUTE])) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(caplog.records) == 1

    def test_does_not_know_the_past_for_sure(self, clock, fail):
        take("shop", [PER_DAY], 4)
        clock.now += 1440
        rate.forget()
        fail("get_many", lambda *args: {})  # as pymemcache does for a while
        with mock.patch.object(LocMemCache, "incr", side_effect=OSError):
            take("shop", [PER_DAY])
        fail("", None)
        clock.now += 60
        assert take("shop", [PER_DAY]) > 0

    def test_makes_usage_unknown(self, fail, caplog):
        fail("get_many", OSError())
        assert usage("shop", [PER_MINUTE, PER_DAY]) == (None, None)
        assert len(caplog.records) == 1

    @pytest.mark.parametrize("method", ["incr", "decr", "get_many"])
    def test_does_not_hide_a_time_limit(self, method, fail):
        class SoftTimeLimitExceeded(Exception):
            __module__ = "billiard.exceptions"

        take("shop", [PER_MINUTE], 2)
        rate.forget()
        fail(method, SoftTimeLimitExceeded())
        with pytest.raises(SoftTimeLimitExceeded):
            take("shop", [PER_MINUTE], 2)
