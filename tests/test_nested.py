"""Sends inside sends, over the same object: nothing crosses, and nothing is lost."""

import copy
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from email import message_from_bytes
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend
from django.test import override_settings
from scripted import any_of, to

from email_hosts.backends import FailoverBackend, HostBackend, RoutingBackend, get_connection
from email_hosts.conf import DJANGO_HAS_MAILERS
from email_hosts.log import logger
from email_hosts.signals import message_failed, message_sent
from email_hosts.testing import real_hosts

# A deadlock ends the run, with a traceback of each thread.
pytestmark = pytest.mark.usefixtures("limit")

ALIAS: Any = {"alias": ""} if DJANGO_HAS_MAILERS else {}


class Nested(EmailMessage):
    """Sends an alert over a connection at one of the moments when code of a project runs."""

    connection_of_alert: Any = None
    moment = ""
    alerts: list[int]

    def send_alert(self, moment: str) -> None:
        if moment == self.moment:
            self.moment = ""  # a message is made more than once
            alert = EmailMessage("Alert", "alert", "a@example.com", ["alert@example.net"])
            self.alerts.append(self.connection_of_alert.send_messages([alert]))

    def message(self, *args: Any, **options: Any) -> Any:
        self.send_alert("message()")
        return super().message(*args, **options)

    def recipients(self) -> list[str]:
        self.send_alert("recipients()")
        return super().recipients()

    @property
    def attachments(self) -> list[Any]:
        self.send_alert("attachments")
        return []

    @attachments.setter
    def attachments(self, value: Any) -> None:
        pass


class Project:
    """Sends a list through a host, and alerts while that is under way."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.alerts: list[int] = []

    def messages(self, moment: str = "", number: int = 4) -> list[Any]:
        batch: list[Any] = []
        for i in range(number):
            to = [f"m{i}@example.net", f"refused{i}@example.net"]
            message = Nested(f"Mail {i}", f"mail {i}", "a@example.com", to)
            message.connection_of_alert, message.moment = self.connection, moment
            message.alerts = self.alerts
            batch.append(message)
        return batch

    def alert(self) -> None:
        alert = EmailMessage("Alert", "alert", "a@example.com", ["alert@example.net"])
        self.alerts.append(self.connection.send_messages([alert]))


@pytest.fixture
def server(serve):
    """Refuses one recipient of each message: a reason for a record in the log."""
    return serve(to("refused", "550 no"))


QUERIES = ["", "parallel=2", "conn_max_age=60"]
KINDS = [*QUERIES, "failover", "router", "wrapped", "tenant"]


@pytest.fixture
def project(kind, server):
    """What sends: a host, or something that sends through one."""
    query = kind if kind in QUERIES else ""
    hosts = {
        "shop": f"smtp://127.0.0.1:{server.port}?timeout=20&{query}",
        "all": "failover:shop",
        "default": "failover:all",
    }
    with override_settings(EMAIL_HOSTS=hosts), real_hosts():
        made: Any = {
            "failover": lambda: get_connection("default"),
            "router": RoutingBackend,
            "wrapped": lambda: HostBackend(get_connection("shop"), reply_to="r@example.com"),
            "tenant": lambda: get_connection("shop"),
        }.get(kind, lambda: get_connection("shop"))
        yield Project(made())


@contextmanager
def heard(signal: Any) -> Iterator[list[str]]:
    """Note the subjects of the messages that a signal is about."""
    subjects: list[str] = []

    def note(message: Any, **others: Any) -> None:
        subjects.append(message.subject)

    signal.connect(note)
    try:
        yield subjects
    finally:
        signal.disconnect(note)


@contextmanager
def logging_to(handler: logging.Handler) -> Iterator[None]:
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def assert_nothing_crossed(server: Any, mails: int, alerts: int) -> None:
    """Each message came once, to its own recipients, with its own body."""
    got = []
    for one in server.accepted:
        content = message_from_bytes(one.content)
        got.append((str(content["Subject"]), str(content.get_payload()).strip()))
        number = got[-1][0].removeprefix("Mail ")
        expected = "alert" if number == "Alert" else f"m{number}"
        assert one.recipients == (f"{expected}@example.net",)
    expected_mails = [(f"Mail {i}", f"mail {i}") for i in range(mails)]
    assert sorted(got) == [("Alert", "alert")] * alerts + expected_mails


def send(project: Project, kind: str, batch: Any) -> Any:
    """Send a list. A router sends it over the very connection that alerts use."""
    if kind != "tenant":
        return project.connection.send_messages(batch)
    with override_settings(EMAIL_HOSTS_ROUTER=lambda message: project.connection):
        return RoutingBackend().send_messages(batch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("moment", ["message()", "recipients()", "attachments"])
def test_message_may_send_while_it_is_made(moment, is_open, kind, project, server):
    if is_open:
        project.connection.open()
    with heard(message_sent) as subjects:
        assert send(project, kind, project.messages(moment)) == 4
    project.connection.close()
    assert project.alerts == [1] * 4
    assert_nothing_crossed(server, 4, 4)
    assert sorted(subjects) == ["Alert"] * 4 + [f"Mail {i}" for i in range(4)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("of", [list, iter])
def test_message_may_close_the_connection(of, is_open, kind, project, server):
    """As a ``with`` block does at its end. The send goes on over its own."""

    class Closing(EmailMessage):
        def message(self, *args: Any, **options: Any) -> Any:
            with project.connection:
                project.alert()
            return super().message(*args, **options)

    if is_open:
        project.connection.open()
    batch = [
        Closing(f"Mail {i}", f"mail {i}", "a@example.com", [f"m{i}@example.net"])
        for i in range(4)
    ]
    assert send(project, kind, of(batch)) == 4
    project.connection.close()
    assert_nothing_crossed(server, 4, 4)


@pytest.mark.parametrize("kind", [""])
def test_copy_that_is_made_inside_can_be_closed(kind, project, server):
    def batch() -> Iterator[EmailMessage]:
        for message in project.messages():
            with copy.copy(project.connection) as other:
                assert other.connection is not project.connection.connection
            assert other.connection is None
            yield message

    assert send(project, kind, batch()) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_generator_may_send(kind, project, server):
    def batch() -> Iterator[EmailMessage]:
        for message in project.messages():
            project.alert()
            yield message

    assert send(project, kind, batch()) == 4
    assert project.alerts == [1] * 4
    assert_nothing_crossed(server, 4, 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", [list, iter])
def test_receiver_may_send(of, kind, project, server):
    def receive(message: EmailMessage, **others: Any) -> None:
        project.alert()  # of which no receiver is told

    message_sent.connect(receive)
    try:
        assert send(project, kind, of(project.messages())) == 4
    finally:
        message_sent.disconnect(receive)
    assert project.alerts == [1] * 4
    assert_nothing_crossed(server, 4, 4)


class Handler(logging.Handler):
    """Mails what is logged."""

    def __init__(self, project: Project) -> None:
        super().__init__()
        self.project = project

    def emit(self, record: logging.LogRecord) -> None:
        self.project.alert()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [logging.WARNING, logging.DEBUG])
@pytest.mark.parametrize("of", [list, iter])
def test_log_handler_may_send(of, level, kind, project, server, caplog):
    with caplog.at_level(level, logger.name), logging_to(Handler(project)):
        assert send(project, kind, of(project.messages())) == 4
    assert set(project.alerts) == {1}
    assert len(project.alerts) >= 4
    assert_nothing_crossed(server, 4, len(project.alerts))


@pytest.mark.parametrize("kind", ["router"])
def test_router_may_send_through_a_host(kind, project, server):
    shop = project.connection = get_connection("shop")

    def router(message: EmailMessage) -> Any:
        project.alert()
        return shop

    with override_settings(EMAIL_HOSTS_ROUTER=router):
        assert RoutingBackend().send_messages(iter(project.messages())) == 4
    assert_nothing_crossed(server, 4, 4)


@pytest.mark.parametrize("kind", ["", "parallel=2", "failover"])
def test_alert_that_fails_is_ignored_as_the_connection_says(kind, project, server):
    server.script = any_of(to("alert", "550 no"), to("refused", "550 no"))
    project.connection.fail_silently = True
    with heard(message_failed) as failed:
        assert send(project, kind, project.messages("message()")) == 4
    assert project.alerts == [0] * 4
    assert failed == ["Alert"] * 4
    assert_nothing_crossed(server, 4, 0)


@pytest.mark.parametrize("kind", [""])
def test_no_record_is_logged_while_replies_are_outstanding(kind, project, server, caplog):
    """A handler sees all that a list sends, on the wire."""
    seen = []

    class Seeing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(len(server.accepted))

    with logging_to(Seeing()):
        send(project, kind, project.messages())
    assert seen == [4] * 4


class InnerError(Exception):
    """Of the project."""


@pytest.mark.parametrize("kind", KINDS)
def test_nested_send_that_raises_leaves_the_object_usable(kind, project, server):
    (message,) = project.messages("message()", 1)
    message.connection_of_alert = Raising()
    with pytest.raises(InnerError):
        send(project, kind, [message])
    assert send(project, kind, project.messages()) == 4
    assert_nothing_crossed(server, 4, 0)


class Raising(BaseEmailBackend):
    def send_messages(self, email_messages: Any) -> int:
        raise InnerError


class OfDjango(EmailBackend):
    """A backend that is not ours, and keeps a connection open."""


def test_wrapped_backend_with_a_connection(server):
    wrapped = OfDjango(host="127.0.0.1", port=server.port, timeout=20, **ALIAS)
    project = Project(HostBackend(wrapped))
    assert project.connection.send_messages(project.messages("message()")) == 4
    assert project.alerts == [1] * 4
    assert_nothing_crossed(server, 4, 4)


@pytest.mark.parametrize("kind", ["failover"])
def test_failover_made_by_hand(kind, project, server):
    project.connection = FailoverBackend("shop")
    assert send(project, kind, project.messages("message()")) == 4
    assert_nothing_crossed(server, 4, 4)


@pytest.mark.parametrize("fail_silently", [False, True])
@pytest.mark.parametrize("with_block", [False, True])
def test_folder(with_block, fail_silently, tmp_path, settings):
    """Its backend keeps a file open, which a copy of it shares."""

    class Sending(EmailMessage):
        def message(self, *args: Any, **options: Any) -> Any:
            with connection if with_block else nullcontext():
                assert connection.send_messages(
                    [EmailMessage("Alert", "", to=["a@x.example"])]
                )
            return super().message(*args, **options)

    settings.EMAIL_HOSTS = {"disk": f"file:{tmp_path}"}
    connection = get_connection("disk", fail_silently=fail_silently)
    batch = [Sending(f"Mail {i}", "", to=["b@x.example"]) for i in range(3)]
    assert connection.send_messages(batch) == 3
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    subjects = re.findall("^Subject: (.*)", written, re.MULTILINE)
    assert sorted(subjects) == ["Alert"] * 3 + ["Mail 0", "Mail 1", "Mail 2"]
