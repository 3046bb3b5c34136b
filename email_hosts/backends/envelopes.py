"""Makes messages into what SMTP carries, by Django's own code."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from django.core.mail import EmailMessage

from ..exceptions import is_interruption
from ..retry import NOT_SENT, set_delivery
from ..smtp.transaction import Envelope
from .base import Backend


def envelopes_of(backend: Backend, messages: Iterable[EmailMessage]) -> Iterator[Envelope]:
    """Yield the envelopes of messages. A message without recipients has none."""
    maker: Any = copy.copy(backend)
    maker.fail_silently = False  # so that Django's backend raises what it would ignore
    for message in messages:
        yield from _envelope_of(maker, message)


def _envelope_of(maker: Any, message: EmailMessage) -> list[Envelope]:
    """Return the envelope of a message, or why it could not be made.

    No generator: the error would keep its frame. Python 3.13.0 crashes when somebody looks at
    the variables of a frame whose generator was closed (gh-125723).
    """
    made = []

    def sendmail(sender: str, recipients: list[str], content: bytes) -> None:
        made.append(Envelope(sender, recipients, content, message))

    maker.connection = SimpleNamespace(sendmail=sendmail)
    try:
        # Private: _send(). Only it encodes a message as this Django does.
        maker._send(maker.apply_host(message))
    except BaseException as error:
        if isinstance(error, Exception) and not is_interruption(error):
            return [Envelope("", [], b"", message, error)]
        set_delivery(error, NOT_SENT)
        raise  # when the turn of this message comes, or the send ends before
    return made
