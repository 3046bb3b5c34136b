"""What code of a project may raise: only errors of mail are collected or ignored.

A time limit ends the send at once. What a handler of the log does, no send suffers from.
"""

import signal
import smtplib
import sys
import threading
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any
from unittest import mock

import pytest
from conftest import (
    SoftTimeLimitExceeded,
    TimeLimit,
    interrupted_calls,
    logging_to,
    mails,
    names_of,
    parked,
    told,
)
from django.core.exceptions import ImproperlyConfigured
from django.core.mail.backends.base import BaseEmailBackend
from scripted import BODY, HANG, at, to

from email_hosts import conf, signals
from email_hosts.backends import RoutingBackend, base, can_be_retried, get_connection, routing
from email_hosts.host import bare_host, class_at
from email_hosts.oauth2 import source_of
from email_hosts.retry import NOT_SENT, set_delivery
from email_hosts.smtp.connection import SMTP
from email_hosts.smtp.transaction import Transaction

pytestmark = pytest.mark.usefixtures("limit")


class Outside(BaseEmailBackend):
    """A backend that is not ours."""

    send_messages: Any = None


def send(way: str, messages: Any) -> Any:
    if way == "router":
        router = RoutingBackend(fail_silently=True, reply_to="a@b.example")
        return router.send_messages(messages)
    return get_connection(way, fail_silently=True).send_messages(messages)


@pytest.fixture(autouse=True)
def server(serve, settings):
    server = serve()
    dsn = f"smtp://127.0.0.1:{server.port}?timeout=20"
    settings.EMAIL_HOSTS = {
        "smtp": dsn,
        "kept": f"{dsn}&conn_max_age=60",
        "spare": dsn,
        "failover": "failover:smtp,spare",
        "default": "failover:smtp,spare",
        "outside": f"backend://{__name__}.Outside",
        "other": f"backend://{__name__}.Outside",
        "failing": "failover:outside,smtp",
        "replying": "failover:smtp?_reply_to=a@b.example",
    }
    return server


@pytest.mark.parametrize("of", [list, iter])
@pytest.mark.parametrize("way", ["smtp", "failover", "router"])
def test_of_a_message_ends_the_send_whatever_failed_before(of, way, server, caplog):
    """Errors of mail before it are logged."""
    server.script = to("1@", "550 no")
    messages = mails(*"0123")
    messages[2].message = mock.Mock(side_effect=TimeLimit)
    with told() as heard, pytest.raises(TimeLimit) as caught:
        send(way, of(messages))
    assert heard == [("0", None), ("1", smtplib.SMTPRecipientsRefused), ("2", TimeLimit)]
    if of is list:
        assert vars(caught.value)["unsent"] == messages[1:]
    (text,) = caplog.messages
    assert text.startswith('host "smtp": SMTPRecipientsRefused, ')


@pytest.mark.parametrize("way", ["outside", "failing", "router"])
@pytest.mark.parametrize("method", ["open", "send_messages"])
def test_of_a_backend_that_is_not_ours_ends_the_send(method, way, server, settings):
    settings.EMAIL_HOSTS_ROUTER = lambda message: "outside"
    limit = TimeLimit()
    set_delivery(limit, NOT_SENT)  # in another send, of a log handler
    with (
        mock.patch.object(Outside, method, side_effect=limit) as asked,
        told() as heard,
        pytest.raises(TimeLimit) as caught,
    ):
        send(way, mails(*"0123"))
    assert can_be_retried(caught.value) is (method == "open")
    assert asked.call_count == 1
    assert ("0", TimeLimit) in heard
    assert server.accepted == []


@pytest.mark.parametrize("error", [TimeLimit, TimeoutError])
@pytest.mark.parametrize("before", ["", "a"], ids=["first message", "next message"])
def test_leaves_no_connection_out_of_step(before, error, server):
    with get_connection("smtp") as connection:
        connection.send_messages(mails(*before))
        with (
            mock.patch.object(SMTP, "getreply", side_effect=error),
            pytest.raises(error) as caught,
        ):
            connection.send_messages(mails("b"))
        assert can_be_retried(caught.value)  # the server has not seen the body
        assert connection.send_messages(mails("c")) == 1
    assert names_of(server) == [*before, "c"]
    assert server.connections == 2


def test_while_it_connects_leaves_no_socket_open():
    sockets: list[Any] = []

    def getreply(client: SMTP) -> None:
        sockets.append(client.sock)
        raise TimeLimit

    with mock.patch.object(SMTP, "getreply", getreply), pytest.raises(TimeLimit):
        send("smtp", mails("0"))
    assert [each.fileno() for each in sockets] == [-1]


def test_that_comes_twice_leaves_no_connection_to_others(server):
    server.script = at("MAIL", None, HANG)
    connection = get_connection("kept")
    connection.open()
    connection.send_messages(mails("a"))
    with (
        mock.patch.object(SMTP, "getreply", side_effect=TimeLimit),
        mock.patch.object(SMTP, "close", side_effect=TimeLimit),
        pytest.raises(TimeLimit),
    ):
        connection.send_messages(mails("b"))
    connection.close()
    assert parked() == 0


def interrupted(server, step, before, way, messages, error):
    """Return the error of a send that a signal handler ends: the server has seen the step."""
    was_handled = threading.Event()
    turns = iter([False] * before + [True])

    def handle(number: int, frame: Any) -> None:
        was_handled.set()
        raise error

    def interrupt(name: str, argument: str) -> None:
        if name == step and next(turns, False):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            was_handled.wait(60)

    server.extensions = []  # so that nothing is written ahead
    server.script = interrupt
    was = signal.signal(signal.SIGUSR1, handle)
    try:
        with pytest.raises(error) as caught:
            send(way, messages)
    finally:
        signal.signal(signal.SIGUSR1, was)
    return caught.value


@pytest.mark.parametrize("way", ["smtp", "failover", "replying", "router"])
@pytest.mark.parametrize(
    ("step", "before", "sent"),
    [("EHLO", 0, 0), ("MAIL", 1, 1), ("DATA", 1, 1), (BODY, 1, 1), ("QUIT", 0, 4)],
)
def test_of_a_signal_handler_ends_the_send(step, before, sent, way, server):
    messages = mails(*"0123")
    with told() as heard:
        error = interrupted(server, step, before, way, messages, TimeLimit)
    assert [subject for subject, told_of in heard if told_of is None] == list("0123"[:sent])
    assert [told_of for _, told_of in heard if told_of] == [TimeLimit] * (sent < 4)
    assert (error.sent, error.unsent) == (messages[:sent], messages[sent:])
    assert error.failed == (messages[sent:][:1] if step == BODY else [])
    assert can_be_retried(error) is (step not in (BODY, "QUIT"))
    assert server.connections == 1


def test_behind_a_router_leaves_the_message_under_way_in_doubt(server, settings):
    """A router sends host by host."""
    hosts = {"0": "smtp", "1": "kept", "2": "smtp", "3": "kept"}
    settings.EMAIL_HOSTS_ROUTER = lambda message: hosts[message.subject]
    messages = mails(*"0123")
    error = interrupted(server, BODY, 1, "router", messages, KeyboardInterrupt)
    assert (error.sent, error.failed) == (messages[:1], messages[2:3])


def test_that_is_an_error_of_mail_leaves_one_message_in_doubt(monkeypatch, settings):
    """The others are not tried."""
    settings.EMAIL_HOSTS_ROUTER = lambda message: "smtp"
    own, calls = Transaction.read_body_reply, mock.Mock(side_effect=[None, TimeoutError])
    monkeypatch.setattr(Transaction, "read_body_reply", lambda *args: calls() or own(*args))
    messages = mails(*"0123")
    with pytest.raises(TimeoutError) as caught:
        RoutingBackend().send_messages(messages)
    error: Any = caught.value
    assert (error.sent, error.failed) == (messages[:1], messages[1:2])


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SoftTimeLimitExceeded])
@pytest.mark.parametrize(("way", "sent"), [("smtp", 2), ("replying", 2), ("router", 0)])
def test_while_a_message_is_made_or_routed_leaves_it_free_to_be_sent_again(
    way, sent, kind, settings
):
    settings.EMAIL_HOSTS_ROUTER = mock.Mock(side_effect=[None, None, kind])
    messages = mails(*"0123")
    messages[2].message = mock.Mock(side_effect=kind)
    with pytest.raises(kind) as caught:
        send(way, messages)
    error: Any = caught.value
    assert (error.sent, error.unsent, error.failed) == (messages[:sent], messages[sent:], [])


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SoftTimeLimitExceeded])
def test_while_a_message_is_made_is_raised_although_another_is_refused_first(kind, server):
    server.script = to("1@", "550 no")
    messages = mails(*"0123")
    messages[2].message = mock.Mock(side_effect=kind)
    with pytest.raises(kind):
        get_connection("smtp").send_messages(messages)


IMPORTING = [
    *(conf.router, partial(class_at, "a.B"), partial(source_of, {"oauth2": "a.B"})),
    lambda: bare_host({"BACKEND": "a.B"}).routes,
]


@pytest.mark.parametrize("ask", IMPORTING)
def test_while_a_module_is_imported_is_raised(ask, settings):
    settings.EMAIL_HOSTS_ROUTER = "a.b"
    ends = mock.Mock(side_effect=SoftTimeLimitExceeded)
    importing = mock.patch("django.utils.module_loading.import_module", ends)
    with importing, pytest.raises(SoftTimeLimitExceeded):
        ask()


def other(module: str, **attributes: Any) -> type[Exception]:
    """An error of another package."""
    return type("Error", (Exception,), {"__module__": module, **attributes})


OF_MAIL = [
    *(ConnectionError, other(__name__), other("requests.x"), other("botocore.x")),
    other("azure.x", status_code=503),  # the answer of a provider
]
# The last may be of a database, when the mail is sent.
OTHERS = [ValueError, SoftTimeLimitExceeded, other("shop"), other("redis.x", reason=OSError())]


@pytest.mark.parametrize("error", [*OF_MAIL, *OTHERS])
@pytest.mark.parametrize("method", ["open", "send_messages"])
def test_fail_silently_ignores_errors_of_mail_only(method, error, caplog):
    host = get_connection("outside", fail_silently=True)
    calls = [lambda: host.send_messages(mails("0")), *[host.open] * (method == "open")]
    for call in calls:
        ends = pytest.raises(error) if error in OTHERS else nullcontext()
        with mock.patch.object(Outside, method, side_effect=error), ends:
            assert not call()
        ignored = f'host "outside": {error.__name__}, ignored by fail_silently'
        assert caplog.messages == [ignored] * (error in OF_MAIL)
        caplog.clear()


def test_of_closing_one_connection_closes_the_others(settings):
    settings.EMAIL_HOSTS_ROUTER = mock.Mock(side_effect=["outside", "other"])
    with (
        mock.patch.object(Outside, "send_messages", return_value=1),
        mock.patch.object(Outside, "close", side_effect=[TimeLimit, OSError]) as closed,
        pytest.raises(TimeLimit),
    ):
        send("router", mails(*"01"))
    assert closed.call_count == 2


@pytest.mark.parametrize(
    ("error", "way", "count"),
    [
        (RuntimeError, "failing", 2),  # one because of "down", and one of what is refused
        *((OTHERS[1], way, 1) for way in ("smtp", "failing", "router")),
    ],
)
def test_of_a_log_handler_ends_the_send(error, way, count, server, settings, closed_port):
    """It mails what is logged through the host that it is about, which has an end."""
    down = f"smtp://127.0.0.1:{closed_port}"
    settings.EMAIL_HOSTS |= {"down": down, "failing": "failover:down,smtp"}
    server.script = to("someone@", "550 no")

    def handle(record: object) -> None:
        get_connection("failing").send_messages(mails("admin+someone"))
        raise error

    ends = pytest.raises(error) if error in OTHERS else nullcontext()
    with logging_to("email_hosts", handle), ends:
        send(way, mails("someone"))
    assert len(server.accepted) == count


# Python closes a socket that nobody has any more, with a warning.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="generators are not unwound")
def test_at_any_call_leaves_nothing_behind(server):  # pragma: no cover (it confuses coverage)
    """Neither the router nor the receivers of signals take the next send for a nested one."""
    router, host = RoutingBackend(), get_connection("kept")
    messages = mails("0")

    def send_both() -> None:
        with suppress(ImproperlyConfigured):  # while the router is imported
            router.send_messages(messages)
        host.send_messages(messages)

    for _ in interrupted_calls(send_both, base, routing, signals):
        with told() as heard:
            send_both()
        assert heard == [("0", None)] * 2
        with host:
            before = server.connections
            assert host.send_messages(messages) == 1
            assert server.connections == before
