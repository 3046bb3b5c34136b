"""An error of a send says which host it was (PEP 678)."""

import sys
from contextlib import suppress
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from scripted import BODY, CLOSE, HANG, always, any_of

from email_hosts.backends import (
    EmailHostsBackend,
    HostBackend,
    RoutingBackend,
    connection_from_dsn,
    get_connection,
)
from email_hosts.exceptions import AllHostsFailed
from email_hosts.signals import message_failed
from email_hosts.testing import real_hosts

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")

# What the server does at a step.
FAILURES = {
    "timed out": ("banner", HANG),
    "greeting": ("EHLO", CLOSE),
    "login": ("AUTH", "535 no"),
    "MAIL": ("MAIL", "451 later"),
    "recipients": ("RCPT", "550 no"),
    "body": (BODY, "554 spam"),
    "lost": (BODY, CLOSE),
}
OTHERS = ["refused", "untrusted", "no TLS", "no STARTTLS"]
SCHEMES = {"untrusted": "submission", "no TLS": "submissions", "no STARTTLS": "submission"}
FIRST = pytest.mark.parametrize("failure", ["refused", "recipients"])


@pytest.fixture
def server(failure, serve, start_server, tls, closed_port, settings):
    """Hosts with whose server a send fails so. Return its address."""
    step, reply = FAILURES.get(failure, ("", ""))
    script = any_of(always(step, reply), always("AUTH", "235 welcome"))
    port = {
        "refused": lambda: closed_port,
        "untrusted": lambda: start_server(context=tls).port,
    }.get(failure, lambda: serve(script, extensions=["AUTH PLAIN", "PIPELINING"]).port)()
    timeout = 0.2 if failure in ("timed out", "no TLS") else 20
    scheme = SCHEMES.get(failure, "smtp")
    dsn = f"{scheme}://user:secret@127.0.0.1:{port}?timeout={timeout}"
    settings.EMAIL_HOSTS = {
        "shop": dsn,
        "kept": f"{dsn}&conn_max_age=60",
        "parallel": f"{dsn}&parallel=2",
        "all": "failover:shop",
        "default": "failover:shop",
    }
    return f"127.0.0.1:{port}"


def messages() -> list[EmailMessage]:
    return [EmailMessage("Hello", "World", to=["a@example.net"]) for _ in range(2)]


def error_of(connection: Any) -> Any:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        connection.send_messages(messages())
    return caught.value


@pytest.mark.parametrize("failure", [*FAILURES, *OTHERS])
@pytest.mark.parametrize("way", ["shop", "kept", "parallel", "all", "router"])
def test_names_key_and_server_once(failure, way, server):
    error = error_of(RoutingBackend() if way == "router" else get_connection(way))
    if isinstance(error, AllHostsFailed):
        assert not hasattr(error, "__notes__")  # its text has the keys
        (error,) = error.errors.values()
    key = way if way in ("kept", "parallel") else "shop"
    assert error.__notes__ == [f'email host "{key}" ({server})']


@FIRST
def test_names_the_server_of_a_host_without_a_key(server, settings):
    dsn = settings.EMAIL_HOSTS["shop"]
    settings.EMAIL_HOSTS_ROUTER = lambda message: connection_from_dsn(dsn)
    by_hand = EmailHostsBackend("127.0.0.1", int(server.partition(":")[2]), "user", "secret")
    with real_hosts():
        for connection in (connection_from_dsn(dsn), by_hand, RoutingBackend()):
            assert error_of(connection).__notes__ == [f"email host {server}"]


@FIRST
def test_receivers_see_it(server):
    seen = []

    def receive(error: Any, **others: Any) -> None:
        seen.append(error.__notes__)

    message_failed.connect(receive)
    with suppress(OSError):
        get_connection("shop").send_messages(messages()[:1])
    message_failed.disconnect(receive)
    assert seen == [[f'email host "shop" ({server})']]


@FIRST
@pytest.mark.parametrize("way", ["shop", "parallel", "all", "router", "dsn", "tenant"])
def test_log_of_fail_silently_names_it(way, server, settings, caplog):
    dsn = settings.EMAIL_HOSTS["shop"]
    if way == "tenant":
        settings.EMAIL_HOSTS_ROUTER = lambda message: connection_from_dsn(dsn)
    with real_hosts():
        connection: Any = {
            "tenant": lambda: RoutingBackend(fail_silently=True),
            "router": lambda: RoutingBackend(fail_silently=True),
            "dsn": lambda: connection_from_dsn(dsn, fail_silently=True),
        }.get(way, lambda: get_connection(way, fail_silently=True))()
        assert connection.send_messages(messages()) == 0
    key = "parallel" if way == "parallel" else "shop"
    assert (server if way in ("dsn", "tenant") else f'host "{key}"') in caplog.text


class Outside(BaseEmailBackend):
    """A backend that is not ours."""

    def send_messages(self, email_messages: Any) -> int:
        raise OSError("no")


class Closed(Outside):
    def open(self) -> bool:
        raise OSError("no")


class Unbuilt(BaseEmailBackend):
    def __init__(self, **options: Any) -> None:
        raise OSError("no such folder")


@pytest.mark.parametrize("backend", [Outside, Closed])
@pytest.mark.parametrize("of", [list, iter])
def test_of_a_backend_that_is_not_ours_names_the_key(of, backend):
    for alias, expected in [("own", '"own"'), (None, f"{__name__}.{backend.__name__}")]:
        with pytest.raises(OSError, match="no") as caught:
            HostBackend(backend(), alias=alias).send_messages(of(messages()))
        error: Any = caught.value
        assert error.__notes__ == [f"email host {expected}"]


def test_of_a_backend_that_cannot_be_made_names_the_key(settings):
    settings.EMAIL_HOSTS = {"own": f"backend://{__name__}.Unbuilt", "all": "failover:own"}
    settings.EMAIL_HOSTS_ROUTER = lambda message: "own"
    for error in (error_of(get_connection("all")).errors["own"], error_of(RoutingBackend())):
        assert error.__notes__ == ['email host "own"']


def test_of_the_router_itself_names_no_host(settings):
    def router(message: EmailMessage) -> str:
        raise LookupError

    settings.EMAIL_HOSTS_ROUTER = router
    assert not hasattr(error_of(RoutingBackend()), "__notes__")
