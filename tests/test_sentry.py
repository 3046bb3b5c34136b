"""Wherever something fails: no tool shows the login, and an error says which host it was."""

import gc
import json
import smtplib
import sys
import traceback
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from conftest import mails
from django.conf import settings as django_settings
from django.core.mail.backends.base import BaseEmailBackend
from django.core.management import CommandError, call_command
from scripted import BODY, CLOSE, HANG
from sentry_sdk.consts import DEFAULT_OPTIONS
from sentry_sdk.utils import event_from_exception

import email_hosts
from email_hosts import mailers
from email_hosts.backends import (
    EmailHostsBackend,
    HostBackend,
    RoutingBackend,
    connection_from_dsn,
    get_connection,
)
from email_hosts.exceptions import AllHostsFailed, InvalidEmailHost
from email_hosts.signals import message_failed
from email_hosts.testing import real_hosts

PACKAGE = Path(email_hosts.__file__).parent
USERNAME, PASSWORD = "Kx7vQz9-name", "Wj4bYt2-word"
LOGIN = f"{USERNAME}:{PASSWORD}"
SECRETS = [
    encoded
    for secret in (USERNAME, PASSWORD, f"\0{USERNAME}\0{PASSWORD}")
    for encoded in (secret, b64encode(secret.encode()).decode().rstrip("="))
]


def with_pytest(caught):
    return str(caught.getrepr(showlocals=True, style="long"))


def with_sentry(caught):
    event, _ = event_from_exception(caught.value, DEFAULT_OPTIONS)
    return json.dumps(event, default=repr)


TOOLS = (with_pytest, with_sentry)


def assert_hidden(shown):
    __tracebackhide__ = True
    assert [secret for secret in SECRETS if secret in shown] == []


def assert_clean(caught):
    """No tool shows the login, and no frame of ours has a variable, but the boundary's."""
    for shown in (tool(caught) for tool in TOOLS):
        assert type(caught.value).__name__ in shown
        assert_hidden(shown)
    assert_hidden(repr((vars(caught.value), caught.value.args)))
    of_hosts = getattr(caught.value, "errors", {}).values()
    for error in (caught.value, caught.value.__cause__, caught.value.__context__, *of_hosts):
        for frame, _ in traceback.walk_tb(error and error.__traceback__):
            path = Path(frame.f_code.co_filename)
            assert PACKAGE not in path.parents or path.stem == "boundary" or not frame.f_locals


@pytest.mark.parametrize("tool", TOOLS)
def test_login_in_a_frame_would_be_found(tool):
    def log_in(initial_response):
        raise OSError("no")

    with pytest.raises(OSError, match="no") as caught:
        log_in(PASSWORD)
    assert PASSWORD in tool(caught)


# What the server answers.
SCRIPTS = {
    "timed out": {"banner": HANG},
    "refused": {"AUTH": f"535 no {USERNAME} with {PASSWORD}"},
    "bad challenge": {"AUTH": "334 !!!notb64=a"},
    "lost at login": {"AUTH": CLOSE},
    "MAIL refused": {"MAIL": f"550 no {USERNAME} with {PASSWORD}"},
    "RCPT refused": {"RCPT": f"550 no {USERNAME} with {PASSWORD}"},
    "body refused": {BODY: f"550 no {USERNAME} with {PASSWORD}"},
    "body lost": {BODY: CLOSE},
}

SENDS = [
    *((failure, "shop") for failure in (*SCRIPTS, "no server", "untrusted", "no STARTTLS")),
    *((failure, "shop") for failure in ("no such file", "not ASCII", "bad message")),
    ("parked", "kept"),
    ("refused", "relay"),
    *(
        (failure, way)
        for failure in ("no server", "refused", "RCPT refused")
        for way in ("kept", "parallel", "all", "router", "dsn", "tenant")
    ),
]
NOT_OF_MAIL = (InvalidEmailHost, ValueError)


@pytest.fixture
def name(failure, way, serve, start_server, tls, closed_port, settings):
    """Hosts whose sends fail so. Return how notes on errors name the one that fails."""
    replies = {"AUTH": "235 welcome", **SCRIPTS.get(failure, {})}
    login = "CRAM-MD5" if failure == "bad challenge" else "PLAIN"
    server = serve(lambda step, argument: replies.get(step), extensions=[f"AUTH {login}"])
    port = closed_port if failure == "no server" else server.port
    if failure == "untrusted":
        port = start_server(context=tls).port
    address = f"127.0.0.1:{port}"
    scheme = "submission" if failure in ("untrusted", "no STARTTLS") else "smtp"
    username = USERNAME + "%C3%BC" * (failure == "not ASCII")
    dsn = f"{scheme}://{username}:{PASSWORD}@{address}?local_hostname=here"
    dsn += "&tls&ssl_cafile=/no/such" * (failure == "no such file")
    dsn += "&timeout=0.2" * (failure == "timed out")
    relay = f"backend://test_rules.Relay?host=127.0.0.1&port={port}"
    settings.EMAIL_HOSTS = {
        "shop": dsn,
        "kept": f"{dsn}&conn_max_age=60",
        "parallel": f"{dsn}&parallel=2",
        "all": "failover:shop",
        "relay": f"{relay}&username={USERNAME}&password={PASSWORD}",
    }
    tenant = {"tenant": lambda message: connection_from_dsn(dsn)}
    settings.EMAIL_HOSTS_ROUTER = tenant.get(way, lambda message: "shop")
    if failure == "parked":
        get_connection("kept").send_messages(mails("a"))
        replies |= {"MAIL": CLOSE, "AUTH": "535 no"}
    key = way if way in ("kept", "parallel") else "shop"
    names = {"dsn": address, "tenant": address, "relay": '"relay"'}
    return names.get(way, f'"{key}" ({address})')


@real_hosts()
def send(failure, way, **options):
    messages = mails("a", "b")
    if failure == "bad message":
        messages[0].subject = "a\nb"
    if way == "dsn":
        connection: Any = connection_from_dsn(django_settings.EMAIL_HOSTS["shop"], **options)
    elif way in ("router", "tenant"):
        connection = RoutingBackend(**options)
    else:
        connection = get_connection(way, **options)
    try:
        return connection.send_messages(messages)
    finally:
        connection.close()  # Django's backend leaves that to its user


@pytest.mark.parametrize(("failure", "way"), SENDS)
def test_send_that_fails_shows_the_host_and_no_login(failure, way, name, caplog):
    """To receivers of signals: while frames are at work, and afterwards. So does the log."""
    caplog.set_level("DEBUG")
    errors: list[Any] = []
    shown: list[str] = []

    def receive(error, **others):
        errors.append(error)
        with pytest.raises(type(error)) as caught:
            raise error
        shown.extend(tool(caught) for tool in TOOLS)

    message_failed.connect(receive)
    with pytest.raises((OSError, *NOT_OF_MAIL)) as caught:
        send(failure, way)
    message_failed.disconnect(receive)
    receive(errors[0])
    assert_clean(caught)
    assert_hidden("".join(shown))
    has_note = not isinstance(errors[0], InvalidEmailHost)
    if sys.version_info >= (3, 11) and has_note:  # pragma: notes-only
        assert errors[0].__notes__ == [f"email host {name}"]
        assert all(name in text.replace("\\", "") for text in shown)
    with suppress(*NOT_OF_MAIL):
        assert send(failure, way, fail_silently=True) == 0
        assert name.partition(" ")[0] in caplog.text
    assert_hidden(caplog.text)


def stop(*args):
    del args
    raise KeyboardInterrupt


@real_hosts()
def test_interruption_of_a_login_shows_no_login(serve, settings, monkeypatch):
    monkeypatch.setattr(smtplib.SMTP, "docmd", stop)
    port = serve(extensions=["AUTH PLAIN"]).port
    settings.EMAIL_HOSTS = {"shop": f"smtp://{LOGIN}@127.0.0.1:{port}"}
    with pytest.raises(KeyboardInterrupt) as caught:
        get_connection("shop").send_messages(mails("a"))
    assert_clean(caught)


class Failing(BaseEmailBackend):
    """A backend that is not ours, and fails where it is told to."""

    def __init__(self, fails="send_messages", **options):
        del options  # or a tool may show them: they are the project's
        if fails == "init":
            raise OSError("no init")
        setattr(self, fails, mock.Mock(side_effect=OSError(f"no {fails}")))


INVALID: dict[str, Any] = {
    "scheme": f"smpt://{LOGIN}@h",
    "path": f"smtp://{USERNAME}:{PASSWORD}/x@h",
    "bytes": f"smtp://{LOGIN}@h".encode(),
    "json": f"anymail+mailgun:?api_key={PASSWORD}&x={{",
    "provider": f"anymail+mailgum:?api_key={PASSWORD}",
    "backend": f"backend://{__name__}.Failing?fails=init&password={PASSWORD}",
    "members": f"failover:smtp://{LOGIN}@a,smtp://{LOGIN}@b",
}
HOSTS = {**INVALID, "valid": f"submission://{LOGIN}@h"}

# Lambdas, because a tool shows the arguments of a partial. This file's frames hold none.
CALLS: dict[str, Any] = {
    **{f"key {key}": lambda key=key: get_connection(key) for key in INVALID},
    **{f"DSN {key}": lambda key=key: connection_from_dsn(HOSTS[key]) for key in INVALID},
    "send": lambda: call_command("sendtestemailhosts", "scheme", "a@example.net"),
    "check": lambda: call_command("checkemailhosts"),
    "missing key": lambda: get_connection("missing"),
    "DSN for a key": lambda: get_connection(HOSTS["valid"]),
    "secret option": lambda: get_connection("valid", timeout=5, passwrd=PASSWORD),
    "mailers": lambda: mailers(HOSTS),
    "allow": lambda: connection_from_dsn(HOSTS["valid"], allow=stop),
    "SMTP": lambda: EmailHostsBackend("h", username=USERNAME, passwrd=PASSWORD),
    "backend": lambda: HostBackend(f"{__name__}.Failing", fails="init", password=PASSWORD),
}


@pytest.mark.parametrize("name", CALLS)
def test_call_that_fails_shows_no_login(name, settings):
    settings.EMAIL_HOSTS_STRICT = True
    settings.EMAIL_HOSTS = HOSTS
    with pytest.raises((CommandError, OSError, *NOT_OF_MAIL, KeyboardInterrupt)) as caught:
        CALLS[name]()
    assert_clean(caught)


def calling(module, function):
    """Return a function of this module that calls another, and holds a variable."""
    names: dict[str, Any] = {"__name__": module, "function": function}
    exec("def call(*messages):\n    held = 1\n    function()", names)
    return names["call"]


@pytest.mark.parametrize(
    ("modules", "cleared"),
    [
        (["shop.mail", "http.client", "ssl"], [False, False, False]),
        (["shop.mail", "smtplib", "ssl"], [False, True, True]),
        (["http.client", "ssl"], [True, True]),
    ],
)
def test_clients_below_ours_have_no_variables_and_those_of_the_project_have(modules, cleared):
    host = HostBackend(Failing(), alias="shop")
    for module in reversed(modules):
        host.wrapped.send_messages = calling(module, host.wrapped.send_messages)
    with pytest.raises(OSError, match="no send") as caught:
        host.send_messages(iter(mails("a")))
    frames = [frame for frame, _ in traceback.walk_tb(caught.tb)]
    calls = [frame for frame in frames if frame.f_code.co_name == "call"]
    assert ["held" not in frame.f_locals for frame in calls] == cleared


def test_error_is_in_no_circle_of_memory():
    """What its frames hold, such as a lock, is let go when the caller is done with it."""
    host = HostBackend(Failing())
    host.wrapped.send_messages.side_effect = InterruptedError
    gc.disable()
    try:
        with suppress(InterruptedError):
            host.send_messages(mails("a"))
        assert not any(type(each) is InterruptedError for each in gc.get_objects())
    finally:
        gc.enable()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no notes")
@pytest.mark.parametrize("fails", ["open", "send_messages"])
def test_note_names_the_key_or_the_class(fails):  # pragma: notes-only
    """Of a host that is not one of ours."""
    for alias, name in [("own", '"own"'), (None, f"{__name__}.Failing")]:
        host = HostBackend(Failing(fails), alias=alias)
        with pytest.raises(OSError, match=fails) as caught, host:
            host.send_messages(mails("a"))
        assert caught.value.__notes__ == [f"email host {name}"]


@real_hosts()
@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no notes")
def test_note_names_the_host_that_another_one_cannot_make(settings):  # pragma: notes-only
    settings.EMAIL_HOSTS = {"own": INVALID["backend"], "all": "failover:own"}
    settings.EMAIL_HOSTS_ROUTER = lambda message: "own"
    with pytest.raises(AllHostsFailed) as all_failed:
        get_connection("all").send_messages(mails("a"))
    with pytest.raises(OSError, match="no init") as caught:
        RoutingBackend().send_messages(mails("a"))
    for error in (all_failed.value.errors["own"], caught.value):
        assert error.__notes__ == ['email host "own"']
