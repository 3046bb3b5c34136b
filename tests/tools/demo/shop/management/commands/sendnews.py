"""A command that sends the news of the club, through the host that it is given."""

from typing import Any

from django.core.mail import EmailMessage
from django.core.management.base import BaseCommand, CommandParser

from email_hosts.backends import get_connection


class Command(BaseCommand):
    """Sends the club's news to its members."""

    help = "Sends the news to the members of the club."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the host."""
        parser.add_argument("host", metavar="HOST")

    def handle(self, *args: Any, host: str, **options: Any) -> None:
        """Send one message to each member, over one connection."""
        members = ["ann@example.net", "bob@example.net"]
        messages = [EmailMessage("Club news", "We won!", to=[member]) for member in members]
        get_connection(host).send_messages(messages)
