"""No host is on the way to itself; but a message may be the reason for another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import NewMessage
from django.core.mail import EmailMessage
from django.core.mail.backends import locmem
from django.test import override_settings

from email_hosts.backends import get_connection
from email_hosts.exceptions import InvalidEmailHost

ROUTER = "backend://email_hosts.backends.RoutingBackend"


@pytest.mark.parametrize(
    ("hosts", "way"),
    [
        ({"all": "failover:all"}, 'host "all" -> host "all"'),
        (
            {"all": "failover:a", "a": "failover:b", "b": "roundrobin:all"},
            'host "all" -> host "a" -> host "b" -> host "all"',
        ),
        ({"all": ROUTER, "default": ROUTER}, "the router -> the router"),
        (
            {"all": "failover:router", "router": ROUTER, "default": "failover:all"},
            'host "all" -> the router -> host "default" -> host "all"',
        ),
    ],
)
def test_circle_is_refused(hosts: dict[str, str], way: str, message: EmailMessage) -> None:
    with (
        override_settings(EMAIL_HOSTS=hosts),
        pytest.raises(InvalidEmailHost, match=f"in a circle: {way}$"),
    ):
        get_connection("all").send_messages([message])


@pytest.mark.parametrize("dsn", ["failover:all", ROUTER])
def test_circle_is_passed_over_like_any_other_error(
    dsn: str, message: EmailMessage, caplog: pytest.LogCaptureFixture
) -> None:
    with override_settings(EMAIL_HOSTS={"all": dsn, "default": "failover:all"}):
        connection = get_connection("all", fail_silently=True)
        assert connection.send_messages([message]) == 0
    assert "in a circle" in caplog.text


@pytest.mark.parametrize("dsn", ["failover:shop", ROUTER])
def test_message_may_be_sent_while_a_batch_is_made(
    dsn: str, new_message: NewMessage, mailoutbox: list[EmailMessage]
) -> None:
    def batch() -> Iterator[EmailMessage]:
        for subject in ("one", "two"):
            get_connection("all").send_messages([new_message(subject="meanwhile")])
            yield new_message(subject=subject)

    with override_settings(EMAIL_HOSTS={"shop": "locmem:", "default": "locmem:", "all": dsn}):
        connection: Any = get_connection("all")
        assert connection.send_messages(batch()) == 2
    subjects = [sent.subject for sent in mailoutbox]
    assert sorted(subjects) == ["meanwhile", "meanwhile", "one", "two"]


class Reporting(locmem.EmailBackend):
    """Sends a message through a host when it is opened, as a signal handler may do then."""

    def open(self) -> bool:
        if not self.is_open:
            type(self).is_open = True
            get_connection("all").send_messages([EmailMessage("Report", to=["a@example.net"])])
        return True

    is_open = False


def test_message_may_be_sent_while_a_host_is_opened(
    message: EmailMessage, mailoutbox: list[EmailMessage]
) -> None:
    hosts = {"h": f"backend://{__name__}.Reporting", "all": "failover:h"}
    with override_settings(EMAIL_HOSTS=hosts):
        assert get_connection("all").send_messages([message]) == 1
    assert [sent.subject for sent in mailoutbox] == ["Report", "Hello"]


class Copying(locmem.EmailBackend):
    """Delivers to the outbox, and sends a copy through a host, as a receiver may do."""

    def send_messages(self, email_messages: Any) -> int:
        sent = super().send_messages(email_messages)
        if all(message.subject != "Copy" for message in email_messages):
            copy = EmailMessage("Copy", "", "a@example.com", ["copy@example.net"])
            sent += get_connection("all").send_messages([copy])
        return sent


@pytest.mark.parametrize("all_of_them", ["failover:h", "failover:inner", ROUTER])
def test_mail_that_a_host_sends_by_itself_makes_no_circle(
    all_of_them: str, new_message: NewMessage, mailoutbox: list[EmailMessage]
) -> None:
    hosts = {"h": f"backend://{__name__}.Copying", "inner": "failover:h", "all": all_of_them}
    with override_settings(EMAIL_HOSTS=hosts, EMAIL_HOSTS_ROUTER=lambda message: "h"):
        get_connection("all").send_messages([new_message()])
    assert [sent.subject for sent in mailoutbox] == ["Hello", "Copy"]
