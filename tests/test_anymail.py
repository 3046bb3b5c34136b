"""Providers of Anymail as hosts, against an HTTP server on loopback."""

import json
import threading
from contextlib import nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest
from django.test import override_settings

from email_hosts.backends import HostBackend, get_connection
from email_hosts.exceptions import InvalidEmailHost

pytest.importorskip("anymail")
from anymail.exceptions import AnymailAPIError, AnymailUnsupportedFeature
from anymail.message import AnymailMessage


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


WITH_ENVELOPE = "&_envelope_from=bounces@example.com"
TEST_BACKEND = "backend://anymail.backends.test.EmailBackend?"


@pytest.fixture
def send(settings):
    """Send a message through Anymail's test backend, and return what it tells a provider."""

    def send(message, query):
        settings.EMAIL_HOSTS = {"test": TEST_BACKEND + query}
        assert get_connection("test").send_messages([message]) == 1
        return message.anymail_test_params

    return send


def test_what_a_host_adds_is_told(send):
    message = AnymailMessage("Hello", to=["someone@example.net"])
    query = f"_reply_to=help@example.com&_header-X-Shop=news{WITH_ENVELOPE}"
    told = send(message, query)
    assert [address.addr_spec for address in told["reply_to"]] == ["help@example.com"]
    assert told["extra_headers"] == {"X-Shop": "news"}
    assert told["envelope_sender"] == "bounces@example.com"
    assert (message.reply_to, message.extra_headers) == ([], {})


def test_provider_that_has_no_envelope_sender_says_so(provider, message):
    with (
        override_settings(
            EMAIL_HOSTS={"x": APIS["brevo"].dsn.format(provider.url) + WITH_ENVELOPE}
        ),
        pytest.raises(AnymailUnsupportedFeature, match="does not support envelope_sender"),
    ):
        get_connection("x").send_messages([message])


def test_redirect_is_all_that_is_told(send):
    message = AnymailMessage(
        "Hello",
        to=["Me <me@example.org>", "a@x.example"],
        cc=["b@x.example"],
        headers={"To": "all@x.example"},
    )
    told = send(message, "_redirect_to=qa@example.com&_allowed_recipients=example.org")
    assert list(map(str, told["to"])) == ["Me <me@example.org>", "qa@example.com"]
    assert not {"cc", "bcc"} & {name for name, value in told.items() if value}
    assert told["extra_headers"] == {
        "X-Original-To": "Me <me@example.org>, a@x.example, b@x.example"
    }
    assert (message.to[1], message.cc) == ("a@x.example", ["b@x.example"])


@pytest.mark.parametrize("name", ["mailgun", "postmark", "brevo"])
def test_redirect_is_all_that_a_provider_gets(name, provider):
    dsn = f"{hosts(provider.url)[name]}&_redirect_to=qa@example.com"
    message = AnymailMessage("Hello", "World", to=["a@example.net"], bcc=["b@example.net"])
    # Postmark's answer has another recipient.
    with override_settings(EMAIL_HOSTS={name: dsn}), suppress(AnymailAPIError):
        get_connection(name).send_messages([message])
    body = provider.requests[0].body.replace(b"%40", b"@")
    assert b"qa@example.com" in body
    assert body.count(b"a@example.net") == body.count(b"b@example.net") == 1  # X-Original-To


@pytest.mark.parametrize("name", ["merge_data", "merge_headers", "merge_metadata"])
def test_message_for_each_recipient_is_not_redirected(name, send):
    message = AnymailMessage("Hello", to=["a@x.example"], **{name: {"a@x.example": {}}})
    with pytest.raises(
        InvalidEmailHost, match=f"cannot be combined with {name} in the message"
    ):
        send(message, "_redirect_to=qa@example.com")
    assert not hasattr(message, "anymail_test_params")


def test_recipients_of_the_settings_are_not_redirected(send, settings):
    settings.ANYMAIL = {"SEND_DEFAULTS": {"bcc": ["archive@example.com"]}}
    with pytest.raises(InvalidEmailHost, match="cannot be combined with bcc in SEND_DEFAULTS"):
        send(AnymailMessage("Hello", to=["a@x.example"]), "_redirect_to=qa@example.com")
