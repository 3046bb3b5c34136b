"""What an attacker, a careless project or a stranger may try."""

import asyncio
import signal
import threading
from typing import Any

import pytest
from conftest import mails
from django.core import checks
from django.core.mail.backends.smtp import EmailBackend
from django.core.management import call_command
from django.test import override_settings
from scripted import HANG, at
from test_sentry import PASSWORD, TOOLS, USERNAME, assert_hidden

from email_hosts.backends import connection_from_dsn, get_connection
from email_hosts.testing import real_hosts

LOGIN = f"{USERNAME}:{PASSWORD}"


class Stop(BaseException):
    """The time limit of gevent, for example."""


def stop(*args):
    raise Stop


def send(dsn):
    """Send a message through a host with this DSN, which no frame of this test holds."""
    hosts = {"shop": dsn}
    del dsn
    with override_settings(EMAIL_HOSTS=hosts):
        del hosts
        connection = get_connection("shop")
        try:
            connection.send_messages(mails("a"))
        finally:
            connection.close()  # Django's backend leaves that to its user


def assert_shown_without_login(caught):
    assert_hidden("".join(tool(caught) for tool in TOOLS))


def test_interruption_of_a_login_shows_no_login(serve):
    def alarm(step, argument):
        if step != "AUTH":
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
    assert_shown_without_login(caught)


def test_interruption_of_allow_shows_no_login():
    with pytest.raises(Stop) as caught:
        connection_from_dsn(f"smtp://{LOGIN}@h", allow=stop)
    assert_shown_without_login(caught)


class Early(EmailBackend):
    """Reads the login before it can be set."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.login = (self.username, self.password)


class Fixed(EmailBackend):
    """Has a login of its own."""

    def __init__(self, host, port=25, alias=None):
        super().__init__(host, port, username="own", password="own", alias=alias)
        self.login = ("own", "own")


class Bare(EmailBackend):
    """Does not let Django's backend set its attributes."""

    login = ("", "")

    def __init__(self, host="", **options):
        self.host = host


class TestSubclassOfDjangosBackend:
    def test_shows_no_login_that_is_refused(self, serve):
        refusal = at("AUTH", f"535 no {USERNAME} with {PASSWORD}")
        port = serve(refusal, extensions=["AUTH PLAIN"]).port
        early = f"backend://{__name__}.Early?host=127.0.0.1&port={port}"
        with pytest.raises(OSError, match=r"no \*\*\*\*\* with \*\*\*\*\*") as caught:
            send(f"{early}&username={USERNAME}&password={PASSWORD}")
        assert_shown_without_login(caught)

    @pytest.mark.filterwarnings("ignore:The EMAIL_HOST.* setting is deprecated")
    @pytest.mark.parametrize(
        ("backend", "login"),
        [("Early", ("", "")), ("Fixed", ("own", "own")), ("Bare", ("", ""))],
    )
    def test_never_sees_the_projects_login(self, backend, login, settings):
        settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = USERNAME, PASSWORD
        settings.EMAIL_HOSTS = {"shop": f"backend://{__name__}.{backend}?host=h"}
        connection: Any = get_connection("shop")
        assert (connection.username, connection.password) == connection.login == login


def test_module_that_fails_at_import_is_a_message_of_check(tmp_path, monkeypatch, settings):
    (tmp_path / "broken_at_import.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    settings.EMAIL_HOSTS = {"x": "backend://broken_at_import.Backend", "y": "smtp://h"}
    settings.EMAIL_HOSTS_ROUTER = "broken_at_import.router"
    found = checks.run_checks(tags=["email_hosts"])
    assert [each.id for each in found] == ["email_hosts.E003", "email_hosts.E005"]


def test_terminal_gets_no_control_characters(settings, capsys):
    dsn = "console://?_default_from_email=Shop \u202egro <a@example.com>"
    settings.EMAIL_HOSTS = {"a": dsn, "b": "file:mail/\u202eout"}
    call_command("checkemailhosts")
    assert "\u202e" not in capsys.readouterr().out


@pytest.mark.parametrize("what", [type("Tests", (), {}), asyncio.sleep])
def test_real_hosts_decorates_functions(what):
    with pytest.raises(TypeError, match="real_hosts"):
        real_hosts()(what)
