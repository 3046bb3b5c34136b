"""Headers that a host adds to a message, ``Reply-To`` among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.mail import EmailMessage

from ..options import missing_headers


def headers_of(message: EmailMessage) -> Mapping[str, Any]:
    """Return the headers of a message. Django takes an object without, too."""
    headers = getattr(message, "extra_headers", None)
    return headers if isinstance(headers, Mapping) else {}


def has_header(message: EmailMessage, name: str) -> bool:
    """Whether a message has a header of this name, in lower case."""
    return any(name == header.lower() for header in headers_of(message))


def refuse_line_breaks(message: EmailMessage, host: Any) -> Mapping[str, Any]:
    """Refuse a line break in a name: it would begin another header. Not every Django does."""
    if any("\n" in str(name) or "\r" in str(name) for name in headers_of(message)):
        raise ValueError("the name of a header may not contain a line break")
    return {}


def reply_to(message: EmailMessage, host: Any) -> Mapping[str, Any]:
    """Replies go where the host says, unless the message says something."""
    own = getattr(message, "reply_to", None)
    if not host.reply_to or own or has_header(message, "reply-to"):
        return {}
    return {"reply_to": [host.reply_to]}


def headers(message: EmailMessage, host: Any) -> Mapping[str, Any]:
    """The host's headers are added to those of the message."""
    missing = missing_headers(host.headers, headers_of(message))
    return {"extra_headers": {**headers_of(message), **missing}} if missing else {}


RULES = (refuse_line_breaks, reply_to, headers)
