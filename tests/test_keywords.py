"""Options that Django passes on to whatever the default backend is."""

from typing import Any

import pytest
from conftest import needs_mailers
from django.core import mail
from django.core.mail import EmailMessage
from django.test import override_settings

from email_hosts import mailers
from email_hosts.backends import FailoverBackend, RoutingBackend
from email_hosts.exceptions import InvalidEmailHost

ROUTING = {"BACKEND": "email_hosts.backends.RoutingBackend"}
FAILOVER = {"BACKEND": "email_hosts.backends.FailoverBackend", "OPTIONS": {"hosts": ["shop"]}}
LOGIN: dict[str, Any] = {"auth_user": "me", "auth_password": "Kx7vQz9"}
MESSAGE = ("Hello", "World", "shop@example.com", ["a@example.net"])

# Django 6.1 deprecates each of these ways.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The EMAIL_BACKEND setting is deprecated"),
    pytest.mark.filterwarnings(r"ignore:get_connection\(\) is deprecated"),
    pytest.mark.filterwarnings("ignore:The 'fail_silently' argument is deprecated"),
    pytest.mark.filterwarnings("ignore:The 'auth_"),
]


def by_get_connection():
    connection = mail.get_connection(foo="bar", fail_silently=False)
    connection.send_messages([EmailMessage(*MESSAGE)])


@pytest.fixture(
    params=[
        by_get_connection,
        lambda: mail.send_mail(*MESSAGE, **LOGIN),
        lambda: mail.send_mass_mail([MESSAGE], **LOGIN),
    ],
    ids=["get_connection", "send_mail", "send_mass_mail"],
)
def send(request):
    """Send a message to the default backend, with options that it does not know."""
    return request.param


@pytest.fixture
def server(serve):
    """The server of two hosts. It offers no login."""
    return serve()


@pytest.fixture
def hosts(server, settings):
    dsn = f"smtp://127.0.0.1:{server.port}?timeout=20"
    hosts = {"shop": f"{dsn}&_default_from_email=shop@example.com", "default": dsn}
    settings.EMAIL_HOSTS = hosts
    return hosts


class Spare(FailoverBackend):
    """A project's EMAIL_BACKEND."""

    def __init__(self, **options):
        super().__init__(hosts=["shop"], **options)


@pytest.mark.parametrize("backend", [ROUTING["BACKEND"], f"{__name__}.Spare"])
def test_are_ignored_by_the_default_backend(backend, send, server, hosts):
    with override_settings(EMAIL_BACKEND=backend):
        send()
    assert len(server.accepted) == 1


@needs_mailers
@pytest.mark.parametrize("default", [ROUTING, FAILOVER], ids=["router", "failover"])
class TestMailers:  # pragma: mailers-only
    """Django 6.1."""

    def test_are_ignored_by_the_default_mailer(self, default, send, server, hosts):
        given = {**mailers({"shop": hosts["shop"]}), "default": default}
        with override_settings(MAILERS=given):
            send()
        assert len(server.accepted) == 1

    def test_of_the_setting_itself_are_an_error(self, default, hosts):
        options = {**default.get("OPTIONS", {}), "foo": "bar"}
        with (
            override_settings(MAILERS={"default": {**default, "OPTIONS": options}}),
            pytest.raises(InvalidEmailHost, match=r"unknown option 'foo'"),
        ):
            mail.mailers["default"]


def test_are_not_passed_on_to_the_host(server, hosts, message):
    """A login is not meant for whatever host the router picks."""
    backend = RoutingBackend(username="me", password="Kx7vQz9", timeout=0.001)
    backend.send_messages([message])
    assert not any(command.startswith("AUTH") for command in server.commands)
    assert "Kx7vQz9" not in str(vars(backend))
