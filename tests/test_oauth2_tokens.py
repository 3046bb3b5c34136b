"""Tokens: from an endpoint that may answer anything, or a callable, and kept by a process."""

from __future__ import annotations

import gc
import inspect
import os
import signal
import socket
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any
from unittest import mock

import pytest
from conftest import Clock, interrupted_at_each_call, run_python

from email_hosts import oauth2 as module
from email_hosts.exceptions import OAuth2Error
from email_hosts.oauth2 import Tokens, source_of

SECRET, REFRESH, TOKEN = "Kx7vQz9/secret", "Wj4bYt2+refresh", "Zq8nRp5"
USER, URL = "me@example.com", "https://login.example.com/token"


@pytest.fixture
def tokens(monkeypatch):
    """Tokens whose clock is ``tokens.clock``."""
    tokens = Tokens()
    monkeypatch.setattr(tokens, "clock", Clock())
    return tokens


def get(tokens, source, timeout=60, **options):
    return tokens.get(source, USER, timeout=timeout, **options)


def ask(source):
    return get(Tokens(), source)


def endpoint(url, **options):
    """Return the source that asks at this URL."""
    given = {
        "client_id": "my-id",
        "client_secret": SECRET,
        "refresh_token": REFRESH,
        **options,
    }
    of_host = {f"oauth2_{name}": value for name, value in given.items()}
    return source_of({"oauth2": "client_credentials", "oauth2_token_url": url, **of_host})


def custom(function):
    return source_of({"oauth2": function})


def failure(source, **options):
    """Return why there is no token, which shows no secret."""
    with pytest.raises(OAuth2Error) as caught:
        get(Tokens(), source, **options)
    reason = caught.value.reason
    assert caught.value.__context__ is None
    assert not any(secret[:7] in reason for secret in (SECRET, REFRESH, TOKEN))
    assert reason.isprintable()
    return reason.removeprefix("no OAuth 2.0 token from 127.0.0.1: ")


def test_package_does_not_import_an_http_client():
    code = "import email_hosts.backends, sys; print('urllib.request' in sys.modules)"
    assert run_python("-c", code) == "False\n"


@pytest.mark.parametrize(
    ("grant", "more"),
    [
        (
            "client_credentials",
            {"client_secret": SECRET, "scope": "https://a.example/.default"},
        ),
        ("refresh_token", {"refresh_token": REFRESH}),  # of a client without a secret
    ],
)
def test_request_is_the_form_of_its_grant(grant, more, tokens, start_token_server):
    """RFC 6749, 4.4.2 and 6. The token is kept whoever the user is."""
    server, form = start_token_server(), {"client_id": "my-id", **more}
    options = {f"oauth2_{name}": value for name, value in form.items()}
    source = source_of({"oauth2": grant, "oauth2_token_url": server.url, **options})
    given = [tokens.get(source, user, timeout=60) for user in ("a", "b")]
    assert given == ["token-1", "token-1"]
    assert server.forms == [{"grant_type": grant, **form}]


def described(error, text):
    return {"error": error, "error_description": text}


def raw(*lines):
    return lambda request: request.wfile.write("\r\n".join(lines).encode())


MICROSOFT = "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1"
NOT_OAUTH2 = "its answer ({}) is not one of OAuth 2.0; check oauth2_token_url"
CHUNKED = ("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "")


class TestAnswer:
    """Whatever comes back ends in a token or a clear error, without secrets."""

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            (described("invalid_client", MICROSOFT), "invalid_client: AADSTS7000215"),
            (described("invalid_grant", "AADB2C90080"), "invalid_grant: AADB2C90080"),
            (described("invalid_grant", f"not {SECRET}"), "invalid_grant"),
            (described("invalid_grant", f"AADSTS50{TOKEN}"), "invalid_grant"),
            (described(SECRET, MICROSOFT), "AADSTS7000215"),
            (described(TOKEN, TOKEN), NOT_OAUTH2.format(400)),
            ({"error": "Kx7vQz9%2Fsecret"}, NOT_OAUTH2.format(400)),
            ({"error": "a\x1b[J"}, NOT_OAUTH2.format(400)),
            ({"error": "x" * 41}, NOT_OAUTH2.format(400)),
            ({"error": None}, NOT_OAUTH2.format(400)),
            ({"access_token": 5}, NOT_OAUTH2.format(200)),
            ({"access_token": TOKEN, "status": 500}, NOT_OAUTH2.format(500)),
            (b"<html>", NOT_OAUTH2.format(200)),
            (b"[]", NOT_OAUTH2.format(200)),
            (b"[" * 60_000, NOT_OAUTH2.format(200)),
            (b" " * 65_536 + b'{"access_token": "a"}', NOT_OAUTH2.format(200)),
            (raw(f"{SECRET} is no status line", "", ""), "BadStatusLine"),
            (raw("HTTP/1.1 200 OK", "Content-Length: 100", "", "{"), NOT_OAUTH2.format(200)),
            (
                raw("HTTP/1.1 200 OK", f"Content-Length: {'9' * 5000}", "", ""),
                NOT_OAUTH2.format(200),
            ),
            (raw(*CHUNKED, "f" * 15, "{}"), "IncompleteRead"),
            (raw(*CHUNKED, "-5", "{}"), "read length must be non-negative or -1"),
            (
                lambda request: request.connection.shutdown(socket.SHUT_RDWR),
                "Remote end closed connection without response",
            ),
        ],
    )
    def test_without_a_token_is_told(self, answer, expected, start_token_server):
        assert failure(endpoint(start_token_server(answer).url)) == expected

    @pytest.mark.parametrize(
        ("expires_in", "is_kept"),
        [
            *((61, True), ("61", True), (1e400, True)),
            *((60, False), (-5, False), (None, False), ("soon", False), ([], False)),
            *((10**400, False), (float("nan"), False)),
        ],
    )
    def test_is_kept_if_its_lifetime_is_known(
        self, expires_in, is_kept, tokens, start_token_server
    ):
        answers = [{"access_token": text, "expires_in": expires_in} for text in ("a", "b")]
        source = endpoint(start_token_server(*answers).url)
        assert [get(tokens, source), get(tokens, source)] == ["a", "a" if is_kept else "b"]

    def test_redirect_is_not_followed(self, start_token_server):
        other = start_token_server()
        redirect = raw("HTTP/1.1 307 Elsewhere", f"Location: {other.url}", "", "")
        assert failure(endpoint(start_token_server(redirect).url)) == (
            "it answered with a redirect (307); correct oauth2_token_url"
        )
        assert other.forms == []

    def test_that_takes_too_long(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/token"
            assert failure(endpoint(url), timeout=0.2) == "timed out"

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
            (TimeoutError(), "URLError"),
        ],
    )
    def test_of_nobody(self, error, expected, monkeypatch):
        monkeypatch.setattr(socket, "create_connection", mock.Mock(side_effect=error))
        assert failure(endpoint("http://127.0.0.1/token")).endswith(expected)


def test_proxy_gets_what_is_encrypted_and_nothing_else(start_token_server, monkeypatch):
    """The proxy of the environment."""
    proxy = start_token_server()
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, proxy.url.removesuffix("/token"))
    monkeypatch.delenv("no_proxy", raising=False)
    assert ask(endpoint(start_token_server().url)) == "token-1"
    assert proxy.tunnels == proxy.forms == []
    reason = failure(endpoint(URL.replace("https", "HTTPS")))
    assert reason.endswith("login.example.com: Tunnel connection failed: 502 no")
    assert proxy.tunnels == ["login.example.com:443"]


def raises(error):
    def token(username, *, renew):
        raise error

    return token


def returns(value):
    return lambda username, *, renew: value


class Error(Exception):
    """An error of somebody's library, whose text holds the token."""


class SoftTimeLimitExceeded(Exception):
    """Celery's."""

    __module__ = "billiard.exceptions"


class Unhashable(list[str]):
    """A callable without a hash."""

    def __call__(self, username, *, renew):
        return "token"


NO_TOKEN = "the OAuth 2.0 token is empty, or not printable ASCII"
RAISED = (
    f".raises.<locals>.token: it raised {{}} (line {inspect.getsourcelines(raises)[1] + 2} "
    f"of {__file__})"
)


class TestCallable:
    """What a callable of the project returns or raises ends in a token or a clear error."""

    def test_is_called_each_time(self, tokens):
        calls = []

        def token(username, *, renew):
            calls.append((username, renew))
            return f"token-{len(calls)}"

        given = [
            get(tokens, custom(token), refused=refused) for refused in ("", "", "token-2")
        ]
        assert given == ["token-1", "token-2", "token-3"]
        assert calls == [(USER, False), (USER, False), (USER, True)]

    @pytest.mark.parametrize(
        ("function", "reason"),
        [
            (raises(Error(TOKEN)), RAISED.format("Error")),
            (raises(OSError(5, TOKEN)), RAISED.format("OSError")),
            (raises(OAuth2Error("invalid_grant:\r\n old")), ".token: invalid_grant: old"),
            (print, ": it cannot be called as token(username, renew=True)"),
            (partial(print), " from functools.partial: it cannot be called"),
            (returns(None), ": it must return a string, not NoneType"),
            (returns({"access_token": TOKEN}), ": it must return a string, not dict"),
            *((returns(value), NO_TOKEN) for value in ("", f"{TOKEN}\r\nRSET", f"{TOKEN} x")),
            *((returns(value), NO_TOKEN) for value in (f"{TOKEN}\1", f"{TOKEN}é")),
        ],
    )
    def test_what_is_no_token_is_told(self, function, reason):
        assert reason in failure(custom(function))

    @pytest.mark.parametrize("error", [SoftTimeLimitExceeded, KeyboardInterrupt])
    def test_interruption_is_no_failure_of_the_login(self, error):
        """After which a failover would ask the next host."""
        with pytest.raises(error):
            ask(custom(raises(error())))

    def test_is_called_for_two_users_at_a_time(self, tokens):
        both = threading.Barrier(2)

        def token(username, *, renew):
            both.wait(10)
            return username

        with ThreadPoolExecutor(2) as threads:
            given = threads.map(lambda user: tokens.get(custom(token), user, timeout=60), "ab")
            assert list(given) == ["a", "b"]

    def test_need_not_be_hashable(self):
        assert ask(custom(Unhashable())) == "token"


class Counting:
    """A source that gives out token-1, token-2 and so on, and calls ``fetch_once`` for it."""

    def __init__(self, lifetime=3600, fetch_once=lambda: None):
        self.lifetime = lifetime
        self.fetch_once = fetch_once
        self.renewals: list[bool] = []
        self.asked = threading.Semaphore(0)
        self.lock = threading.Lock()

    def key(self, username):
        self.asked.release()
        return self

    def fetch(self, username, *, renew, timeout):
        with self.lock:
            self.renewals.append(renew)
            number = len(self.renewals)
        self.fetch_once()
        return f"token-{number}", self.lifetime


class Hanging(Counting):
    """Its first fetch lasts until ``end`` is set."""

    def __init__(self):
        super().__init__(fetch_once=self.hang)
        self.begun, self.end = threading.Event(), threading.Event()

    def hang(self):
        self.fetch_once = lambda: None
        self.begun.set()
        assert self.end.wait(60)


def fail():
    raise OAuth2Error("invalid_client")


class TestKept:
    """A token is used until a minute before it expires."""

    @pytest.mark.parametrize(
        ("lifetime", "seconds"), [(3600, 3540), (61, 1), (1e12, 86340), (float("inf"), 86340)]
    )
    def test_for_so_many_seconds_from_the_moment_of_asking(self, lifetime, seconds, tokens):
        def take_time():
            tokens.clock.now += 0.25

        source, given = Counting(lifetime, take_time), []
        for passed in (0, seconds - 0.5, 0.25):
            tokens.clock.now += passed
            given.append(get(tokens, source))
        assert given == ["token-1", "token-1", "token-2"]

    def test_until_there_are_too_many(self, tokens, monkeypatch):
        """Nothing is left of the oldest."""
        monkeypatch.setattr(module, "MAX_KEPT", 2)
        sources = [Counting() for _ in range(5)]
        for source in sources:
            get(tokens, source)
        kept = [weakref.ref(source) for source in sources]
        del source, sources
        gc.collect()
        assert [ref() is not None for ref in kept] == [False, False, False, True, True]

    def test_until_a_server_refuses_it(self, tokens):
        source = Counting()
        given = [get(tokens, source, refused=each) for each in ("", "token-1", "", "token-1")]
        assert given == ["token-1", "token-2", "token-2", "token-2"]
        assert source.renewals == [False, True]

    def test_not_if_its_renewal_fails(self, tokens):
        source = Counting()
        get(tokens, source)
        source.fetch_once = fail
        with pytest.raises(OAuth2Error):
            get(tokens, source, refused="token-1")
        source.fetch_once = lambda: None
        assert get(tokens, source) == "token-3"


class TestThreads:
    """However many threads want a token, one fetches it."""

    def results(self, tokens, source, **options):
        """Return what eight threads get that want a token at the same time."""
        barrier = threading.Barrier(8)

        def wait_for_all():
            for _ in range(8):
                assert source.asked.acquire(timeout=60)

        def work(_):
            barrier.wait(60)
            try:
                return get(tokens, source, **options)
            except OAuth2Error as error:
                return error.reason

        fetch_once, first = source.fetch_once, iter([wait_for_all])
        source.fetch_once = lambda: (next(first, int)(), fetch_once())
        with ThreadPoolExecutor(8) as threads:
            return sorted(threads.map(work, range(8)))

    @pytest.mark.parametrize(
        ("refused", "fetches", "expected"),
        [
            ("", [], ["token-1"] * 8),
            ("old", [], ["token-1"] * 8),
            ("", [fail], ["invalid_client", *["token-2"] * 7]),
        ],
    )
    def test_of_eight_one_fetches_and_the_next_one_after_a_failure(
        self, refused, fetches, expected, tokens
    ):
        coming = iter(fetches)
        source = Counting(fetch_once=lambda: next(coming, int)())
        assert self.results(tokens, source, refused=refused) == expected
        assert source.renewals == [bool(refused)] * (1 + len(fetches))

    def test_nobody_waits_for_another_token_or_longer_than_the_timeout(self, tokens):
        source = Hanging()
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(get, tokens, source)
            assert source.begun.wait(60)
            try:
                assert get(tokens, Counting()) == "token-1"
                with pytest.raises(OAuth2Error, match=r"has been asking for one for 0\.1 sec"):
                    get(tokens, source, timeout=0.1)
            finally:
                source.end.set()
            assert first.result() == "token-1"

    def test_time_limit_at_any_call_leaves_no_thread_that_waits_in_vain(self, tokens):
        """In the worst case, one gives up after its timeout, and the next one asks anew."""
        source, number = Counting(0), 0
        with ThreadPoolExecutor(1) as threads:
            times = interrupted_at_each_call(lambda: get(tokens, source), module)
            for number, _ in enumerate(times):  # noqa: B007  # pragma: no cover
                with suppress(OAuth2Error):
                    threads.submit(get, tokens, source, timeout=0.01).result()
                again = threads.submit(get, tokens, source, timeout=0.01)
                assert again.result().startswith("token-")
        assert number > 10  # pragma: no cover (on Python 3.10, coverage has lost track)

    def test_signal_handler_fetches_a_token_of_its_own(self, tokens):
        """It would wait for the thread that it interrupts."""
        found: list[Any] = []

        def interrupt():
            source.fetch_once = lambda: None
            signal.raise_signal(signal.SIGUSR1)

        source = Counting(fetch_once=interrupt)
        before = signal.signal(
            signal.SIGUSR1, lambda *args: found.append(get(tokens, source, timeout=0.1))
        )
        try:
            assert get(tokens, source) == "token-1"
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert found == ["token-2"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_child_keeps_tokens_and_does_not_wait_for_a_fetch_of_its_parent(tokens):
    kept, source = Counting(), Hanging()
    get(tokens, kept)
    with ThreadPoolExecutor(1) as threads:
        parent = threads.submit(get, tokens, source)
        assert source.begun.wait(60)
        if (child := os.fork()) == 0:  # pragma: no cover (coverage is not saved there)
            found = []
            try:
                found = [get(tokens, kept), get(tokens, source, timeout=5)]
            finally:
                os._exit(found != ["token-1", "token-2"])
        source.end.set()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert parent.result() == "token-1"
