"""Headers that a host adds to a message, ``Reply-To`` among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.mail import EmailMessage

from ..options import missing_headers
from .base import HostOfMessage, has_header, headers_of


def refuse_line_breaks(message: EmailMessage, host: HostOfMessage) -> Mapping[str, Any]:
    """Refuse a line break in a name: it would begin another header. Not every Django does."""
    if any("\n" in str(name) or "\r" in str(name) for name in headers_of(message)):
        raise ValueError("the name of a header may not contain a line break")
    return {}


def reply_to(message: EmailMessage, host: HostOfMessage) -> Mapping[str, Any]:
    """Replies go where the host says, unless the message says something."""
    own = getattr(message, "reply_to", None)
    if not host.reply_to or own or has_header(message, "reply-to"):
        return {}
    return {"reply_to": [host.reply_to]}


def headers(message: EmailMessage, host: HostOfMessage) -> Mapping[str, Any]:
    """The host's headers are added to those of the message."""
    missing = missing_headers(host.headers, headers_of(message))
    return {"extra_headers": {**headers_of(message), **missing}} if missing else {}
