"""Sends inside sends, over the same object: nothing crosses, and nothing is lost."""

import copy
import logging
import re
from contextlib import contextmanager, nullcontext
from email import message_from_bytes
from typing import Any
from unittest import mock

import pytest
from conftest import told
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from django.test import override_settings
from scripted import any_of, to

from email_hosts.backends import FailoverBackend, HostBackend, RoutingBackend, get_connection
from email_hosts.conf import DJANGO_HAS_MAILERS
from email_hosts.log import logger
from email_hosts.signals import message_sent
from email_hosts.testing import real_hosts

# A deadlock ends the run, with a traceback of each thread.
pytestmark = pytest.mark.usefixtures("limit")

ALIAS: Any = {"alias": ""} if DJANGO_HAS_MAILERS else {}


class Nested(EmailMessage):
    """Does something once, at one of the moments when code of a project runs."""

    action: Any = None
    moment = ""

    def reach(self, moment: str) -> None:
        if moment == self.moment:
            self.moment = ""  # a message is made more than once
            self.action()

    def message(self, *args: Any, **options: Any) -> Any:
        self.reach("message()")
        return super().message(*args, **options)

    def recipients(self) -> list[str]:
        self.reach("recipients()")
        return super().recipients()

    @property
    def attachments(self) -> list[Any]:
        self.reach("attachments")
        return []

    @attachments.setter
    def attachments(self, value: Any) -> None:
        pass


class Project:
    """Sends a list over a connection, and alerts while that is under way.

    A router may send the list over the very connection that alerts use.
    """

    def __init__(self, connection: Any, *, is_routed: bool = False) -> None:
        self.connection = connection
        self.is_routed = is_routed
        self.alerts: list[int] = []

    def messages(self, moment: str = "", action: Any = None) -> list[Any]:
        batch: list[Any] = []
        for i in range(4):
            to = [f"m{i}@example.net", f"refused{i}@example.net"]
            batch.append(Nested(f"Mail {i}", f"mail {i}", "a@example.com", to))
            batch[-1].moment, batch[-1].action = moment, action or self.alert
        return batch

    def alert(self, **of_a_signal: Any) -> None:
        alert = EmailMessage("Alert", "alert", "a@example.com", ["alert@example.net"])
        self.alerts.append(self.connection.send_messages([alert]))

    def alert_and_close(self) -> None:
        with self.connection:
            self.alert()

    def send(self, batch: Any) -> Any:
        if not self.is_routed:
            return self.connection.send_messages(batch)
        with override_settings(EMAIL_HOSTS_ROUTER=lambda message: self.connection):
            return RoutingBackend().send_messages(batch)


@pytest.fixture
def server(serve):
    """Refuses one recipient of each message: a reason for a record in the log."""
    return serve(to("refused", "550 no"))


QUERIES = ["", "parallel=2", "conn_max_age=60"]
KINDS: dict[str, Any] = {
    **dict.fromkeys(QUERIES, lambda: get_connection("shop")),
    "failover": lambda: get_connection("default"),
    "failover by hand": lambda: FailoverBackend("shop"),
    "router": RoutingBackend,
    "wrapped": lambda: HostBackend(get_connection("shop"), reply_to="r@example.com"),
    "tenant": lambda: get_connection("shop"),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


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
        yield Project(KINDS[kind](), is_routed=kind == "tenant")


def only(*kinds):
    """Where the kind makes no difference."""
    return pytest.mark.parametrize("kind", kinds)


list_or_iterator = pytest.mark.parametrize("of", [list, iter])


def assert_nothing_crossed(server: Any, alerts: int) -> None:
    """Each message came once, to its own recipients, with its own body."""
    got = []
    for one in server.accepted:
        content = message_from_bytes(one.content)
        got.append((str(content["Subject"]), str(content.get_payload()).strip()))
        number = got[-1][0].removeprefix("Mail ")
        expected = "alert" if number == "Alert" else f"m{number}"
        assert one.recipients == (f"{expected}@example.net",)
    expected_mails = [(f"Mail {i}", f"mail {i}") for i in range(4)]
    assert sorted(got) == [("Alert", "alert")] * alerts + expected_mails


@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("moment", ["message()", "recipients()", "attachments"])
def test_message_may_send_while_it_is_made(moment, is_open, project, server):
    if is_open:
        project.connection.open()
    with told() as heard:
        assert project.send(project.messages(moment)) == 4
    project.connection.close()
    assert project.alerts == [1] * 4
    assert_nothing_crossed(server, 4)
    subjects = ["Alert"] * 4 + [f"Mail {i}" for i in range(4)]
    assert sorted(heard) == [(subject, None) for subject in subjects]


@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
@list_or_iterator
def test_message_may_close_the_connection(of, is_open, project, server):
    """As a ``with`` block does at its end. The send goes on over its own."""
    if is_open:
        project.connection.open()
    assert project.send(of(project.messages("message()", project.alert_and_close))) == 4
    project.connection.close()
    assert_nothing_crossed(server, 4)


@only("")
def test_copy_that_is_made_inside_can_be_closed(project):
    def look():
        with copy.copy(project.connection) as other:
            assert other.connection is not project.connection.connection
        assert other.connection is None

    assert project.send(iter(project.messages("message()", look))) == 4


def test_generator_may_send(project, server):
    def batch():
        for message in project.messages():
            project.alert()
            yield message

    assert project.send(batch()) == 4
    assert project.alerts == [1] * 4
    assert_nothing_crossed(server, 4)


@list_or_iterator
def test_receiver_may_send(of, project, server):
    """No receiver is told of what it sends."""
    message_sent.connect(project.alert)
    try:
        assert project.send(of(project.messages())) == 4
    finally:
        message_sent.disconnect(project.alert)
    assert project.alerts == [1] * 4
    assert_nothing_crossed(server, 4)


@contextmanager
def records_call(function: Any):
    """Call a function for each record of the log."""
    handler: Any = logging.Handler()
    handler.emit = function
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("level", [logging.WARNING, logging.DEBUG])
@list_or_iterator
def test_log_handler_may_send(of, level, project, server, caplog):
    with caplog.at_level(level, logger.name), records_call(lambda record: project.alert()):
        assert project.send(of(project.messages())) == 4
    assert set(project.alerts) == {1}
    assert len(project.alerts) >= 4
    assert_nothing_crossed(server, len(project.alerts))


@only("")
def test_no_record_is_logged_while_replies_are_outstanding(project, server):
    """A handler sees all that a list sends, on the wire."""
    seen = []
    with records_call(lambda record: seen.append(len(server.accepted))):
        project.send(project.messages())
    assert seen == [4] * 4


@only("router")
def test_router_may_send_through_a_host(project, server):
    shop = project.connection = get_connection("shop")

    def router(message: EmailMessage) -> Any:
        project.alert()
        return shop

    with override_settings(EMAIL_HOSTS_ROUTER=router):
        assert RoutingBackend().send_messages(iter(project.messages())) == 4
    assert_nothing_crossed(server, 4)


@only("", "parallel=2", "failover")
def test_alert_that_fails_is_ignored_as_the_connection_says(project, server):
    server.script = any_of(to("alert", "550 no"), to("refused", "550 no"))
    project.connection.fail_silently = True
    with told() as heard:
        assert project.send(project.messages("message()")) == 4
    assert project.alerts == [0] * 4
    assert [subject for subject, error in heard if error] == ["Alert"] * 4
    assert_nothing_crossed(server, 0)


class InnerError(Exception):
    """Of the project."""


def test_nested_send_that_raises_leaves_the_object_usable(project, server):
    failing = project.messages("message()", mock.Mock(side_effect=InnerError))
    with pytest.raises(InnerError):
        project.send(failing[:1])
    assert project.send(project.messages()) == 4
    assert_nothing_crossed(server, 0)


class OfDjango(EmailBackend):
    """A backend that is not ours, and keeps a connection open."""


def test_wrapped_backend_with_a_connection(server):
    wrapped = OfDjango(host="127.0.0.1", port=server.port, timeout=20, **ALIAS)
    project = Project(HostBackend(wrapped))
    assert project.send(project.messages("message()")) == 4
    assert project.alerts == [1] * 4
    assert_nothing_crossed(server, 4)


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
