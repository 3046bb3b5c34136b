"""Sends inside sends, over the same object: nothing crosses, and nothing is lost."""

import copy
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
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

    def alert(self, *record: Any, **of_a_signal: Any) -> None:
        alert = EmailMessage("Alert", "alert", "a@example.com", ["alert@example.net"])
        self.alerts.append(self.connection.send_messages([alert]))

    def alert_and_close(self) -> None:
        with self.connection:
            self.alert()

    def yielding(self) -> Iterator[Any]:
        for message in self.messages():
            self.alert()
            yield message

    def send(self, batch: Any) -> Any:
        if not self.is_routed:
            return self.connection.send_messages(batch)
        with override_settings(EMAIL_HOSTS_ROUTER=lambda message: self.connection):
            return RoutingBackend().send_messages(batch)

    @contextmanager
    def alerts_at(self, moment: str) -> Iterator[Any]:
        """Let it alert at a moment. Yields the messages to send."""
        handler: Any = logging.Handler()
        handler.emit = self.alert
        if moment == "receiver":
            message_sent.connect(self.alert)
        elif moment == "log handler":
            logger.addHandler(handler)
        if moment == "generator":
            yield self.yielding()
        elif moment == "message() that closes":
            yield self.messages("message()", self.alert_and_close)
        else:
            yield self.messages(moment)
        message_sent.disconnect(self.alert)
        logger.removeHandler(handler)


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


MOMENTS = ["message()", "message() that closes", "recipients()", "attachments", "generator"]
MOMENTS += ["receiver", "log handler"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("of", "is_open"), [(list, False), (list, True), (iter, True)])
def test_project_may_send_at_any_moment(of, is_open, moment, project, server, caplog):
    """Even if it closes the connection then. No receiver is told of what it sends itself."""
    caplog.set_level(logging.DEBUG, logger.name)
    if is_open:
        project.connection.open()
    with told() as heard, project.alerts_at(moment) as batch:
        assert project.send(of(batch)) == 4
    alerts = len(project.alerts)
    assert project.alerts == [1] * alerts
    assert alerts >= 4 if moment == "log handler" else alerts == 4
    assert_nothing_crossed(server, alerts)
    alerts_heard = 0 if moment == "receiver" else alerts
    subjects = ["Alert"] * alerts_heard + [f"Mail {i}" for i in range(4)]
    assert sorted(heard) == [(subject, None) for subject in subjects]
    project.connection.close()


@only("")
def test_copy_that_is_made_inside_can_be_closed(project):
    def look():
        with copy.copy(project.connection) as other:
            assert other.connection is not project.connection.connection
        assert other.connection is None

    assert project.send(iter(project.messages("message()", look))) == 4


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


def test_nested_send_that_raises_leaves_the_object_usable(project, server):
    failing = project.messages("message()", mock.Mock(side_effect=LookupError))
    with pytest.raises(LookupError):
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
@pytest.mark.parametrize("action", ["alert", "alert_and_close"])
def test_folder(action, fail_silently, tmp_path, settings):
    """Its backend keeps a file open, which a copy of it shares."""
    settings.EMAIL_HOSTS = {"disk": f"file:{tmp_path}"}
    project = Project(get_connection("disk", fail_silently=fail_silently))
    assert project.send(project.messages("message()", getattr(project, action))) == 4
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    subjects = re.findall("^Subject: (.*)", written, re.MULTILINE)
    assert sorted(subjects) == ["Alert"] * 4 + [f"Mail {i}" for i in range(4)]
