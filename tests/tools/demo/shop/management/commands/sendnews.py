"""A command that sends the news of the club, through the host that it is given."""

from django.core.mail import EmailMessage
from django.core.management.base import BaseCommand

from email_hosts.backends import get_connection


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("host", metavar="HOST")

    def handle(self, *args, host, **options):
        """Send one message to each member, over one connection."""
        members = ["ann@example.net", "bob@example.net"]
        messages = [EmailMessage("Club news", "We won!", to=[member]) for member in members]
        get_connection(host).send_messages(messages)
