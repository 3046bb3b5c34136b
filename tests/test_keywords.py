"""Options that Django passes on to whatever the default backend is."""

import pytest
from conftest import needs_mailers
from django.core import mail
from django.core.mail import EmailMessage
from django.test import override_settings

from email_hosts import mailers
from email_hosts.backends import FailoverBackend, RoutingBackend
from email_hosts.exceptions import InvalidEmailHost

ROUTING = "email_hosts.backends.RoutingBackend"
FAILOVER = "email_hosts.backends.FailoverBackend"

# Django 6.1 deprecates each of these ways.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{start}")
    for start in (
        "The EMAIL_BACKEND setting is deprecated",
        r"get_connection\(\) is deprecated",
        "The 'fail_silently' argument is deprecated",
        "The 'auth_user'",
        "The 'auth_password'",
        "The 'auth_user' and 'auth_password'",
    )
]


def by_get_connection():
    message = EmailMessage("Hello", "World", "shop@example.com", ["a@example.net"])
    mail.get_connection(foo="bar", fail_silently=False).send_messages([message])


def by_send_mail():
    arguments = ("Hello", "World", "shop@example.com", ["a@example.net"])
    mail.send_mail(*arguments, auth_user="me", auth_password="Kx7vQz9")


def by_send_mass_mail():
    message = ("Hello", "World", "shop@example.com", ["a@example.net"])
    mail.send_mass_mail([message], auth_user="me", auth_password="Kx7vQz9")


@pytest.fixture(params=[by_get_connection, by_send_mail, by_send_mass_mail])
def send(request):
    """Send a message to the default backend, with options that it does not know."""
    return request.param


@pytest.fixture
def server(serve):
    """The server of two hosts. It offers no login."""
    return serve()


@pytest.fixture
def hosts(server):
    dsn = f"smtp://127.0.0.1:{server.port}?timeout=20"
    return {"shop": f"{dsn}&_default_from_email=shop@example.com", "default": dsn}


class Spare(FailoverBackend):
    """A project's EMAIL_BACKEND."""

    def __init__(self, **options):
        super().__init__(hosts=["shop"], **options)


@pytest.mark.parametrize("backend", [ROUTING, f"{__name__}.Spare"])
def test_are_ignored_by_the_default_backend(backend, send, server, hosts):
    with override_settings(EMAIL_BACKEND=backend, EMAIL_HOSTS=hosts):
        send()
    assert len(server.accepted) == 1


@needs_mailers
@pytest.mark.parametrize(
    "default",
    [{"BACKEND": ROUTING}, {"BACKEND": FAILOVER, "OPTIONS": {"hosts": ["shop"]}}],
    ids=["router", "failover"],
)
def test_are_ignored_by_the_default_mailer(  # pragma: mailers-only
    default, send, server, hosts
):
    given = {**mailers({"shop": hosts["shop"]}), "default": default}
    with override_settings(MAILERS=given, EMAIL_HOSTS=hosts):
        send()
    assert len(server.accepted) == 1


@needs_mailers
@pytest.mark.parametrize(
    "default",
    [
        {"BACKEND": ROUTING, "OPTIONS": {"foo": "bar"}},
        {"BACKEND": FAILOVER, "OPTIONS": {"hosts": ["shop"], "foo": "bar"}},
    ],
    ids=["router", "failover"],
)
def test_of_the_setting_itself_are_an_error(default, hosts):  # pragma: mailers-only
    with (
        override_settings(MAILERS={"default": default}, EMAIL_HOSTS=hosts),
        pytest.raises(InvalidEmailHost, match=r"unknown option 'foo'"),
    ):
        mail.mailers["default"]


def test_are_not_passed_on_to_the_host(server, hosts):
    """A login is not meant for whatever host the router picks."""
    backend = RoutingBackend(username="me", password="Kx7vQz9", timeout=0.001)
    with override_settings(EMAIL_HOSTS=hosts):
        backend.send_messages([EmailMessage("Hello", to=["a@example.net"])])
    assert not any(command.startswith("AUTH") for command in server.commands)
    assert "Kx7vQz9" not in str(vars(backend))
