"""Sends inside sends, over the same object: nothing crosses, and nothing is lost."""

from email import message_from_bytes
from typing import Any

import pytest
from conftest import logging_to, told
from django.core.mail import EmailMessage
from scripted import to

from email_hosts.backends import FailoverBackend, HostBackend, RoutingBackend, get_connection
from email_hosts.signals import message_sent
from email_hosts.testing import real_hosts

# A deadlock ends the run, with a traceback of each thread.
pytestmark = pytest.mark.usefixtures("limit")


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


KINDS: dict[str, Any] = {
    **dict.fromkeys(["", "parallel=2", "conn_max_age=60"], lambda: get_connection("shop")),
    "failover": lambda: get_connection("all"),
    "failover by hand": lambda: FailoverBackend("shop"),
    "router": RoutingBackend,
    "wrapped": lambda: HostBackend(get_connection("shop"), reply_to="r@example.com"),
    "tenant": lambda: get_connection("shop"),  # a router sends the list over the connection
}


class Project:
    """Sends a list over a connection, and alerts over the same while that is under way."""

    def __init__(self, connection: Any, *, is_routed: bool = False) -> None:
        self.connection = connection
        self.sends = RoutingBackend() if is_routed else connection
        self.alerts: list[int] = []

    def alert(self, *record: Any, **of_a_signal: Any) -> None:
        alert = EmailMessage("Alert", "alert", "a@example.com", ["alert@example.net"])
        self.alerts.append(self.connection.send_messages([alert]))

    def alert_and_close(self) -> None:
        with self.connection:
            self.alert()

    def send(self, of: Any, moment: str = "message()", action: Any = None) -> Any:
        """Send four messages, and alert at a moment."""
        batch: list[Any] = []
        for i in range(4):
            to = [f"m{i}@example.net", f"refused{i}@example.net"]
            batch.append(Nested(f"Mail {i}", f"mail {i}", "a@example.com", to))
            batch[-1].moment, batch[-1].action = moment, action or self.alert
        if moment == "receiver":
            message_sent.connect(self.alert)
        listen = self.alert if moment == "log handler" else id
        try:
            with logging_to("email_hosts", listen):
                return self.sends.send_messages(of(batch))
        finally:
            message_sent.disconnect(self.alert)


@pytest.fixture
def server(serve):
    """Refuses one recipient of each message: a reason for a record in the log."""
    return serve(to("refused", "550 no"))


@pytest.fixture(params=KINDS)
def project(request, server, settings):
    kind = request.param
    query = kind if "=" in kind else ""
    settings.EMAIL_HOSTS = {
        "shop": f"smtp://127.0.0.1:{server.port}?timeout=20&{query}",
        "inner": "failover:shop",
        "all": "failover:inner",
        "default": "failover:all",
    }
    project = Project(KINDS[kind](), is_routed=kind == "tenant")
    if kind == "tenant":
        settings.EMAIL_HOSTS_ROUTER = lambda message: project.connection
    with real_hosts():
        yield project


def assert_nothing_crossed(server: Any, alerts: int) -> None:
    """Each message came once, to its own recipients, with its own body."""
    got = []
    for one in server.accepted:
        content = message_from_bytes(one.content)
        got.append((str(content["Subject"]), str(content.get_payload()).strip()))
        name = got[-1][1].replace("mail ", "m")
        assert one.recipients == (f"{name}@example.net",)
    mails = [(f"Mail {i}", f"mail {i}") for i in range(4)]
    assert sorted(got) == [("Alert", "alert")] * alerts + mails


@pytest.mark.parametrize("moment", ["message()", "recipients()", "receiver", "log handler"])
@pytest.mark.parametrize(("of", "is_open"), [(list, False), (list, True), (iter, True)])
def test_project_may_send_at_any_moment(of, is_open, moment, project, server, caplog):
    """No receiver is told of what it sends itself."""
    caplog.set_level("DEBUG", "email_hosts")
    if is_open:
        project.connection.open()
    with told() as heard:
        assert project.send(of, moment) == 4
    alerts = len(project.alerts)
    assert project.alerts == [1] * alerts
    assert alerts >= 4 if moment == "log handler" else alerts == 4
    assert_nothing_crossed(server, alerts)
    alerts_heard = 0 if moment == "receiver" else alerts
    subjects = ["Alert"] * alerts_heard + [f"Mail {i}" for i in range(4)]
    assert sorted(heard) == [(subject, None) for subject in subjects]
    project.connection.close()


@pytest.mark.parametrize("of", [list, iter])
def test_project_may_close_the_connection_then(of, project, server):
    assert project.send(of, action=project.alert_and_close) == 4
    assert_nothing_crossed(server, 4)


def test_generator_may_send(project, server):
    def alerting(batch):
        for message in batch:
            project.alert()
            yield message

    assert project.send(alerting, "") == 4
    assert_nothing_crossed(server, 4)


@pytest.mark.parametrize("project", ["router"], indirect=True)
def test_router_may_send_through_a_host(project, server, settings):
    shop = project.connection = get_connection("shop")

    def router(message: EmailMessage) -> Any:
        project.alert()
        return shop

    settings.EMAIL_HOSTS_ROUTER = router
    assert project.send(iter, "") == 4
    assert_nothing_crossed(server, 4)
