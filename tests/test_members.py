"""What a host of several may raise, and what that says about the message."""

import smtplib

import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from scripted import at

from email_hosts.backends import can_be_retried, get_connection
from email_hosts.exceptions import AllHostsFailed

TOO_LARGE = "552 too large"


class LibraryError(Exception):
    """Of a provider's library."""

    status_code = 401


class Provider(BaseEmailBackend):
    """Cannot be opened. Anymail's backend for Amazon SES raises botocore's errors then."""

    def open(self):
        raise LibraryError


@pytest.fixture
def hosts(serve, settings):
    """Make hosts for these servers: h0, h1 and so on, and two of several."""

    def hosts(*servers):
        given = {f"h{i}": f"smtp://127.0.0.1:{one.port}" for i, one in enumerate(servers)}
        settings.EMAIL_HOSTS = {
            **given,
            "provider": f"backend://{__name__}.Provider",
            "all": f"failover:{','.join(given)}",
            "nested": "failover:all",
            "with_provider": "failover:provider,h0",
        }

    return hosts


def send(key, **options):
    message = EmailMessage("Hello", "World", to=["a@example.net"])
    return get_connection(key, **options).send_messages([message])


def test_member_that_cannot_be_opened_is_for_the_next(hosts, serve, caplog):
    server = serve()
    hosts(server)
    assert send("with_provider") == 1
    assert len(server.accepted) == 1
    (logged,) = caplog.messages
    assert logged.endswith('host "provider" failed: LibraryError')


class TestTooLarge:
    """552 to MAIL: this host does not take such a size, and another may."""

    def test_for_one_host_is_for_good(self, hosts, serve):
        hosts(serve(at("MAIL", TOO_LARGE)))
        with pytest.raises(smtplib.SMTPSenderRefused) as caught:
            send("h0")
        assert not can_be_retried(caught.value)

    @pytest.mark.parametrize("key", ["all", "nested"])
    def test_for_one_host_is_not_for_the_next(self, key, hosts, serve):
        first, second = serve(at("MAIL", TOO_LARGE)), serve()
        hosts(first, second)
        assert send(key) == 1
        assert (len(first.accepted), len(second.accepted)) == (0, 1)

    @pytest.mark.parametrize("key", ["all", "nested"])
    @pytest.mark.parametrize(("other", "expected"), [(TOO_LARGE, False), ("451 later", True)])
    def test_for_each_host_is_for_good(self, other, expected, key, hosts, serve):
        hosts(serve(at("MAIL", TOO_LARGE)), serve(at("MAIL", other)))
        with pytest.raises(AllHostsFailed) as caught:
            send(key)
        assert can_be_retried(caught.value) is expected

    def test_does_not_end_a_kept_connection(self, hosts, serve):
        server = serve(at("MAIL", None, TOO_LARGE))
        hosts(server)
        for expected in (1, 0, 1):
            assert send("h0", conn_max_age=60, fail_silently=True) == expected
        assert server.connections == 1
