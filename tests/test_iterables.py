"""Messages from any iterable: each is accepted before the next one is asked for."""

import gc
import weakref
from smtplib import SMTPRecipientsRefused

import pytest
from conftest import mails
from django.core.mail import EmailMessage
from scripted import to

from email_hosts.backends import get_connection

any_host = pytest.mark.parametrize("key", ["smtp", "kept", "all", "router"])


@pytest.fixture
def server(serve, settings):
    """The server of one host of each kind."""
    server = serve()
    smtp = f"smtp://127.0.0.1:{server.port}?timeout=20&_reply_to=me@example.com"
    settings.EMAIL_HOSTS = {
        "smtp": smtp,
        "kept": f"{smtp}&conn_max_age=60",
        "all": "failover:smtp,kept",
        "router": "backend://email_hosts.backends.RoutingBackend",
    }
    settings.EMAIL_HOSTS_ROUTER = lambda message: "smtp"
    return server


@pytest.mark.parametrize("batch", [iter(()), (), [], set()], ids=type)
@any_host
def test_no_messages_open_no_connection(key, batch, server):
    assert get_connection(key).send_messages(batch) == 0
    assert server.connections == 0


@pytest.mark.parametrize("error", [KeyError, ConnectionRefusedError])
@pytest.mark.parametrize("fail_silently", [False, True])
@any_host
def test_each_message_is_accepted_before_the_next_is_asked(key, fail_silently, error, server):
    """An error of the iterable comes in its turn. It is no failure to be silent about."""

    def messages():
        before = len(server.accepted)
        for number in range(3):
            assert len(server.accepted) == before + number
            yield from mails(str(number))
        assert len(server.accepted) == before + 3
        raise error

    for _ in range(2):
        with pytest.raises(error):
            get_connection(key, fail_silently=fail_silently).send_messages(messages())
    assert len(server.accepted) == 6
    assert server.connections == (1 if key == "kept" else 2)


def test_error_of_a_send_inside_says_nothing_of_this_one(server):
    server.script = to("bad@", "550 no")

    def messages():
        yield from mails("a")
        get_connection("smtp").send_messages(mails("b", "bad"))

    with pytest.raises(SMTPRecipientsRefused) as caught:
        get_connection("smtp").send_messages(messages())
    assert not hasattr(caught.value, "unsent")


@pytest.mark.slow
@any_host
def test_memory_stays_flat(key, server):
    alive: weakref.WeakSet[EmailMessage] = weakref.WeakSet()
    most = 0

    def messages():
        nonlocal most
        for number in range(100):
            (one,) = mails(str(number))
            alive.add(one)
            most = max(most, len(alive))
            yield one
            del one

    gc.collect()
    get_connection(key).send_messages(messages())
    # The one that is sent, the next, the first, and copies of these for the host.
    assert most <= 6
