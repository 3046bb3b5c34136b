"""Where the mail of a host goes while tests run."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.locmem import EmailBackend

from .. import signals
from ..keyword_options import names_mailer
from .base import HostMixin


class OutboxBackend(HostMixin, EmailBackend):
    """Delivers messages to ``mail.outbox`` as a host would send them.

    Only a redirect is not applied. The host's options are attributes, so a test can look at
    them.
    """

    is_outbox = True

    @names_mailer
    def __init__(self, *, alias: str | None = None, **options: Any) -> None:
        super().__init__()
        self.alias = alias
        self.take_host_options(options)
        vars(self).update(options)

    def send_messages(self, messages: Iterable[EmailMessage]) -> int:
        """Put the messages into ``mail.outbox``. Return how many there were."""
        return sum(map(self._send, messages))

    def _send(self, message: EmailMessage) -> int:
        """Put a message there, and send its signal, so that you can test your receivers."""
        try:
            sent = super().send_messages([self._marked(message)])
        except Exception as error:
            signals.tell(self, message, error)
            raise
        signals.tell(self, message)
        return sent

    def _marked(self, message: EmailMessage) -> EmailMessage:
        marked = copy.copy(self.apply_host(message))
        # Since Django 6.1, the in-memory backend sets this. Remove once we require 6.1.
        marked.sent_using = self.alias  # type: ignore[attr-defined, unused-ignore]
        return marked
