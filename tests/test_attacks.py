"""What an attacker, a careless project or a stranger may try."""

import asyncio
import signal
import socket
import threading
from typing import Any
from unittest import mock

import pytest
from django.core import checks
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from django.core.management import call_command
from django.test import override_settings
from scripted import HANG, at
from test_sentry import PASSWORD, TOOLS, USERNAME, assert_hidden

from email_hosts.backends import (
    EmailHostsBackend,
    can_be_retried,
    connection_from_dsn,
    get_connection,
)
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.smtp import connection as smtp_connection
from email_hosts.smtp import transaction
from email_hosts.testing import real_hosts

LOGIN = f"{USERNAME}:{PASSWORD}"


class Stop(BaseException):
    """The time limit of gevent, for example."""


def message(body="World"):
    return EmailMessage("Hello", body, "a@example.com", ["b@example.net"])


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

    port = serve(alarm, extensions=["AUTH PLAIN"]).port
    handler = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(Stop) as caught:
            send(f"smtp://{LOGIN}@127.0.0.1:{port}")
    finally:
        signal.signal(signal.SIGUSR1, handler)
    assert_hidden("".join(tool(caught) for tool in TOOLS))


def test_interruption_of_allow_shows_no_login():
    def allow(host, port):
        raise Stop

    with pytest.raises(Stop) as caught:
        connection_from_dsn(f"smtp://{LOGIN}@h", allow=allow)
    assert_hidden("".join(tool(caught) for tool in TOOLS))


class Early(EmailBackend):
    """Reads the login before it can be set."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.login = (self.username, self.password)


class Fixed(EmailBackend):
    def __init__(self, host, port=25, alias=None):
        super().__init__(host, port, username="own", password="own", alias=alias)


class Bare(EmailBackend):
    """Does not let Django's backend set its attributes."""

    def __init__(self, host="", **options):
        self.host = host


class TestSubclassOfDjangosBackend:
    def test_shows_no_login_that_is_refused(self, serve):
        refusal = at("AUTH", f"535 no {USERNAME} with {PASSWORD}")
        port = serve(refusal, extensions=["AUTH PLAIN"]).port
        early = f"backend://{__name__}.Early?host=127.0.0.1&port={port}"
        with pytest.raises(OSError, match=r"no \*\*\*\*\* with \*\*\*\*\*") as caught:
            send(f"{early}&username={USERNAME}&password={PASSWORD}")
        assert_hidden("".join(tool(caught) for tool in TOOLS))

    @pytest.mark.filterwarnings("ignore:The EMAIL_HOST.* setting is deprecated")
    @pytest.mark.parametrize(
        ("backend", "login"), [("Early", ("", "")), ("Fixed", ("own", "own"))]
    )
    def test_never_sees_the_projects_login(self, backend, login, settings):
        settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = USERNAME, PASSWORD
        settings.EMAIL_HOSTS = {"shop": f"backend://{__name__}.{backend}?host=h"}
        connection: Any = get_connection("shop")
        assert (connection.username, connection.password) == login
        assert getattr(connection, "login", login) == login

    def test_may_set_next_to_nothing(self, settings):
        settings.EMAIL_HOSTS = {"shop": f"backend://{__name__}.Bare?host=h"}
        assert get_connection("shop").host == "h"  # type: ignore[attr-defined]


def test_body_that_is_taken_bit_by_bit_ends(serve, monkeypatch):
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr(transaction, "clock", lambda: next(now))
    server = serve()
    backend = EmailHostsBackend("127.0.0.1", server.port, timeout=20)
    with pytest.raises(OSError, match="timed out while writing the body") as caught:
        backend.send_messages([message("x" * 200_000)])
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


def test_module_that_fails_at_import_is_a_message_of_check(tmp_path, monkeypatch, settings):
    (tmp_path / "broken_at_import.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    settings.EMAIL_HOSTS = {"x": "backend://broken_at_import.Backend", "y": "smtp://h"}
    settings.EMAIL_HOSTS_ROUTER = "broken_at_import.router"
    found = checks.run_checks(tags=["email_hosts"])
    assert [each.id for each in found] == ["email_hosts.E003", "email_hosts.E005"]


def test_connection_whose_host_has_changed_is_not_kept(serve):
    server = serve()
    backend = EmailHostsBackend("127.0.0.1", server.port, conn_max_age=60)
    backend.open()
    backend.host = "localhost"
    backend.close()
    with EmailHostsBackend("localhost", server.port, conn_max_age=60):
        pass
    assert server.connections == 2


def test_terminal_gets_no_control_characters(settings, capsys):
    dsn = "console://?_default_from_email=Shop \u202egro <a@example.com>"
    settings.EMAIL_HOSTS = {"a": dsn, "b": "file:mail/\u202eout"}
    call_command("checkemailhosts")
    assert "\u202e" not in capsys.readouterr().out


@pytest.mark.parametrize("what", [type("Tests", (), {}), asyncio.sleep])
def test_real_hosts_decorates_functions(what):
    with pytest.raises(TypeError, match="real_hosts"):
        real_hosts()(what)
