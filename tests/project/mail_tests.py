"""What a user's tests look like. Nothing is overridden, nothing is mocked."""

from typing import Any

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
            with self.subTest(from_email):
                get_connection(key).send_messages([mail.EmailMessage(*message)])
                self.assert_sent(from_email, key)

    def test_dsn_from_elsewhere(self) -> None:
        connection_from_dsn("smtp://h").send_messages([mail.EmailMessage(*HELLO)])
        self.assert_sent("project@example.com", None)


class CommandTest(OutboxTestCase):
    """Of another class, so that another process may run it."""

    def test_commands(self) -> None:
        call_command("checkemailhosts", connect=True)
        call_command("sendtestemailhosts", "shop", "someone@example.net")
        self.assert_sent("shop@example.com", "shop")
