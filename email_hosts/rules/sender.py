"""Who a message is from: its ``From`` header, and the envelope sender, who gets bounces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.mail import EmailMessage

from .. import conf
from .headers import has_header, headers_of


def sender(message: EmailMessage, host: Any) -> Mapping[str, Any]:
    """The host's sender takes the place of the project's."""
    from_email = message.from_email
    if from_email is None and getattr(message, "template_id", None):
        return {}  # Anymail: the sender of the template
    default_from_email, server_email = conf.project_senders()
    if host.default_from_email and from_email in ("", None, default_from_email):
        return {"from_email": host.default_from_email}
    if host.server_email and from_email == server_email:
        return {"from_email": host.server_email}
    return {}


def envelope(message: EmailMessage, host: Any) -> Mapping[str, Any]:
    """Bounces go where the host says, unless the message says something."""
    # With a From header, from_email is the envelope sender: Django's own way to name both.
    if not host.envelope_from or _envelope_sender(message) or has_header(message, "from"):
        return {}
    return {"envelope_sender": host.envelope_from}  # Anymail's name for it


RULES = (sender, envelope)


def envelope_in_smtp(message: EmailMessage, host: Any) -> Mapping[str, Any]:
    """Django's SMTP backend takes the envelope sender from ``from_email``."""
    own = _envelope_sender(message)
    if not own or not message.from_email or has_header(message, "from"):
        return {}
    return {
        "from_email": own,
        "extra_headers": {**headers_of(message), "From": message.from_email},
    }


def _envelope_sender(message: EmailMessage) -> str:
    own = getattr(message, "envelope_sender", None)
    return own if own and isinstance(own, str) else ""
