"""No host is on the way to itself; but a message may be the reason for another."""

from __future__ import annotations

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
