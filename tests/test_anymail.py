"""A provider of Anymail as a host, against an HTTP server on loopback."""

from contextlib import nullcontext
from typing import Any

import pytest

from email_hosts.backends import HostBackend, get_connection

pytest.importorskip("anymail")
from anymail.message import AnymailMessage


@pytest.fixture
def provider(start_token_server):
    return start_token_server({"messageId": "<1@example.com>"})


@pytest.fixture
def spare(serve):
    return serve()


@pytest.fixture
def connect(provider, spare, settings):
    """Connect to a provider, or to a failover from it."""

    def connect(key: str, query: str = "", url: str = provider.url) -> Any:
        query = f"&_default_from_email=News <news@example.com>{query}"
        settings.EMAIL_HOSTS = {
            "brevo": f"anymail+brevo://?api_key=K&api_url={url}{query}",
            "first": "failover:brevo,spare",
            "spare": f"smtp://127.0.0.1:{spare.port}",
        }
        return get_connection(key)

    return connect


def test_message_goes_through_the_provider(connect, provider, message):
    connection = connect("brevo")
    assert connection.send_messages([message]) == 1
    (request,) = provider.requests
    assert (request.path, request.headers["api-key"]) == ("/token/smtp/email", "K")
    assert b"news@example.com" in request.body
    assert b"someone@example.net" in request.body
    assert message.anymail_status.message_id
    assert message.from_email == "project@example.com"
    assert isinstance(connection, HostBackend)
    assert connection.esp_name == "Brevo"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, ""),  # nobody listens
        *(({"status": status}, "") for status in (429, 500, 503)),
        *(({"status": status}, str(status)) for status in (400, 401)),
        (lambda request: request.rfile.read(), "Error posting to"),  # which never ends
    ],
)
def test_failover_goes_on_if_the_provider_surely_did_not_take_it(
    answer, told, connect, start_token_server, closed_port, spare, message, settings
):
    settings.ANYMAIL = {"REQUESTS_TIMEOUT": 0.2 if callable(answer) else 20}
    url = start_token_server(answer).url if answer else f"http://127.0.0.1:{closed_port}"
    with pytest.raises(OSError, match=told) if told else nullcontext():
        connect("first", url=url).send_messages([message])
    assert len(spare.accepted) == (not told)


def test_redirect_is_all_that_a_provider_gets(connect, provider):
    to, cc, bcc = people = [f"{name}@example.net" for name in "abc"]
    headers = {"To": to}
    message = AnymailMessage("Hello", "World", to=[to], cc=[cc], bcc=[bcc], headers=headers)
    connect("brevo", "&_redirect_to=qa@example.com").send_messages([message])
    body = provider.requests[0].body
    assert b"qa@example.com" in body
    assert [body.count(each.encode()) for each in people] == [1, 1, 1]  # in X-Original-To
    assert message.to == [to]
