"""Where the mail of a host goes while tests run."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.locmem import EmailBackend

from .. import signals
from .base import HostMixin


class OutboxBackend(HostMixin, EmailBackend):
    """Delivers to ``mail.outbox`` what a host would send, as it would send it.

    But it redirects nothing. The host's options are its attributes, for a test to look at.
    """

    is_outbox = True

    def __init__(self, *, alias: str | None = None, **options: Any) -> None:
        super().__init__()
        self.alias = alias
        self.take_host_options(options, alias)
        vars(self).update(options)

    def send_messages(self, messages: Iterable[EmailMessage]) -> int:
        """Put the messages into ``mail.outbox``. Return how many there were."""
        return sum(map(self._send, messages))

    def _send(self, message: EmailMessage) -> int:
        """Put a message there, and send its signal, so that a test sees its receivers work."""
        try:
            sent = super().send_messages([self._marked(message)])
        except Exception as error:
            signals.tell(self, message, error)
            raise
        signals.tell(self, message)
        return sent

    def _marked(self, message: EmailMessage) -> EmailMessage:
        marked = copy.copy(self.apply_host(message))
        # Django does this itself since 6.1.
        marked.sent_using = self.alias  # type: ignore[attr-defined, unused-ignore]
        return marked
