"""``manage.py sendtestemailhosts HOST[,HOST...] EMAIL [EMAIL...]``"""

from __future__ import annotations

from email.utils import parseaddr
from typing import Any

from django.core.mail import EmailMessage
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from ... import hosts
from ...addresses import email_address
from ...boundary import boundary
from ...exceptions import shown
from ...registry import registry
from ...signals import message_sent
from ..concurrently import concurrently
from ..explain_errors import explain, explain_refusals


class Command(BaseCommand):
    """Sends a test message through one host, or through several."""

    help = (
        "Sends a test message through a host in EMAIL_HOSTS or MAILERS, from the host's own "
        "sender, and shows which recipients the server accepted."
    )
    requires_system_checks = ()  # a mistake in another host does not stop this test
    missing_args_message = "Give a host and at least one email address."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the host and the recipients."""
        help_of_host = "Key of the host, or the keys of several: shop,club"
        parser.add_argument("host", metavar="HOST", help=help_of_host)
        help_of_email = "Recipient of the message."
        parser.add_argument("email", nargs="+", metavar="EMAIL", help=help_of_email)

    @boundary
    def handle(self, *, host: str, email: list[str], **options: Any) -> None:
        """Send a message through each host. Raises ``CommandError`` if one failed."""
        for each in email:
            try:
                email_address(each)
            except ValueError as error:
                raise CommandError(f"Recipient '{shown(each)}' {error}.") from None
        keys = [key.strip() for key in host.split(",")]
        is_watched = self.stdout.isatty()
        failed = {}
        for key, (accepted, problem) in concurrently(
            lambda key: _send(key, email), keys, as_they_finish=is_watched
        ):
            if accepted:
                done = f"Sent a test message through {shown(key)} to {', '.join(accepted)}"
                as_asked = {*accepted} <= {*map(_address, email)}
                done += "." if as_asked else ", because the host redirects mail."
                self.stdout.write(self.style.SUCCESS(done))
                if kind := _goes_nowhere(key):
                    hint = f"{shown(key)} is a {kind} host, so nobody gets it."
                    self.stdout.write(self.style.WARNING(hint))
            if problem:
                failed[shown(key)] = problem
                if len(keys) > 1:
                    self.stdout.write(self.style.ERROR(problem))
        if failed:
            summary = f"{len(failed)} of {len(keys)} failed: {', '.join(failed)}"
            raise CommandError(summary if len(keys) > 1 else problem)


def _goes_nowhere(key: str) -> str:
    """Return the kind of a host that neither sends nor shows anything, or ``""``."""
    host = registry().find(key)
    return host.scheme if host and host.scheme in ("dummy", "locmem") else ""


def _send(key: str, email: list[str]) -> tuple[list[str], str]:
    """Return who gets the message, and what went wrong, or ``""``."""
    name = shown(key)
    message = EmailMessage(
        subject=f"Test message through {name}",
        body=f'If you read this, the host "{name}" delivers mail.\n\n{timezone.now()}',
        to=email,
    )
    took: list[str] = [key]

    def hear(alias: str | None, **told: Any) -> None:
        if told["message"] is message and alias is not None:
            took.append(alias)

    message_sent.connect(hear)
    try:
        connection = hosts.connection_to(key)
        sent = connection.send_messages([message])
    except Exception as error:  # a backend that is not ours may raise anything
        return [], f"{name}: not sent: {explain(error)}"
    finally:
        message_sent.disconnect(hear)
    if not sent:
        problem = "not sent, or in a queue: the backend says that it took no message"
        return [], f"{name}: {problem}"
    refused = connection.refused_recipients
    # Before Django 6.0, refused recipients have display names. Remove _address() from the
    # next line once we require 6.0.
    not_accepted = set(map(_address, refused))
    for alias in dict.fromkeys(took):  # the last is the host that a failover has chosen
        message = hosts.connection_to(alias).apply_host(message)
    recipients = map(_address, message.recipients())
    accepted = [each for each in recipients if each not in not_accepted]
    replies = f"{name}: refused {', '.join(refused)}: {explain_refusals(refused)}"
    return accepted, replies if refused else ""


def _address(recipient: str) -> str:
    """Return the address of a recipient without a name."""
    return parseaddr(recipient)[1]
