"""What a user's tests look like. Nothing is overridden, nothing is mocked."""

from typing import Any
from unittest import skipUnless

from django.conf import settings
from django.core import mail
from django.core.management import call_command
from django.test import SimpleTestCase

from email_hosts.backends import connection_from_dsn, get_connection

HELLO = ("Hello", "World", None, ["someone@example.net"])
ALERT = ("Alert", "!", "root@localhost", ["admin@example.com"])


class OutboxTestCase(SimpleTestCase):
    def assert_sent(self, from_email: str, sent_using: str | None) -> None:
        message: Any
        (message,) = mail.outbox
        self.assertEqual((message.from_email, message.sent_using), (from_email, sent_using))
        mail.outbox.clear()


class MailTest(OutboxTestCase):
    def test_hosts(self) -> None:
        for key, message, from_email in (
            ("shop", HELLO, "shop@example.com"),
            ("club", HELLO, "project@example.com"),
            ("club", ALERT, "alert@example.org"),
            ("folder", HELLO, "folder@example.com"),
        ):
            get_connection(key).send_messages([mail.EmailMessage(*message)])
            self.assert_sent(from_email, key)

    def test_dsn_from_elsewhere(self) -> None:
        connection_from_dsn("smtp://h").send_messages([mail.EmailMessage(*HELLO)])
        self.assert_sent("project@example.com", None)

    def test_commands(self) -> None:
        call_command("checkemailhosts", connect=True)
        call_command("sendtestemailhosts", "shop", "someone@example.net")
        self.assert_sent("shop@example.com", "shop")


@skipUnless("hand" in getattr(settings, "MAILERS", {}), "new in Django 6.1")
class UsingTest(OutboxTestCase):  # pragma: mailers-only
    """Mail for a mailer is sent as by its host. Another process may run it."""

    def test_using(self) -> None:
        for using, from_email, sent_using in (
            ("shop", "shop@example.com", "shop"),
            ("hand", "hand@example.com", "hand"),
            ("safe", "shop@example.com", "safe"),
            ("routed", "shop@example.com", "shop"),
            ("default", "project@example.com", "default"),
        ):
            mail.EmailMessage(*HELLO).send(using=using)
            self.assert_sent(from_email, sent_using)
