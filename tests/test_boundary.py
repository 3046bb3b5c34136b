"""A traceback that leaves a function of ours shows no login, and no variable of ours."""

import gc
import smtplib
import traceback
from collections import UserDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.core.mail.backends.base import BaseEmailBackend
from django.core.management import call_command

import email_hosts
from email_hosts import checks, mailers
from email_hosts.backends import (
    EmailHostsBackend,
    HostBackend,
    connection_from_dsn,
    get_connection,
)
from email_hosts.boundary import boundary

PACKAGE = Path(email_hosts.__file__).parent
USER, PASSWORD = "Kx7vQz9", "Wj4bYt2"
LOGIN = f"{USER}:{PASSWORD}@"
INVALID: dict[str, Any] = {
    "scheme": f"smpt://{LOGIN}h",
    "path": f"smtp://{USER}:{PASSWORD}/x@h",
    "port": f"smtp://{LOGIN}h:0",
    "percent": f"smtp://{USER}:{PASSWORD}%@h",
    "option": f"smtp://{LOGIN}h?timout=5",
    "value": f"smtp://{LOGIN}h?timeout=0",
    "sender": f"smtp://{LOGIN}h?_server_email=root",
    "file": f"smtps://{LOGIN}h?ssl_keyfile=k",
    "bytes": f"smtp://{LOGIN}h".encode(),
    "json": f"anymail+mailgun:?api_key={PASSWORD}&x={{",
    "provider": f"anymail+mailgum:?api_key={PASSWORD}",
    "backend": f"backend://{__name__}.Refusing?password={PASSWORD}",
    "members": f"failover:smtp://{LOGIN}a,smtp://{LOGIN}b",
}
HOSTS = {**INVALID, "valid": f"submission://{LOGIN}h", "a": "failover:b", "b": "failover:a"}


class Refusing(BaseEmailBackend):
    def __init__(self, **options):
        raise TypeError("no such option")


class Broken(UserDict[str, Any]):
    """A mapping that raises in the middle of it."""

    def items(self):  # pragma: no cover (which one is asked is not ours to say)
        yield from self.data.items()
        raise RuntimeError("out of hosts")

    def __iter__(self):  # pragma: no cover (which one is asked is not ours to say)
        yield from self.data
        raise RuntimeError("out of hosts")


def assert_clean(call):
    """Call a function that fails, and look at the traceback as an error tracker does."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    for error in filter(None, (shown, shown.__cause__, shown.__context__)):
        # What this file does with a login is not the library's concern.
        stack = [frame for frame in error.stack if frame.filename != __file__]
        # The wrapper itself still runs. It holds the error, and no login.
        cleared = [frame for frame in stack if frame.filename != str(PACKAGE / "boundary.py")]
        assert not any(
            frame.locals for frame in cleared if PACKAGE in Path(frame.filename).parents
        )
        text = f"{error} {[frame.locals for frame in stack]}"
        assert USER not in text
        assert PASSWORD not in text


@pytest.fixture(autouse=True)
def hosts(settings):
    settings.EMAIL_HOSTS = HOSTS


@pytest.mark.parametrize("key", [*INVALID, "a"])
def test_get_connection(key):
    assert_clean(lambda: get_connection(key))


@pytest.mark.parametrize(
    "options", [{"timout": 5}, {"host": ""}, {"timeout": 5, "passwrd": PASSWORD}]
)
def test_get_connection_with_options(options):
    assert_clean(lambda: get_connection("valid", **options))


@pytest.mark.parametrize("hosts", [[HOSTS["valid"]], Broken(HOSTS)])
@pytest.mark.parametrize("key", ["missing", f"smtp://{LOGIN}h"])
def test_get_connection_without_hosts(hosts, key, settings):
    settings.EMAIL_HOSTS_STRICT = True
    settings.EMAIL_HOSTS = hosts
    assert_clean(lambda: get_connection(key))


@pytest.mark.parametrize("name", [*INVALID, "a"])
def test_connection_from_dsn(name):
    assert_clean(lambda: connection_from_dsn(HOSTS[name]))


def test_mailers():
    assert_clean(lambda: mailers(HOSTS))


def test_smtp_backend():
    assert_clean(lambda: EmailHostsBackend("h", username=USER, passwrd=PASSWORD))


@pytest.mark.parametrize("path", ["no.such.Backend", f"{__name__}.Refusing"])
def test_host_backend(path):
    assert_clean(lambda: HostBackend(path, password=PASSWORD))


@pytest.mark.parametrize("check", [checks.check_hosts, checks.check_deployment])
def test_check(check, settings):
    settings.EMAIL_HOSTS = Broken(HOSTS)
    assert_clean(lambda: check(None))


@pytest.mark.parametrize(
    "command",
    [["checkemailhosts"], *(["sendtestemailhosts", key, "a@example.net"] for key in INVALID)],
)
@pytest.mark.parametrize("mapping", [dict, Broken])
def test_command(command, mapping, settings):
    settings.EMAIL_HOSTS = mapping(HOSTS)
    assert_clean(lambda: call_command(*command))


def calling(module, function):
    """Return a function of this module that calls another, and holds a variable."""
    names: dict[str, Any] = {"__name__": module, "function": function}
    exec(f"def call():\n    held = {PASSWORD!r}\n    function()", names)
    return names["call"]


def fail():
    raise RuntimeError("no")


@pytest.mark.parametrize(
    ("modules", "cleared"),
    [
        (["email_hosts.x", "http.client", "ssl"], [True, True, True]),
        (["email_hosts.x", "smtplib", "ssl"], [True, True, True]),
        (["email_hosts.x", "shop.mail", "http.client", "ssl"], [True, False, False, False]),
        (["email_hosts.x", "shop.mail", "smtplib", "ssl"], [True, False, True, True]),
    ],
)
def test_clients_below_ours_have_no_variables_and_those_of_the_project_have(modules, cleared):
    call = fail
    for module in reversed(modules):
        call = calling(module, call)
    with pytest.raises(RuntimeError) as caught:
        boundary(call)()
    frames = [frame for frame, _ in traceback.walk_tb(caught.tb)]
    calls = [frame for frame in frames if frame.f_code.co_name == "call"]
    assert ["held" not in frame.f_locals for frame in calls] == cleared


class Foreign:
    """A connection of the project's own making."""

    sock = None

    def sendmail(self, *envelope):
        raise smtplib.SMTPDataError(554, b"no")

    close = quit = staticmethod(lambda: None)


@pytest.mark.parametrize("fail_silently", [False, True])
def test_error_of_a_foreign_connection_can_be_looked_at(fail_silently, message):
    """Python 3.13.0 crashes at a frame whose generator was closed (gh-125723)."""
    connection: Any = EmailHostsBackend("h", fail_silently=fail_silently)
    connection.connection = Foreign()
    if fail_silently:
        assert connection.send_messages([message, message]) == 0
    else:
        assert_clean(lambda: connection.send_messages([message, message]))


def test_error_is_in_no_circle_of_memory():
    """What its frames hold, such as a lock, is let go when the caller is done with it."""

    class OwnError(Exception):
        pass

    @boundary
    def fail():
        raise OwnError

    gc.disable()
    try:
        with suppress(OwnError):
            fail()
        assert not any(type(each) is OwnError for each in gc.get_objects())
    finally:
        gc.enable()
