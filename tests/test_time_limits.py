"""Only errors of mail are collected or ignored. Any other ends the send at once."""

import logging
import signal
import sys
import threading
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest
from conftest import TimeLimit, interrupted_at_each_call, mails, told
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from scripted import BODY, to

from email_hosts import signals
from email_hosts.backends import (
    HostBackend,
    RoutingBackend,
    base,
    can_be_retried,
    get_connection,
    routing,
)
from email_hosts.log import logger

needs_signals = pytest.mark.skipif(
    not hasattr(signal, "pthread_kill"), reason="there are no such signals on Windows"
)
silently_or_not = pytest.mark.parametrize("fail_silently", [False, True])

pytestmark = pytest.mark.usefixtures("limit")


class Late(EmailMessage):
    """Takes too long to make, if it is the second of a list."""

    def message(self, *args: Any, **options: Any) -> Any:
        if self.subject == "1":
            raise TimeLimit
        return super().message(*args, **options)


class Outside(BaseEmailBackend):
    """A backend that is not ours."""

    def send_messages(self, email_messages: Any) -> int:
        for message in email_messages:
            message.message()
        return len(email_messages)


def batch(make: type[EmailMessage] = EmailMessage) -> Any:
    return mails(*"0123", make=make)


def connection(way: str, *, fail_silently: bool = False) -> Any:
    if way == "router":
        return RoutingBackend(fail_silently=fail_silently)
    return get_connection(way, fail_silently=fail_silently)


@pytest.fixture
def server(serve):
    return serve()


@pytest.fixture(autouse=True)
def hosts(server, settings):
    dsn = f"smtp://127.0.0.1:{server.port}?timeout=20"
    settings.EMAIL_HOSTS = {
        "smtp": dsn,
        "kept": f"{dsn}&conn_max_age=60",
        "parallel": f"{dsn}&parallel=2",
        "failover": "failover:smtp,spare",
        "nested": "failover:failover",
        "spare": dsn,
        "outside": f"backend://{__name__}.Outside",
        "default": "failover:smtp,spare",
    }


@pytest.mark.parametrize("way", ["smtp", "kept", "failover", "nested", "router", "outside"])
@pytest.mark.parametrize("of", [list, iter])
def test_of_a_message_that_is_made_ends_the_send(of, way, server, caplog):
    messages = batch(Late)
    with told() as heard, pytest.raises(TimeLimit) as caught:
        connection(way, fail_silently=True).send_messages(of(messages))
    assert heard == [("0", None), ("1", TimeLimit)]
    if of is list:
        error: Any = caught.value
        assert (error.sent, error.unsent) == (messages[:1], messages[1:])
    assert len(server.accepted) == (way != "outside")
    assert "ignored" not in caplog.text


def test_of_a_message_that_is_made_is_raised_instead_of_the_first_error(server):
    """Which the router would raise at the end."""
    server.script = to("0@", "550 no")
    with pytest.raises(TimeLimit):
        connection("router").send_messages(batch(Late))


@pytest.mark.parametrize("way", ["smtp", "failover", "router"])
def test_of_a_message_that_is_made_is_raised_whatever_failed_before(way, server, caplog):
    """Errors of mail before it are logged."""
    server.script = to("0@", "550 no")
    with told() as heard, pytest.raises(TimeLimit):
        connection(way, fail_silently=True).send_messages(batch(Late))
    assert [subject for subject, error in heard] == ["0", "1"]
    assert caplog.messages == ['host "smtp": SMTPRecipientsRefused, ignored by fail_silently']


def test_of_one_list_of_a_backend_that_is_not_ours_leaves_it_unknown_what_was_sent():
    with pytest.raises(TimeLimit) as caught:
        connection("outside").send_messages(batch(Late))
    assert not hasattr(caught.value, "sent")


@silently_or_not
@pytest.mark.parametrize(("of", "sent"), [(list, 0), (iter, 1)])
def test_of_the_router_ends_the_send(of, sent, fail_silently, server, settings):
    """Of a list, it is asked first for each message."""

    def router(message: EmailMessage) -> str:
        if message.subject == "1":
            raise TimeLimit
        return "smtp"

    settings.EMAIL_HOSTS_ROUTER = router
    with told() as heard, pytest.raises(TimeLimit):
        connection("router", fail_silently=fail_silently).send_messages(of(batch()))
    assert heard == [("0", None), ("1", TimeLimit)][1 - sent :]
    assert len(server.accepted) == sent


@pytest.fixture
def interrupt():
    """Let the main thread get a signal while it waits for the server.

    Returns a script that does so when a step comes for the second time, or the first.
    """
    was_handled = threading.Event()

    def handle(number: int, frame: Any) -> None:
        was_handled.set()
        raise TimeLimit

    def interrupt(step: str, *, before: int = 1) -> Any:
        turns = iter([False] * before + [True])

        def script(name: str, argument: str) -> None:
            if name == step and next(turns, False):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                was_handled.wait(60)

        return script

    was = signal.signal(signal.SIGUSR1, handle)
    yield interrupt
    signal.signal(signal.SIGUSR1, was)


@needs_signals
@pytest.mark.parametrize("way", ["smtp", "failover", "nested", "router"])
@pytest.mark.parametrize("step", ["MAIL", "DATA", BODY])
@silently_or_not
def test_of_a_signal_handler_ends_the_send(fail_silently, step, way, server, interrupt):
    server.extensions = []  # so that nothing is written ahead
    server.script = interrupt(step)
    messages = batch()
    with told() as heard, pytest.raises(TimeLimit) as caught:
        connection(way, fail_silently=fail_silently).send_messages(messages)
    error: Any = caught.value
    assert heard == [("0", None), ("1", TimeLimit)]
    assert (error.sent, error.unsent) == (messages[:1], messages[1:])
    assert not can_be_retried(error)


@needs_signals
@pytest.mark.parametrize("way", ["smtp", "failover", "router", "parallel"])
def test_of_a_signal_handler_while_a_connection_is_opened_ends_the_send(
    way, server, interrupt
):
    server.script = interrupt("EHLO", before=0)
    with pytest.raises(TimeLimit):
        connection(way, fail_silently=True).send_messages(batch())
    assert server.connections <= (2 if way == "parallel" else 1)


@pytest.mark.parametrize("way", ["outside", "failover", "router"])
@pytest.mark.parametrize("method", ["open", "send_messages"])
def test_of_a_backend_that_is_not_ours_ends_the_send(method, way, server, settings):
    settings.EMAIL_HOSTS["failover"] = "failover:outside,smtp"
    settings.EMAIL_HOSTS["default"] = "outside"
    settings.EMAIL_HOSTS_ROUTER = lambda message: "outside"
    with (
        mock.patch.object(Outside, method, side_effect=TimeLimit) as asked,
        told() as heard,
        pytest.raises(TimeLimit),
    ):
        connection(way, fail_silently=True).send_messages(batch())
    assert asked.call_count == 1
    assert ("0", TimeLimit) in heard
    assert server.accepted == []


def test_error_of_mail_while_a_backend_is_opened_is_for_the_next_host(server, settings):
    settings.EMAIL_HOSTS["failover"] = "failover:outside,smtp"
    with mock.patch.object(Outside, "open", side_effect=OSError):
        assert connection("failover").send_messages(batch()) == 4
    assert len(server.accepted) == 4


class ProviderError(Exception):
    """Of the package of the backend."""


class OfProvider(BaseEmailBackend):
    send_messages: Any = None


def other(module: str) -> type[Exception]:
    """An error of another package."""
    return type("Error", (Exception,), {"__module__": module})


OF_MAIL = [OSError, ConnectionError, ProviderError]
OF_MAIL += map(other, ["requests.x", "urllib3", "httpx", "botocore.x", "anymail"])
OTHERS = [ValueError, KeyError, RuntimeError, other("billiard.exceptions"), other("shop")]


@pytest.mark.parametrize("error", [*OF_MAIL, *OTHERS])
def test_fail_silently_ignores_errors_of_mail_only(error, caplog):
    host = HostBackend(OfProvider(), alias="own", fail_silently=True)
    ignored = f'host "own": {error.__name__}, ignored by fail_silently'
    with mock.patch.object(OfProvider, "send_messages", side_effect=error):
        if error in OTHERS:
            with pytest.raises(error):
                host.send_messages(batch())
        else:
            assert host.send_messages(batch()) == 0
    assert caplog.messages == [ignored] * (4 if error in OF_MAIL else 0)


@needs_signals
@pytest.mark.parametrize("way", ["smtp", "failover", "router"])
@silently_or_not
def test_of_a_signal_handler_at_the_end_arrives(fail_silently, way, server, interrupt):
    """All has been sent, and the server takes its time to say goodbye."""
    server.script = interrupt("QUIT", before=0)
    messages = batch()
    with pytest.raises(TimeLimit) as caught:
        connection(way, fail_silently=fail_silently).send_messages(messages)
    error: Any = caught.value
    assert (error.sent, error.unsent) == (messages, [])


def test_of_closing_one_connection_closes_the_others(server, settings):
    settings.EMAIL_HOSTS["other"] = settings.EMAIL_HOSTS["outside"]
    settings.EMAIL_HOSTS_ROUTER = lambda message: (
        "other" if message.subject == "1" else "outside"
    )
    with (
        mock.patch.object(Outside, "close", side_effect=[TimeLimit, OSError]) as closed,
        pytest.raises(TimeLimit),
    ):
        connection("router").send_messages(batch())
    assert closed.call_count == 2


class SoftTimeLimitExceeded(Exception):
    """Of a task queue."""

    __module__ = "billiard.exceptions"


@pytest.mark.parametrize("way", ["smtp", "router"])
def test_of_a_task_in_a_log_handler_arrives(way, server):
    """It may take its time: it may send mail."""

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise SoftTimeLimitExceeded

    server.script = lambda step, argument: "550 no" if "0@" in argument else None
    logger.addHandler(handler := Slow())
    try:
        with pytest.raises(SoftTimeLimitExceeded):
            connection(way, fail_silently=True).send_messages(batch())
    finally:
        logger.removeHandler(handler)


# Python closes a socket that nobody has any more, with a warning.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="an error at a call of a generator does not unwind it"
)
def test_at_any_call_leaves_nothing_behind(server):  # pragma: no cover (it confuses coverage)
    """Neither the router nor the receivers of signals take the next send for a nested one."""
    router, host = RoutingBackend(), connection("kept")
    messages = batch()[:1]

    def send() -> None:
        with suppress(ImproperlyConfigured):  # while the router is imported
            router.send_messages(messages)
        host.send_messages(messages)

    for _ in interrupted_at_each_call(send, base, routing, signals):
        with told() as heard:
            send()
        assert heard == [("0", None)] * 2
        with host:
            before = server.connections
            assert host.send_messages(messages) == 1
            assert server.connections == before
