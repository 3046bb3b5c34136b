"""What the tests of a user look like who sends with ``using=`` (Django 6.1)."""

from django.core import mail

from .mail_tests import HELLO, OutboxTestCase


class UsingTest(OutboxTestCase):
    """Mail for a mailer is sent as by its host."""

    def assert_sent_by(self, using: str, from_email: str, sent_using: str) -> None:
        mail.EmailMessage(*HELLO).send(using=using)
        self.assert_sent(from_email, sent_using)

    def test_host(self) -> None:
        self.assert_sent_by("shop", "shop@example.com", "shop")
        self.assert_sent_by("hand", "hand@example.com", "hand")


class OtherTest(UsingTest):
    """Of another class, so that another process may run it."""

    def test_others(self) -> None:
        self.assert_sent_by("safe", "shop@example.com", "safe")
        self.assert_sent_by("routed", "shop@example.com", "shop")
        self.assert_sent_by("default", "project@example.com", "default")
