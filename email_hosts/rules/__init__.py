"""What a host does to a message: a tuple of small functions, each on a copy.

To change what a host does, add a rule. A rule returns the attributes of the message that it
sets.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from django.core.mail import EmailMessage

from .. import conf
from ..exceptions import InvalidEmailHost
from ..options import missing_headers
from . import redirect


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


Rule = Callable[[EmailMessage, Any], Mapping[str, Any]]

# What rules set. A backend's changes of these stay on the copy, because another thread may be
# sending the same message.
SET_BY_RULES = {
    *("from_email", "reply_to", "envelope_sender", "extra_headers", "recipients"),
    *redirect.FIELDS,
}


def header_names(message: EmailMessage, host: HostOfMessage) -> Mapping[str, Any]:
    """A line break in a name would begin a header of its own. Not each Django looks."""
    if any("\n" in str(name) or "\r" in str(name) for name in headers_of(message)):
        raise ValueError("the name of a header may not contain a line break")
    return {}


def sender(message: EmailMessage, host: HostOfMessage) -> Mapping[str, Any]:
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


def reply_to(message: EmailMessage, host: HostOfMessage) -> Mapping[str, Any]:
    """Replies go where the host says, unless the message says something."""
    own = getattr(message, "reply_to", None)
    if not host.reply_to or own or _has_header(message, "reply-to"):
        return {}
    return {"reply_to": [host.reply_to]}


def headers(message: EmailMessage, host: HostOfMessage) -> Mapping[str, Any]:
    """The host's headers are added to those of the message."""
    missing = missing_headers(host.headers, headers_of(message))
    return {"extra_headers": {**headers_of(message), **missing}} if missing else {}


def envelope(message: EmailMessage, host: HostOfMessage) -> Mapping[str, Any]:
    """Bounces go where the host says, unless the message says something."""
    # With a From header, from_email is the envelope sender: Django's own way to name both.
    if not host.envelope_from or _envelope_sender(message) or _has_header(message, "from"):
        return {}
    return {"envelope_sender": host.envelope_from}  # Anymail's name for it


def envelope_in_smtp(message: EmailMessage, host: HostOfMessage) -> Mapping[str, Any]:
    """Django's SMTP backend takes the envelope sender from ``from_email``."""
    own = _envelope_sender(message)
    if not own or not message.from_email or _has_header(message, "from"):
        return {}
    return {
        "from_email": own,
        "extra_headers": {**headers_of(message), "From": message.from_email},
    }


# In this order. A redirect sees the message as the other rules have left it.
BEFORE_REDIRECT: tuple[Rule, ...] = (header_names, sender, reply_to, headers, envelope)
RULES: tuple[Rule, ...] = (*BEFORE_REDIRECT, redirect.recipients, redirect.nobody_else)
SMTP_RULES: tuple[Rule, ...] = (*RULES, envelope_in_smtp)


def applied(message: EmailMessage, host: HostOfMessage, rules: Iterable[Rule]) -> EmailMessage:
    """Return the message as the host sends it: a copy, if a rule changes something.

    The caller's message stays as it was, and a backend that keeps messages (an outbox, a
    queue) keeps them as they are sent. Raises ``InvalidEmailHost`` for a message that cannot
    be redirected.
    """
    own = message
    for rule in rules:
        changes = rule(message, host)
        if changes and message is own:
            message = copied(message)
        for name, value in changes.items():
            try:
                setattr(message, name, value)
            except AttributeError:  # a property of a subclass
                reason = f"a host cannot set {name!r} on a message of {type(message).__name__}"
                raise InvalidEmailHost(reason, alias=host.alias) from None
    return message


def copied(message: EmailMessage) -> EmailMessage:
    """Return a copy with the same attributes, whatever the class makes of ``copy()``."""
    kind = type(message)
    try:
        copied: EmailMessage = kind.__new__(kind)
        vars(copied).update(vars(message))
    except TypeError:  # a class whose objects are not made like this
        return copy.copy(message)
    return copied


class Notes:
    """What a backend writes on the copy of a message, for the caller's own one.

    Anymail sets ``anymail_status``, and django-ses adds the provider's id to the headers.
    """

    def __init__(self, message: EmailMessage, copy: EmailMessage) -> None:
        self._message = message
        self._copy = copy
        self._before = dict(vars(copy))
        self._headers = dict(headers_of(copy))

    def give_back(self) -> None:
        """Set on the caller's message what is new on the copy."""
        if self._copy is self._message:
            return
        for name, value in vars(self._copy).items():
            is_new = value is not self._before.get(name, self._before)
            if is_new and name not in SET_BY_RULES:
                setattr(self._message, name, value)
        for name, value in headers_of(self._copy).items():
            if value is not self._headers.get(name, self._headers):
                self._message.extra_headers[name] = value


def headers_of(message: EmailMessage) -> Mapping[str, Any]:
    """Return the headers of a message. Django takes an object without, too."""
    headers = getattr(message, "extra_headers", None)
    return headers if isinstance(headers, Mapping) else {}


def _has_header(message: EmailMessage, name: str) -> bool:
    return any(name == header.lower() for header in headers_of(message))


def _envelope_sender(message: EmailMessage) -> str:
    own = getattr(message, "envelope_sender", None)
    return own if own and isinstance(own, str) else ""
