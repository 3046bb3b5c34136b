"""What a host does to a message: a tuple of small functions, each on a copy.

To change what a host does, write a rule and add it to the tuple of its module. A rule returns
the attributes of the message that it sets. ``host`` is the backend of the host, which has its
options as attributes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from django.core.mail import EmailMessage

from ..exceptions import InvalidEmailHost
from ..options import OF_EACH_MESSAGE
from . import headers, redirect, sender
from .headers import headers_of

Rule = Callable[[EmailMessage, Any], Mapping[str, Any]]

# What rules set. A backend's changes of these stay on the copy, because another thread may be
# sending the same message.
SET_BY_RULES = {
    *("from_email", "reply_to", "envelope_sender", "extra_headers", "recipients"),
    *("connection", "_connection"),
    *redirect.FIELDS,
}


# In this order. A redirect sees the message as the other rules have left it.
BEFORE_REDIRECT: tuple[Rule, ...] = (*headers.RULES, *sender.RULES)
RULES: tuple[Rule, ...] = (*BEFORE_REDIRECT, *redirect.RULES)
SMTP_RULES: tuple[Rule, ...] = (*RULES, sender.envelope_in_smtp)


def applied(message: EmailMessage, host: Any, rules: Iterable[Rule]) -> EmailMessage:
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
    """Return a copy with the same attributes, whatever the class makes of ``copy()``.

    It has headers of its own, because some backends change them.
    """
    copied: EmailMessage = object.__new__(type(message))
    vars(copied).update(vars(message))
    if isinstance(vars(copied).get("extra_headers"), dict):
        copied.extra_headers = {**message.extra_headers}
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
            is_new = value is not self._headers.get(name, self._headers)
            if is_new and not re.fullmatch(OF_EACH_MESSAGE, str(name).lower()):
                self._message.extra_headers[name] = value
