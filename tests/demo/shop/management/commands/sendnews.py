"""A command that sends news, through the host of the club."""

from typing import Any

from django.core.mail import EmailMessage
from django.core.management.base import BaseCommand

from email_hosts.backends import get_connection


class Command(BaseCommand):
    """Sends the club's news to its members."""

    help = "Sends the news to the members of the club."

    def handle(self, *args: Any, **options: Any) -> None:
        """Send one message to each member, over one connection."""
        members = ["ann@example.net", "bob@example.net"]
        messages = [EmailMessage("Club news", "We won!", to=[member]) for member in members]
        get_connection("club").send_messages(messages)
