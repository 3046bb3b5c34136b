"""OAuth 2.0: tokens from an endpoint or a callable, and hosts that log in with them."""

from __future__ import annotations

import inspect
import json
import logging
import os
import smtplib
import threading
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any
from unittest.mock import Mock, call
from urllib.parse import urlencode

import pytest
from conftest import SoftTimeLimitExceeded, interrupted_calls, mails
from scripted import always, any_of, at
from test_debug import reports_of
from test_readme import run, the_one
from test_sentry import TOOLS
from trustme import KeyType

from email_hosts import oauth2
from email_hosts.backends import can_be_retried, get_connection
from email_hosts.exceptions import OAuth2Error
from email_hosts.oauth2 import Custom, Endpoint, tokens
from email_hosts.smtp.tls import new_context

USER = "me@example.com"
SECRET, REFRESH, TOKEN = "Kx7vQz9-secret", "Wj4bYt2-refresh", "Zq8nRp5-token"
SECRETS = [
    encoded
    for secret in (SECRET, REFRESH, TOKEN, f"user={USER}\1auth=Bearer {TOKEN}\1\1")
    for encoded in (secret, b64encode(secret.encode()).decode().rstrip("="))
]
REFUSED = smtplib.SMTPAuthenticationError


def get(source, user=USER, timeout=60, **options):
    return tokens.get(source, user, timeout=timeout, **options)


def endpoint(url, client_id="my-id", **options):
    return Endpoint("client_credentials", url, client_id, **options)


def failure(source, timeout=60):
    """Return why there is no token, which shows no secret."""
    with pytest.raises(OAuth2Error) as caught:
        get(source, timeout=timeout)
    reason = caught.value.reason
    assert caught.value.__context__ is None
    assert not any(secret[:7] in reason for secret in (SECRET, REFRESH, TOKEN))
    assert reason.isprintable()
    return reason.removeprefix("no OAuth 2.0 token from 127.0.0.1: ")


def test_endpoint_is_asked_once_for_all_users(start_token_server):
    """RFC 6749, 4.4.2."""
    server, more = start_token_server(), {"client_secret": SECRET, "scope": "a b"}
    source = endpoint(server.url, **more)
    assert [get(source, user) for user in ("a", "b")] == ["token-1", "token-1"]
    form = {"grant_type": "client_credentials", "client_id": "my-id", **more}
    assert server.forms == [form]
    assert SECRET not in repr(source)


def described(error, text):
    return {"error": error, "error_description": text}


def raw(*lines):
    return lambda request: request.wfile.write("\r\n".join([*lines, "", ""]).encode())


MICROSOFT = "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1"
NOT_OAUTH2 = "its answer ({}) is not one of OAuth 2.0; check oauth2_token_url"
NOT_SHOWN = [described(error, TOKEN) for error in (TOKEN, "a\x1b[J", "x" * 41, None)]
NOT_JSON = [b"<html>", b"[]", b"[" * 60_000, b" " * 65_536 + b'{"access_token": "a"}']
REDIRECT = raw("HTTP/1.1 307 Elsewhere", "Location: http://127.0.0.1:9/")


class TestAnswer:
    """Whatever comes back ends in a token or a clear error, without secrets."""

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            (described("invalid_client", MICROSOFT), "invalid_client: AADSTS7000215"),
            (described("invalid_grant", f"AADSTS50{TOKEN}"), "invalid_grant"),
            (described(SECRET, MICROSOFT), "AADSTS7000215"),
            ({"access_token": TOKEN, "status": 500}, NOT_OAUTH2.format(500)),
            *((each, NOT_OAUTH2.format(400)) for each in NOT_SHOWN),
            *((each, NOT_OAUTH2.format(200)) for each in (*NOT_JSON, {"access_token": 5})),
            (raw(f"{SECRET} is no status line"), "BadStatusLine"),
            (REDIRECT, "it answered with a redirect (307); correct oauth2_token_url"),
        ],
    )
    def test_without_a_token_is_told(self, answer, expected, start_token_server):
        source = endpoint(start_token_server(answer).url, client_secret=SECRET)
        assert failure(source) == expected

    def test_that_never_comes_is_told(self, start_token_server):
        server = start_token_server(lambda request: request.rfile.read())
        assert failure(endpoint(server.url), timeout=0.2) == "timed out"

    @pytest.mark.parametrize(
        ("expires_in", "seconds"),
        [
            *((3600, 3540), (61, 1), ("61", 1), (float("inf"), 86340)),
            *((60, 0), (None, 0), ("soon", 0), (10**400, 0), (float("nan"), 0)),
        ],
    )
    def test_is_kept_for_a_minute_less(self, expires_in, seconds, clock, start_token_server):
        answer = {"access_token": "a", "expires_in": expires_in}
        server, asked = start_token_server(answer), []
        for passed in (0, max(seconds - 0.5, 0), 0.5):
            clock.now += passed
            get(endpoint(server.url))
            asked.append(len(server.forms))
        assert asked == ([1, 1, 2] if seconds else [1, 2, 3])


def test_certificate_of_the_endpoint_is_verified(start_token_server, tls, cafile, monkeypatch):
    server = start_token_server()
    server.start_tls(tls)
    assert "CERTIFICATE_VERIFY_FAILED" in failure(endpoint(server.url))
    monkeypatch.setenv("SSL_CERT_FILE", str(cafile))  # what the system trusts
    monkeypatch.setattr(oauth2, "shared_context", new_context)
    assert get(endpoint(server.url)) == "token-1"


def test_proxy_gets_what_is_encrypted_and_nothing_else(start_token_server, monkeypatch):
    """The proxy of the environment."""
    proxy = start_token_server()  # which cannot do that
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, proxy.url.removesuffix("/token"))
    monkeypatch.delenv("no_proxy", raising=False)
    assert get(endpoint(start_token_server().url)) == "token-1"
    assert proxy.forms == []
    reason = failure(endpoint("HTTPS://login.example.com/token"))
    assert "login.example.com: Tunnel connection failed: 501" in reason


def raise_token(username, *, renew):
    raise LookupError(TOKEN)


NO_TOKEN = "the OAuth 2.0 token is empty, or not printable ASCII"
LINE = inspect.getsourcelines(raise_token)[1] + 1


class TestCallable:
    """What a callable of the project returns or raises ends in a token or a clear error."""

    def test_keeps_its_tokens_itself(self):
        token = Mock(side_effect=["token-1", "token-2"])
        assert [get(Custom(token)) for _ in range(2)] == ["token-1", "token-2"]

    @pytest.mark.parametrize(
        ("function", "reason"),
        [
            (raise_token, f".raise_token: it raised LookupError (line {LINE} of {__file__})"),
            (Mock(side_effect=OAuth2Error("no:\r\n old")), "unittest.mock.Mock: no: old"),
            (print, ": it cannot be called as token(username, renew=True)"),
            (Mock(return_value={"token": TOKEN}), ": it must return a string, not dict"),
            (Mock(return_value=f"{TOKEN}\r\nRSET"), NO_TOKEN),
            (Mock(return_value=""), NO_TOKEN),
        ],
    )
    def test_what_is_no_token_is_told(self, function, reason):
        assert reason in failure(Custom(function))


class TestKept:
    """Tokens are of a process, and each is fetched by one thread."""

    def test_oldest_makes_room(self, start_token_server, monkeypatch):
        monkeypatch.setattr(oauth2, "MAX_KEPT", 2)
        server = start_token_server()
        for client in "abccba":
            get(endpoint(server.url, client))
        assert [form["client_id"] for form in server.forms] == [*"abca"]

    def test_of_eight_threads_one_asks_and_the_next_after_a_failure(self, start_token_server):
        answers = {"error": "no"}, {"access_token": "token", "expires_in": 3600}
        server, barrier = start_token_server(*answers), threading.Barrier(8)

        def work(_):
            barrier.wait(60)
            with suppress(OAuth2Error):
                return get(endpoint(server.url), refused="old")

        with ThreadPoolExecutor(8) as threads:
            given = [*threads.map(work, range(8))]
        assert sorted(given, key=str) == [None, *["token"] * 7]
        assert len(server.forms) == 2

    def test_none_is_left_if_its_renewal_fails(self, start_token_server):
        answers = [{"access_token": text, "expires_in": 3600} for text in ("a", "b")]
        source = endpoint(start_token_server(answers[0], {"error": "no"}, answers[1]).url)
        assert get(source) == "a"
        with pytest.raises(OAuth2Error):
            get(source, refused="a")
        assert get(source) == "b"


class TestWaiting:
    """Nobody waits in vain for a thread that asks."""

    @pytest.fixture
    def hanging(self):
        """A source that another thread is asking."""
        begun, end = threading.Event(), threading.Event()

        def token(username, *, renew):
            if not begun.is_set():
                begun.set()
                assert end.wait(60)
            return "token"

        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(get, Custom(token))
            assert begun.wait(60)
            yield Custom(token)
            end.set()
            assert first.result() == "token"

    def test_is_not_for_another_token_or_longer_than_the_timeout(self, hanging):
        assert get(Custom(Mock(return_value="mine"))) == "mine"
        assert get(hanging, "you", timeout=0.1) == "token"
        with pytest.raises(OAuth2Error, match=r"has been asking for one for 0\.1 seconds"):
            get(hanging, timeout=0.1)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
    def test_is_not_for_a_thread_of_the_parent(self, hanging, start_token_server):
        """A child has the tokens that are kept."""
        kept = endpoint(start_token_server().url)
        get(kept)
        if (child := os.fork()) == 0:  # pragma: no cover (coverage is not saved there)
            found = []
            try:
                found = [get(kept), get(hanging, timeout=5)]
            finally:
                os._exit(found != ["token-1", "token"])
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def test_is_not_for_one_that_a_time_limit_has_ended_at_any_call(self):
        """In the worst case, one gives up after its timeout, and the next one asks anew."""
        source, number = Custom(Mock(return_value="token")), 0
        with ThreadPoolExecutor(1) as threads:
            times = interrupted_calls(
                lambda: get(source), oauth2, make_error=SoftTimeLimitExceeded
            )
            for number, _ in enumerate(times):  # noqa: B007  # pragma: no cover
                with suppress(OAuth2Error):
                    threads.submit(get, source, timeout=0.01).result()
                again = threads.submit(get, source, timeout=0.01)
                assert again.result() == "token"
        assert number > 10  # pragma: no cover (on Python 3.10, coverage has lost track)

    def test_is_not_for_itself(self):
        """A signal handler may send mail while its own thread asks."""

        def token(username, *, renew):
            return "inner" if renew else get(Custom(token), refused="a", timeout=0.1)

        assert get(Custom(token)) == "inner"


@pytest.fixture
def serve_tls(serve, tls):
    """Start a scripted server that speaks TLS from the first byte."""
    return lambda *scripts: serve(any_of(*scripts), context=tls)


@pytest.fixture
def host(cafile, settings):
    """Make the host ``shop`` of this server. Return what makes connections to it."""

    def host(server, **options):
        given = {"ssl_cafile": cafile, "timeout": 20, "oauth2": f"{__name__}.raise_token"}
        dsn = f"submissions://me%40example.com@127.0.0.1:{server.port}"
        settings.EMAIL_HOSTS = {
            "shop": f"{dsn}?{urlencode({**given, **options})}",
            "spare": "console:",
            "both": "failover:shop,spare",
        }
        return partial(get_connection, "shop")

    return host


def built_in(url):
    """Return the options of a host that asks for its tokens at this URL."""
    return {
        "oauth2": "refresh_token",
        "oauth2_token_url": url,
        "oauth2_client_id": "my-id",
        "oauth2_client_secret": SECRET,
        "oauth2_refresh_token": REFRESH,
    }


@pytest.mark.parametrize(
    ("reply", "given", "logins", "error"),
    [
        (535, [TOKEN, f"{TOKEN}-2"], 2, REFUSED),
        (535, [TOKEN, TOKEN], 1, REFUSED),  # it gets the same again
        (535, [TOKEN, None], 1, OAuth2Error),
        (454, [TOKEN], 1, REFUSED),
    ],
)
def test_renewal_is_tried_once(reply, given, logins, error, serve_tls, host):
    """And for no other refusal than 535."""
    server = serve_tls(at("AUTH", *(f"{reply} no, {token}" for token in given)))
    tokens = Mock(side_effect=given)
    with pytest.raises(error) as caught:
        host(server)(oauth2=tokens).send_messages(mails("a"))
    assert type(caught.value) is error
    assert TOKEN not in f"{caught.value} {caught.value.__context__}"
    assert tokens.mock_calls == [call(USER, renew=False), call(USER, renew=True)][: len(given)]
    assert server.connections == logins


def test_missing_token_is_a_login_that_failed(serve_tls, start_token_server, host, caplog):
    """The error says why, without secrets."""
    reason = "no OAuth 2.0 token from 127.0.0.1: invalid_client: AADSTS7000215"
    token_server = start_token_server(described("invalid_client", f"AADSTS7000215: {SECRET}"))
    connect = host(serve_tls(), **built_in(token_server.url))
    with pytest.raises(REFUSED) as caught:
        connect().send_messages(mails("a"))
    assert str(caught.value) == reason
    assert can_be_retried(caught.value)
    assert connect(fail_silently=True).send_messages(mails("a")) == 0
    assert "AADSTS7000215, ignored by fail_silently" in caplog.text
    assert get_connection("both").send_messages(mails("a")) == 1
    assert f'host "shop" failed: OAuth2Error: {reason}' in caplog.text


@pytest.mark.parametrize("name", ["username", "oauth2_client_secret", "oauth2_scope"])
def test_kept_connection_is_of_these_options(name, serve_tls, start_token_server, host):
    server, token_server = serve_tls(), start_token_server()
    connect = host(server, **built_in(token_server.url), conn_max_age=60)
    for changed in ({}, {}, {name: "x"}):
        connect(**changed).send_messages(mails("a"))
    assert (server.connections, len(server.accepted)) == (2, 3)
    # RFC 6749, 6.
    form = {"grant_type": "refresh_token", "client_id": "my-id", "client_secret": SECRET}
    assert token_server.forms[0] == {**form, "refresh_token": REFRESH}


# What the token server does, and what the SMTP server does.
GIVE_TOKEN = {"access_token": TOKEN, "expires_in": 60}
FAILURES: dict[str, tuple[Any, ...]] = {
    "refused by the token server": (described("invalid_client", f"{SECRET} {REFRESH}"),),
    "refused with a challenge": (
        GIVE_TOKEN,
        always("AUTH", f"334 {b64encode(TOKEN.encode()).decode()}"),
        always("", f"535 no {TOKEN}"),
    ),
    "bad challenge": (GIVE_TOKEN, always("AUTH", "334 !!!notb64=a")),
    "MAIL refused": (GIVE_TOKEN, always("MAIL", f"550 no {TOKEN}")),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_secrets_are_not_shown(failure, start_token_server, serve_tls, host, caplog):
    """In no frame, text or log record of a failure."""
    given, *scripts = FAILURES[failure]
    token_server = start_token_server(given)
    host(serve_tls(*scripts), **built_in(token_server.url))
    caplog.set_level(logging.DEBUG)
    caught = failure_of_send()
    html, text = reports_of(None, (type(caught.value), caught.value, caught.tb))
    shown = [*(tool(caught) for tool in TOOLS), html, text, caplog.text]
    assert [secret for secret in [*SECRETS, USER] for one in shown if secret in one] == []


def failure_of_send():
    """Send from a frame that holds no secret. Return the error."""
    with pytest.raises(OSError) as caught:  # noqa: PT011
        get_connection("shop").send_messages(mails("a"))
    return caught


def test_function_of_the_readme_keeps_its_token_and_renews_it(
    ca, start_token_server, serve_tls, host, monkeypatch, tmp_path
):
    """With google-auth. It tells why there is no token."""
    answers = [{"access_token": f"token-{number}", "expires_in": 3600} for number in (1, 2)]
    token_server = start_token_server(*answers, described("invalid_grant", "AADSTS7: no"))
    key = ca.issue_cert("shop", key_type=KeyType.RSA).private_key_pem.bytes().decode()
    account = {"client_email": "shop@project.example", "private_key": key}
    path = tmp_path / "account.json"
    path.write_text(json.dumps({**account, "token_uri": token_server.url}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    token = run(the_one("# shop/google.py"))["token"]
    server = serve_tls(at("AUTH", None, None, "535 expired"))
    for _ in range(3):
        host(server)(oauth2=token).send_messages(mails("a"))
    logins = [b64decode(each.split()[2]) for each in server.commands if "AUTH" in each]
    expected = [f"user={USER}\1auth=Bearer token-{number}\1\1" for number in (1, 1, 1, 2)]
    assert [login.decode() for login in logins] == expected
    assert len(token_server.forms) == 2
    with pytest.raises(OAuth2Error, match="invalid_grant: AADSTS7: no"):
        token(USER, renew=True)
