"""Messages as SMTP carries them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend

from ..smtp.pipelining import Envelope, RecordingConnection


def envelopes_of(backend: Any, messages: Iterable[EmailMessage]) -> Iterator[Envelope]:
    """Yield the envelopes that an SMTP host sends. A message without recipients has none."""
    maker = copy.copy(backend)
    # So that Django's backend raises what it would ignore.
    maker.fail_silently = False
    for message in messages:
        for envelope in _made_by(maker, message):
            yield envelope._replace(message=message)


def _made_by(maker: Any, message: EmailMessage) -> list[Envelope]:
    """Return the envelope of a message, or why it could not be made.

    No generator: the error would keep its frame. Python 3.13.0 crashes when somebody looks at
    the variables of a frame whose generator was closed (gh-125723).
    """
    maker.connection = recording = RecordingConnection()
    try:
        # Private: _send(). Only it encodes a message as this Django does.
        EmailBackend._send(maker, maker.apply_host(message))  # type: ignore[attr-defined]
    except Exception as error:
        return [Envelope("", [], b"", error=error)]
    return recording.envelopes
