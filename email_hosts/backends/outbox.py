"""Where the mail of a host goes while tests run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from django.core.mail import EmailMessage
from django.core.mail.backends.locmem import EmailBackend

from ..delivery import Outcome
from ..host import Host
from ..hosts import OUTBOX_BACKEND
from ..rules import BEFORE_REDIRECT, copied
from .base import Backend


class OutboxBackend(Backend, EmailBackend):
    """Delivers messages to ``mail.outbox`` as a host would send them.

    A redirect is not applied, so that a test sees the original recipients. The options of the
    host are attributes, but for those of a backend that is not ours.
    """

    path = OUTBOX_BACKEND
    rules = BEFORE_REDIRECT

    def configure(self, host: Host) -> None:
        """Set the options of a host as attributes of this backend."""
        EmailBackend.__init__(self)
        super().configure(host)

    def outcomes(
        self, messages: Iterable[EmailMessage], *, keep_going: bool
    ) -> Iterator[Outcome]:
        """Put the messages into ``mail.outbox``."""
        for message in messages:
            try:
                marked = copied(self.apply_host(message))
                # Django's in-memory backend sets it since 6.1. Remove once we require that.
                marked.sent_using = self.alias  # type: ignore[attr-defined, unused-ignore]
                # Django's, and not ours: that would ask for outcomes again.
                EmailBackend.send_messages(self, [marked])
            except Exception as error:
                outcome = self.failed(message, error)
            else:
                outcome = Outcome(message, self.alias)
            yield outcome
            if outcome.ends(keep_going=keep_going):
                return
