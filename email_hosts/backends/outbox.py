"""Where the mail of a host goes while tests run."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.locmem import EmailBackend

from .base import HostSender


class OutboxBackend(HostSender, EmailBackend):
    """Delivers to ``mail.outbox`` what a host would send, with the host's sender.

    The host's options are there as attributes, for a test to look at.
    """

    def __init__(self, *, alias: str | None = None, **options: Any) -> None:
        super().__init__()
        self.alias = alias
        vars(self).update(options)

    def send_messages(self, messages: Iterable[EmailMessage]) -> int:
        """Put the messages into ``mail.outbox``; return how many there were."""
        batch = self.with_sender(messages)
        return super().send_messages([self._marked(message) for message in batch])

    def _marked(self, message: EmailMessage) -> EmailMessage:
        # Django does this itself from 6.1 on.
        message = copy.copy(message)
        message.sent_using = self.alias  # type: ignore[attr-defined, unused-ignore]
        return message
