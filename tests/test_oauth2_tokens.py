"""Tokens: from an endpoint that may answer anything, or a callable, and kept by a process."""

from __future__ import annotations

import inspect
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from conftest import Clock, interrupted_at_each_call, run_python

from email_hosts import oauth2 as module
from email_hosts.exceptions import OAuth2Error
from email_hosts.oauth2 import Tokens, source_of
from email_hosts.smtp import tls as tls_module

SECRET, REFRESH, TOKEN = "Kx7vQz9/secret", "Wj4bYt2+refresh", "Zq8nRp5"


@pytest.fixture
def tokens(monkeypatch):
    """Tokens whose clock is ``tokens.clock``."""
    tokens = Tokens()
    monkeypatch.setattr(tokens, "clock", Clock())
    return tokens


def get(tokens, source, timeout=60, **options):
    return tokens.get(source, "me@example.com", timeout=timeout, **options)


def endpoint(server, **options):
    """Return the source that asks this server, or this URL."""
    given = {"client_id": "my-id", "client_secret": SECRET, "refresh_token": "", **options}
    given |= {"token_url": getattr(server, "url", server)}
    of_host = {f"oauth2_{name}": value for name, value in given.items()}
    return source_of({"oauth2": "client_credentials", **of_host})


def ask(source, **options):
    return get(Tokens(), source, **options)


def failure(source, **options):
    """Return why there is no token, which shows no secret."""
    with pytest.raises(OAuth2Error) as caught:
        ask(source, **options)
    reason = caught.value.reason
    assert caught.value.__context__ is None
    assert not any(secret[:7] in reason for secret in (SECRET, REFRESH, TOKEN))
    assert reason.isprintable()
    return reason.removeprefix("no OAuth 2.0 token from 127.0.0.1: ")


def failure_of(server, **options):
    return failure(endpoint(server, refresh_token=REFRESH), **options)


def test_package_does_not_import_an_http_client():
    code = "import email_hosts.backends, sys; print('urllib.request' in sys.modules)"
    assert run_python("-c", code) == "False\n"


class TestRequest:
    """What an endpoint is asked. RFC 6749, 4.4.2 and 6."""

    def test_with_client_credentials(self, start_token_server):
        server = start_token_server()
        assert ask(endpoint(server, scope="https://example.com/.default")) == "token-1"
        assert server.forms == [
            {
                "grant_type": "client_credentials",
                "client_id": "my-id",
                "client_secret": SECRET,
                "scope": "https://example.com/.default",
            }
        ]

    def test_with_a_refresh_token_of_a_client_without_a_secret(self, start_token_server):
        server = start_token_server()
        options = {"oauth2_token_url": server.url, "oauth2_client_id": "my-id"}
        source = source_of(
            {"oauth2": "refresh_token", "oauth2_refresh_token": REFRESH, **options}
        )
        assert ask(source) == "token-1"
        assert server.forms == [
            {"grant_type": "refresh_token", "client_id": "my-id", "refresh_token": REFRESH}
        ]


MICROSOFT = "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1"
NOT_OAUTH2 = "its answer ({}) is not one of OAuth 2.0; check oauth2_token_url"


def description(error, text):
    return {"error": error, "error_description": text}


class TestAnswer:
    """Whatever comes back ends in a token or a clear error, without secrets."""

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            (description("invalid_client", MICROSOFT), "invalid_client: AADSTS7000215"),
            (description("invalid_grant", "AADB2C90080"), "invalid_grant: AADB2C90080"),
            (description("invalid_grant", f"not {SECRET}"), "invalid_grant"),
            (description("invalid_grant", f"AADSTS50{TOKEN}"), "invalid_grant"),
            (description(SECRET, MICROSOFT), "AADSTS7000215"),
            (description(TOKEN, TOKEN), NOT_OAUTH2.format(400)),
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
        ],
    )
    def test_without_a_token_is_told(self, answer, expected, start_token_server):
        assert failure_of(start_token_server(answer)) == expected

    @pytest.mark.parametrize(
        ("expires_in", "is_kept"),
        [
            *((61, True), ("61", True), (1e400, True)),
            *((60, False), (-5, False), (None, False), ("soon", False), ([], False)),
            *((10**400, False), (float("nan"), False)),
        ],
    )
    def test_is_kept_if_its_lifetime_is_known(self, expires_in, is_kept, start_token_server):
        answers = [{"access_token": text, "expires_in": expires_in} for text in ("a", "b")]
        source, tokens = endpoint(start_token_server(*answers)), Tokens()
        assert [get(tokens, source), get(tokens, source)] == ["a", "a" if is_kept else "b"]

    def test_redirect_is_not_followed(self, start_token_server):
        other = start_token_server()

        def redirect(request):
            request.send_response(307)
            request.send_header("Location", other.url)
            request.end_headers()

        assert failure_of(start_token_server(redirect)) == (
            "it answered with a redirect (307); correct oauth2_token_url"
        )
        assert other.forms == []

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            (f"{SECRET} is no status line\r\n\r\n", "BadStatusLine"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", NOT_OAUTH2[:10]),
            (f"HTTP/1.1 200 OK\r\nContent-Length: {'9' * 5000}\r\n\r\n", NOT_OAUTH2[:10]),
            (
                f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{'f' * 15}\r\n{{}}",
                "IncompleteRead",
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n{}", "read length"),
        ],
    )
    def test_that_is_bad_http_is_told(self, raw, reason, start_token_server):
        server = start_token_server(lambda request: request.wfile.write(raw.encode()))
        assert failure_of(server).startswith(reason)

    def test_that_never_comes(self, start_token_server):
        server = start_token_server(lambda request: request.connection.shutdown(2))
        assert "closed connection without response" in failure_of(server)

    def test_of_nobody(self, closed_port):
        assert "Connection refused" in failure_of(f"http://127.0.0.1:{closed_port}/token")

    def test_that_takes_too_long(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/token"
            assert failure_of(url, timeout=0.2) == "timed out"

    def test_error_without_a_text_is_told_by_its_class(self, monkeypatch):
        def connect(*args, **options):
            raise TimeoutError

        monkeypatch.setattr(socket, "create_connection", connect)
        assert failure_of("http://127.0.0.1/token") == "URLError"


class TestTLS:
    """Certificates are verified, with the authorities that the system trusts."""

    @pytest.fixture(autouse=True)
    def no_context_is_kept(self):
        tls_module._context.cache_clear()
        yield
        tls_module._context.cache_clear()

    @pytest.fixture
    def url(self, start_token_server, tls):
        server = start_token_server()
        server.start_tls(tls)
        return server.url

    @pytest.mark.parametrize("scheme", ["https", "HTTPS"])
    def test_trusted(self, scheme, url, cafile, monkeypatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(cafile))
        assert ask(endpoint(url.replace("https", scheme))) == "token-1"

    def test_not_trusted(self, url):
        assert "CERTIFICATE_VERIFY_FAILED" in failure_of(url)


class TestProxy:
    """What is encrypted goes through the proxy of the environment, and nothing else."""

    @pytest.fixture(autouse=True)
    def proxy(self, start_token_server, monkeypatch):
        proxy = start_token_server()
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/token"))
        monkeypatch.delenv("no_proxy", raising=False)
        return proxy

    def test_https(self, proxy):
        reason = failure_of("https://login.example.com/token")
        assert reason.endswith("login.example.com: Tunnel connection failed: 502 no")
        assert proxy.tunnels == ["login.example.com:443"]

    def test_this_machine(self, start_token_server, proxy):
        assert ask(endpoint(start_token_server())) == "token-1"
        assert (proxy.tunnels, proxy.forms) == ([], [])


def custom(function):
    return source_of({"oauth2": function})


def raises(error):
    def token(username, *, renew):
        raise error

    return token


def returns(value):
    return lambda username, *, renew: value


NO_TOKEN = "the OAuth 2.0 token is empty, or not printable ASCII"


def without_renew(username):
    """Cannot be called with ``renew``."""


class Error(Exception):
    """An error of somebody's library, whose text holds the token."""


class Account:
    """Has a method for its tokens."""

    def token(self, username, *, renew):
        """It has none."""


ACCOUNT = Account()


@dataclass(frozen=True)
class NotHashable:
    """A callable that seems to be hashable, and is not."""

    scopes: list[str]

    def __call__(self, username, *, renew):
        return "token"


class TestCallable:
    """What a callable of the project returns or raises ends in a token or a clear error."""

    def test_is_called_each_time(self):
        calls, tokens = [], Tokens()

        def token(username, *, renew):
            calls.append((username, renew))
            return f"token-{len(calls)}"

        source = custom(token)
        assert get(tokens, source) == "token-1"
        assert get(tokens, source) == "token-2"
        assert get(tokens, source, refused="token-2") == "token-3"
        assert calls == [("me@example.com", renew) for renew in (False, False, True)]

    @pytest.mark.parametrize("error", [Error(TOKEN), OSError(5, TOKEN)])
    def test_error_is_told_by_its_class_and_its_place(self, error):
        line = inspect.getsourcelines(raises)[1] + 2
        assert failure(custom(raises(error))) == (
            f"no OAuth 2.0 token from {__name__}.raises.<locals>.token: it raised "
            f"{type(error).__name__} (line {line} of {__file__})"
        )

    def test_time_limit_of_a_task_is_no_login_that_failed(self, tokens):
        """After which a failover would ask the next host."""

        class SoftTimeLimitExceeded(Exception):
            __module__ = "billiard.exceptions"

        with pytest.raises(SoftTimeLimitExceeded):
            get(tokens, custom(raises(SoftTimeLimitExceeded())))

    @pytest.mark.parametrize(
        ("function", "reason"),
        [
            (raises(OAuth2Error("invalid_grant:\r\n old")), ".token: invalid_grant: old"),
            (without_renew, ": it cannot be called as token(username, renew=True)"),
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

    def test_interruption_is_no_failure_of_the_login(self):
        with pytest.raises(KeyboardInterrupt):
            ask(custom(raises(KeyboardInterrupt())))

    def test_is_asked_for_two_users_at_a_time(self):
        source = custom(print)
        assert source.key("a") == source.key("a") != source.key("b")

    def test_need_not_be_hashable(self):
        assert ask(custom(NotHashable([]))) == "token"


class TestSource:
    """Equal options make equal sources, which share tokens and connections."""

    @pytest.mark.parametrize(
        "make",
        [
            lambda: endpoint("https://login.example.com/token"),
            lambda: custom(without_renew),
            lambda: custom(ACCOUNT.token),
            lambda: custom(f"{__name__}.without_renew"),
        ],
    )
    def test_same(self, make):
        assert make() == make()
        assert hash(make()) == hash(make())

    @pytest.mark.parametrize(
        "other", [print, partial(print), Account().token, Account(), NotHashable([])]
    )
    def test_other_callable(self, other):
        assert custom(other) != custom(ACCOUNT.token)

    @pytest.mark.parametrize("option", ["client_id", "client_secret", "scope"])
    def test_other_option(self, option):
        url = "https://login.example.com/token"
        assert endpoint(url) != endpoint(url, **{option: "another"})

    def test_shows_no_secret(self):
        shown = repr(endpoint("https://login.example.com/token", refresh_token=REFRESH))
        shown += repr(custom(partial(without_renew, SECRET)))
        assert not any(secret[:7] in shown for secret in (SECRET, REFRESH))


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
    def test_for_so_many_seconds(self, lifetime, seconds, tokens):
        source = Counting(lifetime)
        assert get(tokens, source) == "token-1"
        tokens.clock.now += seconds - 0.5
        assert get(tokens, source) == "token-1"
        tokens.clock.now += 0.5
        assert get(tokens, source) == "token-2"

    def test_from_the_moment_of_asking(self, tokens):
        """The server has counted since then."""

        def take_time():
            tokens.clock.now += 30

        source = Counting(100, take_time)
        assert get(tokens, source) == "token-1"
        tokens.clock.now += 10
        assert get(tokens, source) == "token-2"

    def test_whoever_the_user_is(self, tokens, start_token_server):
        server = start_token_server()
        for name in ("a", "b"):
            assert tokens.get(endpoint(server), name, timeout=60) == "token-1"

    def test_until_there_are_too_many(self, tokens, monkeypatch):
        monkeypatch.setattr(module, "MAX_KEPT", 2)
        first, second, third = Counting(), Counting(), Counting()
        for source in (first, second, third, third, second):
            assert get(tokens, source) == "token-1"
        assert get(tokens, first) == "token-2"
        assert len(tokens._locks) == 2

    def test_until_a_server_refuses_it(self, tokens):
        source = Counting()
        assert get(tokens, source) == "token-1"
        assert get(tokens, source, refused="token-1") == "token-2"
        assert get(tokens, source) == get(tokens, source, refused="token-1") == "token-2"
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

    @pytest.mark.parametrize("refused", ["", "old"])
    def test_one_fetch_for_eight(self, refused, tokens):
        source = Counting()
        assert self.results(tokens, source, refused=refused) == ["token-1"] * 8
        assert source.renewals == [bool(refused)]

    def test_next_one_tries_after_a_failure(self, tokens):
        failures = iter([fail])
        source = Counting(fetch_once=lambda: next(failures, int)())
        assert self.results(tokens, source) == ["invalid_client", *["token-2"] * 7]

    def test_fetch_for_each_if_none_is_kept(self, tokens):
        source = Counting(0)
        expected = [f"token-{number}" for number in range(1, 9)]
        assert self.results(tokens, source) == expected

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

        def handler(number, frame):
            found.append(get(tokens, source, timeout=0.1))

        def interrupt():
            source.fetch_once = lambda: None
            signal.raise_signal(signal.SIGUSR1)

        source = Counting(fetch_once=interrupt)
        before = signal.signal(signal.SIGUSR1, handler)
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
