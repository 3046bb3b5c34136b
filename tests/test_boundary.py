"""A traceback that leaves a function of ours shows no login, and no variable of ours."""

import gc
import smtplib
import traceback
from collections import UserDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
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


CALLS: dict[str, Callable[[], object]] = {
    **{f"key {key}": partial(get_connection, key) for key in [*INVALID, "a"]},
    **{f"DSN {key}": partial(connection_from_dsn, HOSTS[key]) for key in [*INVALID, "a"]},
    "option": partial(get_connection, "valid", timout=5),
    "no host": partial(get_connection, "valid", host=""),
    "secret option": partial(get_connection, "valid", timeout=5, passwrd=PASSWORD),
    "mailers": partial(mailers, HOSTS),
    "SMTP": partial(EmailHostsBackend, "h", username=USER, passwrd=PASSWORD),
    "no backend": partial(HostBackend, "no.such.Backend", password=PASSWORD),
    "backend that refuses": partial(HostBackend, f"{__name__}.Refusing", password=PASSWORD),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_a_project_calls(name):
    assert_clean(CALLS[name])


@pytest.mark.parametrize("key", ["missing", f"smtp://{LOGIN}h"])
def test_hosts_that_are_no_dict(key, settings):
    settings.EMAIL_HOSTS_STRICT = True
    settings.EMAIL_HOSTS = [HOSTS["valid"]]
    assert_clean(lambda: get_connection(key))


CALLS_OF_BROKEN: list[Callable[[], object]] = [
    partial(get_connection, "missing"),
    partial(checks.check_hosts, None),
    partial(checks.check_deployment, None),
    partial(call_command, "checkemailhosts"),
    partial(call_command, "sendtestemailhosts", "scheme", "a@example.net"),
]


@pytest.mark.parametrize("call", CALLS_OF_BROKEN, ids=range(5))
def test_hosts_that_raise(call, settings):
    settings.EMAIL_HOSTS_STRICT = True
    settings.EMAIL_HOSTS = Broken(HOSTS)
    assert_clean(call)


@pytest.mark.parametrize(
    "command",
    [["checkemailhosts"], *(["sendtestemailhosts", key, "a@example.net"] for key in INVALID)],
)
def test_command(command):
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
