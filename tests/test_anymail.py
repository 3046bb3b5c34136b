"""Providers of Anymail as hosts, against an HTTP server on loopback."""

import json
import threading
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest
from django.test import override_settings

from email_hosts.backends import HostBackend, get_connection

pytest.importorskip("anymail")


class Api(NamedTuple):
    """A provider's: its DSN, the login and the path of a request, and the answer to it."""

    dsn: str
    header: str
    value: str
    path: str
    answer: dict[str, object]


APIS = {
    "mailgun": Api(
        "anymail+mailgun://?api_key=K&sender_domain=example.com&api_url={}",
        *("Authorization", "Basic YXBpOks=", "/example.com/messages"),
        {"id": "<1@example.com>", "message": "Queued. Thank you."},
    ),
    "postmark": Api(
        "anymail+postmark://?server_token=K&api_url={}",
        *("X-Postmark-Server-Token", "K", "/email"),
        {"ErrorCode": 0, "Message": "OK", "MessageID": "1", "To": "someone@example.net"},
    ),
    "brevo": Api(
        "anymail+brevo://?api_key=K&api_url={}",
        *("api-key", "K", "/smtp/email"),
        {"messageId": "<1@example.com>"},
    ),
}


class Provider(ThreadingHTTPServer):
    """Answers with ``status``, or not at all if that is 0; keeps what it got."""

    daemon_threads = True
    status = 200

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.requests: list[Answer] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.over = threading.Event()


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: Provider
    body = b""

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(self)
        if not self.server.status:
            self.server.over.wait()
            return
        (found,) = (api for api in APIS.values() if api.path == self.path)
        answer = json.dumps(found.answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def provider():
    with Provider() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def hosts(url):
    return {
        name: f"{api.dsn.format(url)}&_default_from_email=News <news@example.com>"
        for name, api in APIS.items()
    }


@pytest.mark.parametrize("name", APIS)
def test_message_goes_through_the_provider(name, provider, message):
    with override_settings(EMAIL_HOSTS=hosts(provider.url)):
        connection = get_connection(name)
        assert connection.send_messages([message]) == 1
    (request,) = provider.requests
    api = APIS[name]
    assert (request.path, request.headers[api.header]) == (api.path, api.value)
    assert b"news@example.com" in request.body.replace(b"%40", b"@")
    assert b"someone@example.net" in request.body.replace(b"%40", b"@")
    assert message.anymail_status.message_id
    assert message.from_email == "project@example.com"
    assert isinstance(connection, HostBackend)
    assert connection.esp_name.lower() == name


def test_other_credentials_for_one_call(provider, message):
    with override_settings(EMAIL_HOSTS=hosts(provider.url)):
        get_connection("brevo", api_key="OTHER").send_messages([message])
        get_connection("brevo").send_messages([message])
    assert [request.headers["api-key"] for request in provider.requests] == ["OTHER", "K"]


def test_two_providers_in_one_project(provider, message):
    with override_settings(EMAIL_HOSTS=hosts(provider.url)):
        for name in ("postmark", "brevo"):
            get_connection(name).send_messages([message])
    assert [request.path for request in provider.requests] == ["/email", "/smtp/email"]


@pytest.fixture
def spare(serve):
    """The server of the host that comes next."""
    return serve()


def send_to_all(message, name, url, spare):
    """Send through a provider, or else through the spare."""
    settings = {
        **hosts(url),
        "spare": f"smtp://127.0.0.1:{spare.port}",
        "all": f"failover:{name},spare",
    }
    with override_settings(EMAIL_HOSTS=settings):
        return get_connection("all").send_messages([message])


@pytest.mark.parametrize("name", APIS)
@pytest.mark.parametrize(
    ("status", "goes_on"), [(429, 1), (500, 1), (503, 1), (401, 0), (400, 0)]
)
def test_failover_goes_on_if_the_provider_surely_did_not_take_it(
    name, status, goes_on, provider, spare, message
):
    provider.status = status
    with nullcontext() if goes_on else pytest.raises(Exception, match=str(status)):
        send_to_all(message, name, provider.url, spare)
    assert (len(provider.requests), len(spare.accepted)) == (1, goes_on)


def test_failover_goes_on_if_nobody_listens(closed_port, spare, message):
    assert send_to_all(message, "mailgun", f"http://127.0.0.1:{closed_port}", spare) == 1
    assert len(spare.accepted) == 1


@override_settings(ANYMAIL={"REQUESTS_TIMEOUT": 0.2})
def test_failover_does_not_go_on_if_the_reply_never_comes(provider, spare, message):
    provider.status = 0
    with pytest.raises(OSError, match="Error posting to"):
        send_to_all(message, "brevo", provider.url, spare)
    assert spare.accepted == []
