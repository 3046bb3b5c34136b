"""What an attacker, a careless project or a stranger may try."""

import asyncio
import base64
import signal
import socket
import threading
from io import StringIO
from typing import Any
from unittest import mock

import pytest
from django.core import checks
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from django.core.management import call_command
from django.test import override_settings
from scripted import HANG, any_of, at
from test_sentry import with_sentry, with_traceback

from email_hosts.backends import (
    EmailHostsBackend,
    RoutingBackend,
    can_be_retried,
    connection_from_dsn,
    get_connection,
)
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.smtp import connection as smtp_connection
from email_hosts.smtp import transaction
from email_hosts.testing import real_hosts

USER, PASSWORD = "Kx7vQz9name", "Wj4bYt2word"
PLAIN = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
SECRETS = (USER, PASSWORD, PLAIN)
DJANGOS = f"backend://{__name__}.Early?host=127.0.0.1"
EXTENSIONS = ["AUTH PLAIN"]


class Stop(BaseException):
    """The time limit of gevent, for example."""


def message():
    return EmailMessage("Hello", "World", "a@example.com", ["b@example.net"])


def shown(caught):
    """Return what tools show of an error: its text, and the variables of its frames."""
    return with_traceback(caught) + with_sentry(caught)


def send(dsn):
    """Send a message through a host with this DSN, which no frame of this test holds."""
    hosts = {"shop": dsn}
    del dsn
    with override_settings(EMAIL_HOSTS=hosts):
        del hosts
        connection = get_connection("shop")
        try:
            connection.send_messages([message()])
        finally:
            connection.close()  # Django's backend leaves that to its user


@pytest.mark.parametrize("step", ["EHLO", "AUTH"])
def test_interruption_of_a_login_shows_no_login(step, serve):
    def stop(step, frame):
        raise Stop

    def alarm(name, argument):
        if name != step:
            return None
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        return HANG

    port = serve(alarm, extensions=EXTENSIONS).port
    handler = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(Stop) as caught:
            send(f"smtp://{USER}:{PASSWORD}@127.0.0.1:{port}")
    finally:
        signal.signal(signal.SIGUSR1, handler)
    assert not any(secret in shown(caught) for secret in SECRETS)


def test_interruption_of_allow_shows_no_login():
    def allow(host, port):
        raise Stop

    with pytest.raises(Stop) as caught:
        connection_from_dsn(f"smtp://{USER}:{PASSWORD}@h", allow=allow)
    assert PASSWORD not in shown(caught)


def test_refused_login_of_what_inherits_from_djangos_backend_shows_no_login(serve):
    refusal = at("AUTH", f"535 no {USER} with {PASSWORD}")
    port = serve(refusal, extensions=EXTENSIONS).port
    with pytest.raises(OSError, match=r"no \*\*\*\*\* with \*\*\*\*\*") as caught:
        send(f"{DJANGOS}&port={port}&username={USER}&password={PASSWORD}")
    assert not any(secret in shown(caught) for secret in SECRETS)


class Early(EmailBackend):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.login = (self.username, self.password)


class Fixed(EmailBackend):
    def __init__(self, host, port=25, alias=None):
        super().__init__(host, port, username="own", password="own", alias=alias)


@pytest.mark.filterwarnings("ignore:The EMAIL_HOST.* setting is deprecated")
@pytest.mark.parametrize(("backend", "login"), [(Early, ("", "")), (Fixed, ("own", "own"))])
def test_subclass_of_djangos_backend_never_sees_the_projects_login(backend, login):
    dsn = f"backend://{__name__}.{backend.__name__}?host=h"
    project = {"EMAIL_HOST_USER": USER, "EMAIL_HOST_PASSWORD": PASSWORD}
    with override_settings(EMAIL_HOSTS={"shop": dsn}, **project):
        connection: Any = get_connection("shop")
    assert (connection.username, connection.password) == login
    assert getattr(connection, "login", login) == login


def test_body_that_is_taken_bit_by_bit_ends(serve, monkeypatch):
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr(transaction, "clock", lambda: next(now))
    server = serve()
    large = EmailMessage("Hello", "x" * 200_000, "a@example.com", ["b@example.net"])
    with pytest.raises(OSError, match="timed out while writing the body") as caught:
        EmailHostsBackend("127.0.0.1", server.port, timeout=20).send_messages([large])
    assert can_be_retried(caught.value)
    assert server.accepted == []


def test_timeout_is_for_all_addresses_of_a_name(closed_port, monkeypatch):
    addresses = [(2, 1, 6, "", (f"127.0.0.{i}", closed_port)) for i in range(1, 13)]
    now, connect = iter(range(100)), mock.Mock(wraps=socket.create_connection)
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: addresses)
    monkeypatch.setattr("socket.create_connection", connect)
    monkeypatch.setattr(smtp_connection, "clock", lambda: next(now))
    dsn = f"smtp://many.example.com:{closed_port}?timeout=3"
    with real_hosts(), pytest.raises(OSError, match="refused"):
        connection_from_dsn(dsn, allow=lambda host, port: True).open()
    assert connect.call_count == 2  # after 1 second and 2


def test_allow_must_say_true():
    async def allow(host, port):
        return False

    asked = []

    def remembered(host, port):
        asked.append(allow(host, port))
        return asked[-1]

    with pytest.raises(InvalidEmailHost, match="does not allow this server"):
        connection_from_dsn("smtp://h", allow=remembered)
    assert asyncio.run(asked[0]) is False


@pytest.fixture
def broken(tmp_path, monkeypatch):
    (tmp_path / "broken_at_import.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    return "broken_at_import"


def test_module_that_fails_at_import_is_a_message_of_check(broken):
    hosts = {"x": f"backend://{broken}.Backend", "y": "smtp://h"}
    with override_settings(EMAIL_HOSTS=hosts, EMAIL_HOSTS_ROUTER=f"{broken}.router"):
        found = checks.run_checks(tags=["email_hosts"])
    assert [each.id for each in found] == ["email_hosts.E003", "email_hosts.E005"]


class Router:
    """Returns what it is made with."""

    def __init__(self, chosen):
        self.chosen = chosen

    def __call__(self, message):
        return self.chosen

    def choose(self, message):
        return self.chosen


@pytest.mark.parametrize("chosen", [5, b"smtp://u:Wj4bYt2word@h", ["shop"], RoutingBackend])
def test_router_must_return_a_key_or_a_connection(chosen):
    for router, name in ((Router(chosen), "Router"), (Router(chosen).choose, "Router.choose")):
        with (
            override_settings(EMAIL_HOSTS_ROUTER=router),
            pytest.raises(TypeError) as caught,
        ):
            RoutingBackend().send_messages([message()])
        assert str(caught.value) == (
            f"EMAIL_HOSTS_ROUTER ({__name__}.{name}) must return the key of a host, a "
            f"connection or None, not {type(chosen).__name__}"
        )


def test_connection_whose_host_has_changed_is_not_kept(serve):
    server = serve(any_of())
    backend = EmailHostsBackend("127.0.0.1", server.port, conn_max_age=60)
    backend.open()
    backend.host = "localhost"
    backend.close()
    with EmailHostsBackend("localhost", server.port, conn_max_age=60):
        pass
    assert server.connections == 2


def test_terminal_gets_no_control_characters():
    dsn = "console://?_default_from_email=Shop \u202egro <a@example.com>"
    hosts = {"a": dsn, "b": "file:mail/\u202eout"}
    out = StringIO()
    with override_settings(EMAIL_HOSTS=hosts):
        call_command("checkemailhosts", stdout=out)
    assert "\u202e" not in out.getvalue()


@pytest.mark.parametrize("what", [type("Tests", (), {}), asyncio.sleep])
def test_real_hosts_decorates_functions(what):
    with pytest.raises(TypeError, match="real_hosts"):
        real_hosts()(what)


class Bare(EmailBackend):
    """Does not let Django's backend set its attributes."""

    def __init__(self, host="", **options):
        self.host = host


def test_subclass_of_djangos_backend_may_set_next_to_nothing():
    with override_settings(EMAIL_HOSTS={"x": f"backend://{__name__}.Bare?host=h"}):
        assert get_connection("x").host == "h"  # type: ignore[attr-defined]
