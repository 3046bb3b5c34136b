"""Asking a token endpoint, which may answer anything. RFC 6749, 4.4, 5 and 6."""

from __future__ import annotations

import socket
import threading

import pytest
from token_server import TokenServer

from email_hosts.exceptions import OAuth2Error
from email_hosts.oauth2 import token_endpoint as module
from email_hosts.oauth2.token_endpoint import Endpoint
from email_hosts.smtp import connection as smtp_connection
from email_hosts.smtp import tls as tls_module

SECRET, REFRESH = "Kx7vQz9/secret", "Wj4bYt2+refresh"
TIMEOUT = 20


def endpoint(server, **options):
    given = {"client_id": "my-id", "client_secret": SECRET, **options}
    return Endpoint("client_credentials", getattr(server, "url", server), **given)


def failure(server, timeout=TIMEOUT):
    """Return why there is no token, without secrets."""
    with pytest.raises(OAuth2Error) as caught:
        endpoint(server, refresh_token=REFRESH).fetch("me", renew=False, timeout=timeout)
    reason = caught.value.reason
    assert caught.value.__context__ is None
    assert not any(secret in reason for secret in (SECRET, REFRESH, "Kx7vQz9", "Wj4bYt2"))
    return reason.removeprefix("no OAuth 2.0 token from 127.0.0.1: ")


def test_client_credentials(start_token_server):
    server = start_token_server()
    asked = endpoint(server, scope="https://example.com/.default")
    assert asked.fetch("me", renew=False, timeout=TIMEOUT) == ("token-1", 3600)
    assert server.forms == [
        {
            "grant_type": "client_credentials",
            "client_id": "my-id",
            "client_secret": SECRET,
            "scope": "https://example.com/.default",
        }
    ]


def test_refresh_token_of_a_client_without_a_secret(start_token_server):
    server = start_token_server()
    asked = Endpoint("refresh_token", server.url, "my-id", refresh_token=REFRESH)
    assert asked.fetch("me", renew=True, timeout=TIMEOUT).text == "token-1"
    assert server.forms == [
        {"grant_type": "refresh_token", "client_id": "my-id", "refresh_token": REFRESH}
    ]


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [
        (3599, 3599),
        ("3599", 3599),
        (0, 0),
        (-5, -5),
        (1e400, float("inf")),
        (10**400, 0),
        (None, 0),
        ("soon", 0),
        ([], 0),
        (float("nan"), 0),
    ],
)
def test_lifetime_is_a_number_or_unknown(expires_in, lifetime, start_token_server):
    server = start_token_server({"access_token": "x", "expires_in": expires_in})
    assert endpoint(server).fetch("me", renew=False, timeout=TIMEOUT).lifetime == lifetime


AADSTS = "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1\r\nTimestamp: 2"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            {"error": "invalid_client", "error_description": AADSTS, "status": 401},
            "invalid_client: AADSTS7000215: Invalid client secret provided. Trace ID: 1 Tim",
        ),
        ({"error": "invalid_grant"}, "invalid_grant"),
        ({"error": "invalid_grant", "error_description": 5}, "invalid_grant"),
        (
            {"error": "x", "error_description": f"not {SECRET}, {REFRESH} for you"},
            "x: not *****, ***** for you",
        ),
        (
            {"error": "Kx7vQz9%2Fsecret", "error_description": "V2o0Yll0MityZWZyZXNo"},
            "*****: *****",
        ),
        ({"error": "x", "error_description": "a\x1b[2J"}, r"x: a\x1b[2J"),
        (
            {"error": {"code": 5}},
            "its answer (400) is not one of OAuth 2.0; look at oau",
        ),
        ({"access_token": 5}, "its answer (200) is not one of OAuth 2.0"),
        ({"access_token": "x", "status": 500}, "its answer (500) is not one of OAuth 2.0"),
        ({"status": 503}, "its answer (503) is not one of OAuth 2.0"),
        (b"<html>", "its answer (200) is not one of OAuth 2.0"),
        (b"", "its answer (200) is not one of OAuth 2.0"),
        (b"[]", "its answer (200) is not one of OAuth 2.0"),
        (b"\xff\xfe\xfd", "its answer (200) is not one of OAuth 2.0"),
        (b"[" * 60_000, "its answer (200) is not one of OAuth 2.0"),
        (b" " * 70_000, "a reply of more than 65536 bytes"),
    ],
)
def test_answer_without_a_token_is_told_without_secrets(answer, expected, start_token_server):
    reason = failure(start_token_server(answer))
    assert reason.startswith(expected)
    assert "\n" not in reason


def test_long_description_is_cut(start_token_server):
    server = start_token_server({"error": "x", "error_description": "long " * 10_000})
    assert len(failure(server)) < 600


def test_redirect_is_not_followed(start_token_server):
    other = start_token_server()

    def redirect(request):
        request.send_response(307)
        request.send_header("Location", other.url)
        request.end_headers()

    assert failure(start_token_server(redirect)) == (
        "it answered with a redirect (307); correct oauth2_token_url"
    )
    assert other.forms == []


def test_server_that_is_not_there(closed_port):
    assert "Connection refused" in failure(f"http://127.0.0.1:{closed_port}/token")


def test_server_that_hangs_up(start_token_server):
    server = start_token_server(lambda request: request.connection.shutdown(2))
    assert "closed connection without response" in failure(server)


def test_answer_without_a_text_is_told_by_its_class(start_token_server):
    server = start_token_server(lambda request: request.wfile.write(b"\r\n"))
    assert failure(server) == "BadStatusLine"


def test_answer_that_ends_too_soon(start_token_server):
    def answer(request):
        request.send_response(200)
        request.send_header("Content-Length", "100")
        request.end_headers()
        request.wfile.write(b'{"access_token": ')

    assert "IncompleteRead" in failure(start_token_server(answer))


@pytest.mark.parametrize(
    ("header", "content", "reason"),
    [
        ("Content-Length: 1000000000000000000", b"{}", "IncompleteRead(2 bytes read"),
        (f"Content-Length: {'9' * 5000}", b"{}", "its answer (200) is not one of OAuth 2.0"),
        ("Content-Length: -1", b"{}", "its answer (200) is not one of OAuth 2.0"),
        ("Transfer-Encoding: chunked", b"f" * 15 + b"\r\n{}", "IncompleteRead(0 bytes read"),
        ("Transfer-Encoding: chunked", b"-5\r\n{}", "read length must be"),
    ],
)
def test_absurd_length_of_an_answer_is_told(header, content, reason, start_token_server):
    def answer(request):
        request.wfile.write(f"HTTP/1.1 200 OK\r\n{header}\r\n\r\n".encode() + content)

    assert failure(start_token_server(answer)).startswith(reason)


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (b"HTTP/1.0 200 ", b"O"),
        (b"HTTP/1.0 200 OK\r\nX-A: ", b"b"),
        (b"HTTP/1.0 200 OK\r\n\r\n", b" "),
    ],
    ids=["status", "headers", "body"],
)
def test_answer_that_trickles_ends(start, part, start_token_server, monkeypatch):
    """Each piece of it comes in time, and so no timeout of a socket ends it."""
    now = 1000.0
    gone = threading.Event()

    def clock():
        nonlocal now
        now += 10
        return now

    def trickle(request):
        request.wfile.write(start)
        try:
            while True:
                request.wfile.write(part)
        except OSError:
            gone.set()

    monkeypatch.setattr(smtp_connection, "clock", clock)
    server = start_token_server(trickle)
    assert "timed out" in failure(server)
    assert gone.wait(60)


def test_server_that_says_nothing_ends_with_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/token"
        assert "timed out" in failure(url, timeout=0.2)


def test_time_for_the_connection_is_part_of_the_whole(start_token_server, monkeypatch):
    now = iter([0.0, TIMEOUT + 5.0])
    monkeypatch.setattr(module, "clock", lambda: next(now))
    hang = threading.Event()
    server = start_token_server(lambda request: hang.wait(60))
    try:
        assert "timed out" in failure(server)
    finally:
        hang.set()


class TestTLS:
    """Certificates are verified, with the authorities that the system trusts."""

    @pytest.fixture(autouse=True)
    def no_context_is_kept(self):
        tls_module._context.cache_clear()
        yield
        tls_module._context.cache_clear()

    @pytest.fixture
    def url(self, start_token_server, tls):
        server: TokenServer = start_token_server()
        server.start_tls(tls)
        return server.url

    def test_trusted(self, url, cafile, monkeypatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(cafile))
        assert endpoint(url).fetch("me", renew=False, timeout=TIMEOUT).text == "token-1"

    def test_not_trusted(self, url):
        assert "CERTIFICATE_VERIFY_FAILED" in failure(url)


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
        assert "Tunnel connection failed: 502 no" in failure("https://login.example.com/token")
        assert proxy.tunnels == ["login.example.com:443"]

    def test_this_machine(self, start_token_server, proxy):
        server = start_token_server()
        assert endpoint(server).fetch("me", renew=False, timeout=TIMEOUT).text == "token-1"
        assert (proxy.tunnels, proxy.forms) == ([], [])


def test_secrets_are_in_no_repr():
    shown = repr(endpoint("https://login.example.com/token", refresh_token=REFRESH))
    assert "Kx7vQz9" not in shown
    assert "Wj4bYt2" not in shown
