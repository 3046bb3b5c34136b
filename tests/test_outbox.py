"""What a host would send is in ``mail.outbox`` while tests run."""

from typing import Any

import pytest
from django.conf import settings
from django.core.mail import EmailMessage

from email_hosts.backends import RoutingBackend, connection_from_dsn, get_connection


def test_message_is_there_with_the_hosts_sender_and_key(message, mailoutbox):
    elsewhere = connection_from_dsn("smtp://h?_default_from_email=a@example.com")
    for connection in (get_connection("shop"), get_connection("club"), elsewhere):
        assert connection.send_messages([message, message]) == 2
    assert [(sent.from_email, sent.sent_using) for sent in mailoutbox[::2]] == [
        ("shop@example.com", "shop"),
        ("club@example.org", "club"),
        ("a@example.com", None),
    ]


@pytest.mark.parametrize("dsn", ["smtp://h", "smtp://h?_default_from_email=a@example.com"])
def test_callers_message_is_not_touched(dsn, message, mailoutbox):
    before = dict(vars(message))
    assert connection_from_dsn(dsn).send_messages([message]) == 1
    assert vars(message) == before


@pytest.mark.filterwarnings("ignore:The 'connection' argument is deprecated")
def test_message_may_hold_its_connection(mailoutbox):
    EmailMessage("Hello", to=["a@example.net"], connection=get_connection("shop")).send()
    assert mailoutbox[0].sent_using == "shop"


DSN = (
    "smtp://h?_default_from_email=shop@example.com&_reply_to=help@example.com"
    "&_envelope_from=bounces@example.com&_header-X-Shop=news"
    "&_redirect_to=qa@example.com&_allowed_recipients=example.org"
)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("shop", {"X-Shop": "news"}),
        ("all", {"X-Shop": "news"}),
        ("more", {"x-shop": "more", "X-More": "1"}),
        ("router", {"x-shop": "more", "X-More": "1"}),  # it has the sender of its first
    ],
)
def test_what_a_host_adds_is_there_and_its_recipients_are_the_messages(
    key, expected, message, monkeypatch, mailoutbox
):
    """As they would be in production: that is what a test asks about."""
    hosts = {
        "shop": DSN,
        "all": "failover:shop",
        "more": "roundrobin:all?_header-x-shop=more&_header-X-More=1",
        "default": DSN,
    }
    monkeypatch.setattr(settings, "EMAIL_HOSTS", hosts)
    connection: Any = RoutingBackend() if key == "router" else get_connection(key)
    assert connection.send_messages([message]) == 1
    (sent,) = mailoutbox
    assert sent.recipients() == sent.to == ["someone@example.net"]
    assert (sent.from_email, sent.reply_to) == ("shop@example.com", ["help@example.com"])
    assert sent.envelope_sender == "bounces@example.com"
    assert sent.extra_headers == expected


def test_what_a_host_does_is_there_to_look_at(monkeypatch):
    monkeypatch.setattr(settings, "EMAIL_HOSTS", {"shop": DSN})
    connection: Any = get_connection("shop", reply_to="me@example.com", timeout=5)
    assert (connection.host, connection.timeout) == ("h", 5)
    assert (connection.reply_to, connection.headers) == ("me@example.com", {"X-Shop": "news"})
    assert connection.redirect_to == "qa@example.com"
    assert connection.allowed_recipients == ["example.org"]
