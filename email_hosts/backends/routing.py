"""Picks a host for each message."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from email.utils import parseaddr

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from .. import hosts
from ..circle import handing_over_to, not_in_a_circle
from ..exceptions import without_text
from ..log import warn


class RoutingBackend(BaseEmailBackend):
    """The default backend of a project, which sends each message through one of its hosts.

    ``EMAIL_HOSTS_ROUTER`` picks it, a callable or its path: ``router(message)`` returns a
    key or ``None``. Without one, it is ``host_of_sender``. A message without a host goes
    to the host ``"default"``; if there is none, it is an ``EmailHostDoesNotExist``.
    """

    sends_through_hosts = True

    def __init__(
        self,
        *,
        alias: str | None = None,
        fail_silently: bool = False,
        # What send_mail() has for the default backend is not for a host: passed over.
        username: object = None,
        password: object = None,
        _ignore_unknown_kwargs: object = None,  # private: from Django 6.1's get_connection()
    ) -> None:
        super().__init__()
        self.alias = alias
        self.fail_silently = fail_silently

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Send the messages; return how many were accepted.

        Each host gets its messages in one batch. What one raises, the others do not
        suffer from: the first error is raised when all have had their turn.
        """
        batches: dict[str, list[EmailMessage]] = {}
        errors: list[Exception] = []
        sent = 0
        router = hosts.router() or host_of_sender
        for message in email_messages:
            try:
                with not_in_a_circle("the router"):
                    key = router(message) or "default"
                batches.setdefault(key, []).append(message)
            except Exception as error:
                errors.append(error)
        for key, batch in batches.items():
            try:
                host = hosts.get_host(key, fail_silently=self.fail_silently)
                with not_in_a_circle("the router"), handing_over_to(host):
                    sent += host.send_messages(batch) or 0
            except Exception as error:
                errors.append(error)
        for passed_over in errors[0 if self.fail_silently else 1 :]:
            warn("router: %s, passed over", without_text(passed_over))
        if errors and not self.fail_silently:
            raise errors[0]
        return sent


def host_of_sender(message: EmailMessage) -> str | None:
    """Return the host whose ``_default_from_email`` the message is from.

    That is the one with the same address, else the first one with the same domain.
    """
    address, domain = _parsed(message.from_email)
    senders = [(key, *_parsed(sender)) for key, sender in hosts.senders().items()]
    for key, own, _ in senders:
        if own == address:
            return key
    for key, _, own_domain in senders:
        if own_domain == domain:
            return key
    return None


def _parsed(sender: str) -> tuple[str, str]:
    """Return address and domain, in the form in which they are the same."""
    address = parseaddr(str(sender))[1].lower()
    local_part, _, domain = address.rpartition("@")
    with suppress(UnicodeError):  # it is no address anyway
        domain = domain.encode("idna").decode("ascii")
    return f"{local_part}@{domain}", domain
