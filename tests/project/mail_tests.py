"""What a user's tests look like."""

from typing import Any

from django.core import mail
from django.core.management import call_command
from django.test import SimpleTestCase

from email_hosts.backends import connection_from_dsn, get_connection


class OutboxTestCase(SimpleTestCase):
    """Nothing is overridden, nothing is mocked."""

    def assert_sent(self, from_email: str, sent_using: str | None) -> None:
        message: Any
        (message,) = mail.outbox
        self.assertEqual((message.from_email, message.sent_using), (from_email, sent_using))


class MailTest(OutboxTestCase):
    """Mail of a project."""

    def test_view(self) -> None:
        self.assertEqual(self.client.get("/welcome/shop/").content, b"1")
        self.assert_sent("shop@example.com", "shop")

    def test_host_without_a_default_sender(self) -> None:
        self.client.get("/welcome/club/")
        self.assert_sent("project@example.com", "club")

    def test_host_that_is_a_folder(self) -> None:
        self.client.get("/welcome/folder/")
        self.assert_sent("folder@example.com", "folder")

    def test_alert(self) -> None:
        alert = mail.EmailMessage("Alert", "!", "root@localhost", ["admin@example.com"])
        get_connection("club").send_messages([alert])
        self.assert_sent("alert@example.org", "club")

    def test_dsn_from_elsewhere(self) -> None:
        message = mail.EmailMessage("Hello", "World", to=["someone@example.net"])
        connection_from_dsn("smtp://smtp.example.net").send_messages([message])
        self.assert_sent("project@example.com", None)


class CommandTest(OutboxTestCase):
    """Of another class, so that another process may run it."""

    def test_commands(self) -> None:
        call_command("checkemailhosts", connect=True)
        call_command("sendtestemailhosts", "shop", "someone@example.net")
        self.assert_sent("shop@example.com", "shop")
