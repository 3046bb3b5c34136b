"""What a user's tests look like who sends with ``using=`` (Django 6.1)."""

from typing import Any

from django.core import mail
from django.test import SimpleTestCase


class UsingTest(SimpleTestCase):
    """Mail for a mailer is sent as by its host."""

    def assert_sent(self, using: str, from_email: str, sent_using: str) -> None:
        mail.EmailMessage("Hello", "World", to=["someone@example.net"]).send(using=using)
        message: Any
        (message,) = mail.outbox
        self.assertEqual((message.from_email, message.sent_using), (from_email, sent_using))

    def test_host(self) -> None:
        self.assert_sent("shop", "shop@example.com", "shop")


class OtherTest(UsingTest):
    """Of another class, so that another process may run it."""

    def test_by_hand(self) -> None:
        self.assert_sent("hand", "hand@example.com", "hand")

    def test_several_hosts(self) -> None:
        self.assert_sent("safe", "shop@example.com", "safe")

    def test_router(self) -> None:
        self.assert_sent("routed", "shop@example.com", "shop")

    def test_other_backend(self) -> None:
        self.assert_sent("default", "project@example.com", "default")
