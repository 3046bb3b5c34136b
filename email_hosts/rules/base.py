"""What rules read: the options of a host, and the headers of a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.core.mail import EmailMessage


class HostOfMessage:
    """The options of a host that its rules read. Each backend has them as attributes."""

    alias: str | None = None
    default_from_email: str
    server_email: str
    reply_to: str
    envelope_from: str
    headers: Mapping[str, str]
    redirect_to: str
    allowed_recipients: Sequence[str]


def headers_of(message: EmailMessage) -> Mapping[str, Any]:
    """Return the headers of a message. Django takes an object without, too."""
    headers = getattr(message, "extra_headers", None)
    return headers if isinstance(headers, Mapping) else {}


def has_header(message: EmailMessage, name: str) -> bool:
    """Whether a message has a header of this name, in lower case."""
    return any(name == header.lower() for header in headers_of(message))
