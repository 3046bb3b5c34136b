"""``manage.py sendtestemailhosts HOST EMAIL [EMAIL...]``"""

from __future__ import annotations

from typing import Any

from django.core.mail import EmailMessage
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from ... import hosts
from ...exceptions import InvalidEmailHost
from ..failure import FAILURES, no_such_host, reason, refusals


class Command(BaseCommand):
    """Sends a test message through one host."""

    help = "Sends a test message through one of the hosts in EMAIL_HOSTS."
    requires_system_checks = ()  # another host's mistake need not stop this one's test
    missing_args_message = "Give a host and at least one email address."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the host and the recipients."""
        parser.add_argument("host", help="Key of a host in EMAIL_HOSTS.")
        parser.add_argument("email", nargs="+", help="Who is to get the message.")

    def handle(self, *, host: str, email: list[str], **options: Any) -> None:
        """Send the message, or raise ``CommandError`` with the reason."""
        try:
            known = hosts.known_keys()
            if host not in known:
                raise no_such_host(host, known)
            connection = hosts.get_connection(host)
        except InvalidEmailHost as error:
            raise CommandError(str(error)) from None
        message = EmailMessage(
            subject=f"Test message through {host}",
            body=f'If you read this, the host "{host}" delivers mail.\n\n{timezone.now()}',
            to=email,
        )
        try:
            sent = connection.send_messages([message])
        except FAILURES as error:
            raise CommandError(f"{host}: not sent: {reason(error)}") from None
        if not sent:
            raise CommandError(f"{host}: not sent: the backend took no message")
        refused = getattr(connection, "refused_recipients", {})
        accepted = ", ".join(address for address in email if address not in refused)
        self.stdout.write(
            self.style.SUCCESS(f"Sent a test message through {host} to {accepted}.")
        )
        if refused:
            raise CommandError(f"{host}: refused {', '.join(refused)}: {refusals(refused)}")
