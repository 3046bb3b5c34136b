"""What a host would send is in ``mail.outbox`` while tests run."""

from typing import Any

import pytest
from django.core.mail import EmailMessage

from email_hosts.backends import connection_from_dsn, get_connection


def test_message_is_there_with_the_hosts_sender_and_key(message, mailoutbox):
    elsewhere = connection_from_dsn("smtp://h?_default_from_email=a@example.com")
    for connection in (get_connection("shop"), get_connection("club"), elsewhere):
        assert connection.send_messages([message, message]) == 2
    assert [(sent.from_email, sent.sent_using) for sent in mailoutbox[::2]] == [
        ("shop@example.com", "shop"),
        ("club@example.org", "club"),
        ("a@example.com", None),
    ]


def test_callers_message_is_not_touched(message):
    before = dict(vars(message))
    get_connection("shop").send_messages([message])
    assert vars(message) == before


@pytest.mark.filterwarnings("ignore:The 'connection' argument is deprecated")
def test_message_may_hold_its_connection(mailoutbox):
    EmailMessage("Hello", to=["a@example.net"], connection=get_connection("shop")).send()
    assert mailoutbox[0].sent_using == "shop"


def test_options_of_the_host_are_there_to_look_at():
    connection: Any = get_connection("shop", timeout=5)
    assert (connection.host, connection.use_tls) == ("smtp.example.com", True)
    assert connection.timeout == 5
