"""The tokens of a process: kept until they expire, and fetched by one thread at a time."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from conftest import Clock, interrupted_at_each_call

from email_hosts.exceptions import OAuth2Error
from email_hosts.oauth2 import tokens as module
from email_hosts.oauth2.token_endpoint import Token
from email_hosts.oauth2.tokens import Tokens


class Source:
    """Gives out what ``fetch_once`` returns, and counts."""

    def __init__(self, *lifetimes, fetch_once=None):
        self.lifetimes = lifetimes or (3600,)
        self.fetch_once = fetch_once or (lambda: None)
        self.renewals: list[bool] = []
        self.lock = threading.Lock()

    def key(self, username):
        return self

    def fetch(self, username, *, renew, timeout):
        with self.lock:
            self.renewals.append(renew)
            number = len(self.renewals)
        self.fetch_once()
        return Token(f"token-{number}", self.lifetimes[min(number, len(self.lifetimes)) - 1])


class Hanging(Source):
    """Its first fetch lasts until ``end`` is set."""

    def __init__(self):
        super().__init__(fetch_once=self.hang)
        self.begun, self.end = threading.Event(), threading.Event()

    def hang(self):
        self.fetch_once = lambda: None
        self.begun.set()
        self.end.wait(60)


@pytest.fixture
def tokens(monkeypatch):
    """Tokens whose clock is ``tokens.clock``."""
    tokens = Tokens()
    monkeypatch.setattr(tokens, "clock", Clock())
    return tokens


def get(tokens, source, timeout=60, **options):
    return tokens.get(source, "me@example.com", timeout=timeout, **options)


class TestKept:
    """A token is used until a minute before it expires."""

    @pytest.mark.parametrize(
        ("lifetime", "seconds"), [(3600, 3540), (61, 1), (1e12, 86340), (float("inf"), 86340)]
    )
    def test_for_so_many_seconds(self, lifetime, seconds, tokens):
        source = Source(lifetime)
        assert get(tokens, source) == "token-1"
        tokens.clock.now += seconds - 0.5
        assert get(tokens, source) == "token-1"
        tokens.clock.now += 0.5
        assert get(tokens, source) == "token-2"

    @pytest.mark.parametrize("lifetime", [0, -5, 1, 60, float("-inf")])
    def test_not_at_all(self, lifetime, tokens):
        source = Source(lifetime)
        assert [get(tokens, source) for _ in range(2)] == ["token-1", "token-2"]

    def test_from_the_moment_of_asking(self, tokens):
        """The server has counted since then."""

        def take_time():
            tokens.clock.now += 30

        source = Source(100, fetch_once=take_time)
        assert get(tokens, source) == "token-1"
        tokens.clock.now += 10
        assert get(tokens, source) == "token-2"

    def test_by_source(self, tokens):
        first, second = Source(), Source()
        for source in (first, second, first, second):
            get(tokens, source)
        assert (first.renewals, second.renewals) == ([False], [False])

    def test_in_bounds(self, tokens, monkeypatch):
        monkeypatch.setattr(module, "MAX_KEPT", 2)
        sources = [Source(), Source(), Source()]
        for source in sources:
            get(tokens, source)
        assert len(tokens._kept) == 2
        assert get(tokens, sources[2]) == "token-1"
        assert get(tokens, sources[0]) == "token-2"

    def test_until_a_server_refuses_it(self, tokens):
        source = Source()
        assert get(tokens, source) == "token-1"
        assert get(tokens, source, refused="token-1") == "token-2"
        assert get(tokens, source) == get(tokens, source, refused="token-1") == "token-2"
        assert source.renewals == [False, True]

    def test_not_if_its_renewal_fails(self, tokens):
        source = Source()
        get(tokens, source)
        source.fetch_once = fail
        with pytest.raises(OAuth2Error):
            get(tokens, source, refused="token-1")
        source.fetch_once = lambda: None
        assert get(tokens, source) == "token-3"


def fail():
    raise OAuth2Error("invalid_client")


class Gate:
    """Holds a fetch until so many other threads wait for it."""

    def __init__(self, monkeypatch, waiting):
        self._waiting = threading.Semaphore(0)
        self._number = waiting
        gate = self

        class Event(threading.Event):
            def wait(self, timeout=None):
                gate._waiting.release()
                return super().wait(timeout)

        class Fetch(module._Fetch):
            def __init__(self):
                super().__init__()
                self.has_ended = Event()

        monkeypatch.setattr(module, "_Fetch", Fetch)

    def pass_through(self):
        for _ in range(self._number):
            assert self._waiting.acquire(timeout=60)
        self._number = 0

    def wait_and_fail(self):
        self.pass_through()
        fail()


class TestThreads:
    """However many threads want a token, one fetches it."""

    def results(self, tokens, source, **options):
        def work(_):
            try:
                return get(tokens, source, **options)
            except OAuth2Error as error:
                return error.reason
            except KeyboardInterrupt:
                return "interrupted"

        with ThreadPoolExecutor(8) as threads:
            return sorted(threads.map(work, range(8)))

    def test_one_fetch_for_eight(self, tokens, monkeypatch):
        source = Source(fetch_once=Gate(monkeypatch, 7).pass_through)
        assert self.results(tokens, source) == ["token-1"] * 8
        assert source.renewals == [False]
        assert tokens._fetches == {}

    def test_one_renewal_for_eight(self, tokens, monkeypatch):
        source = Source(fetch_once=Gate(monkeypatch, 7).pass_through)
        assert self.results(tokens, source, refused="old") == ["token-1"] * 8
        assert source.renewals == [True]

    def test_token_that_is_not_kept_serves_those_who_wait(self, tokens, monkeypatch):
        source = Source(0, fetch_once=Gate(monkeypatch, 7).pass_through)
        assert self.results(tokens, source) == ["token-1"] * 8

    def test_one_failure_for_eight(self, tokens, monkeypatch):
        source = Source(fetch_once=Gate(monkeypatch, 7).wait_and_fail)
        assert self.results(tokens, source) == ["invalid_client"] * 8
        assert source.renewals == [False]

    def test_each_has_an_error_of_its_own(self, tokens, monkeypatch):
        """A traceback grows with each frame that an error passes through."""
        source = Source(fetch_once=Gate(monkeypatch, 1).wait_and_fail)
        with ThreadPoolExecutor(2) as threads:
            futures = [threads.submit(get, tokens, source) for _ in range(2)]
        first, second = (future.exception() for future in futures)
        assert first is not second

    def test_interrupted_fetch_is_taken_over_by_another(self, tokens, monkeypatch):
        gate = Gate(monkeypatch, 7)
        first = iter([True])

        def interrupt():
            gate.pass_through()
            if next(first, False):
                raise KeyboardInterrupt

        source = Source(fetch_once=interrupt)
        results = self.results(tokens, source)
        assert results == ["interrupted", *["token-2"] * 7]
        assert source.renewals == [False, False]

    def test_fetch_that_returns_the_refused_token_does_not_do(self, tokens, monkeypatch):
        """It had begun before the refusal."""
        gate, begun = Gate(monkeypatch, 1), threading.Event()

        def begin():
            begun.set()
            gate.pass_through()

        source = Source(fetch_once=begin)
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(get, tokens, source)
            assert begun.wait(60)
            assert get(tokens, source, refused="token-1") == "token-2"
        assert first.result() == "token-1"
        assert source.renewals == [False, True]

    def test_time_limit_at_any_call_leaves_no_thread_that_waits_in_vain(self, tokens):
        """In the worst case, one gives up after its timeout, and the next one asks anew."""
        source = Source(0)
        with ThreadPoolExecutor(1) as threads:
            times = interrupted_at_each_call(lambda: get(tokens, source), module)
            for _ in times:  # pragma: no cover (it confuses coverage)
                with suppress(OAuth2Error):
                    threads.submit(get, tokens, source, timeout=0.01).result()
                again = threads.submit(get, tokens, source, timeout=0.01)
                assert again.result().startswith("token-")

    def test_nobody_waits_longer_than_the_timeout(self, tokens):
        source = Hanging()
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(get, tokens, source)
            assert source.begun.wait(60)
            try:
                with pytest.raises(OAuth2Error, match=r"has been asking for one for 0\.1 sec"):
                    get(tokens, source, timeout=0.1)
            finally:
                source.end.set()
            assert first.result() == "token-1"

    def test_signal_handler_fetches_a_token_of_its_own(self, tokens):
        """It would wait for the thread that it interrupts."""
        found: list[str] = []

        def handler(number, frame):
            found.append(get(tokens, source))

        def interrupt():
            source.fetch_once = lambda: None
            signal.raise_signal(signal.SIGUSR1)

        source = Source(fetch_once=interrupt)
        before = signal.signal(signal.SIGUSR1, handler)
        try:
            assert get(tokens, source) == "token-1"
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert found == ["token-2"]
        assert tokens._fetches == {}


def test_tokens_are_in_no_repr(tokens):
    get(tokens, Source())
    shown = f"{tokens!r} {tokens._kept!r} {Token('token-1')!r}"
    assert "token-1" not in shown


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize("has_hooks", [True, False], ids=["by Python", "by uWSGI"])
def test_child_does_not_wait_for_a_fetch_of_its_parent(has_hooks):
    tokens = module.tokens
    kept, source = Source(), Hanging()
    get(tokens, kept)
    with ThreadPoolExecutor(1) as threads:
        parent = threads.submit(get, tokens, source)
        assert source.begun.wait(60)
        fetches = tokens._fetches
        if (child := os.fork()) == 0:  # pragma: no cover (coverage is not saved there)
            found = []
            try:
                if not has_hooks:
                    tokens._fetches = fetches
                found = [get(tokens, kept), get(tokens, source, timeout=5)]
            finally:
                os._exit(found != ["token-1", "token-2"])
        source.end.set()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert parent.result() == "token-1"
