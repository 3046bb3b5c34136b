"""The sender of a host, applied around a send."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from .. import hosts


class HostSender(BaseEmailBackend):
    """Gives a backend the sender of its host."""

    default_from_email = ""
    server_email = ""

    def __reduce_ex__(self, protocol: object) -> Any:
        """Refuse to be pickled; a connection of ``get_connection()`` has its own answer."""
        return hosts.pickled(None)

    def __deepcopy__(self, memo: object) -> Any:
        """Return the same connection, for the copy of a message that names it."""
        return self

    def with_sender(self, messages: Iterable[EmailMessage]) -> list[EmailMessage]:
        """Return the messages as this host sends them.

        One that needs another sender is a copy, so that a backend that keeps it (an
        outbox, a queue) keeps the right sender, and the caller's message is free for
        the next host.
        """
        return [self._from_host(message) for message in messages]

    def _from_host(self, message: EmailMessage) -> EmailMessage:
        sender = self._sender_for(message.from_email)
        if sender:
            message = copy.copy(message)
            message.from_email = sender
        return message

    def _sender_for(self, from_email: str) -> str:
        default_from_email, server_email = hosts.project_senders()
        if self.default_from_email and from_email in ("", None, default_from_email):
            return self.default_from_email
        if self.server_email and from_email == server_email:
            return self.server_email
        return ""


class HostBackend(HostSender):
    """Any other backend as a host: wraps it, and applies the host's sender.

    ``backend`` is its path, ``options`` are its own. Its attributes show through.
    """

    def __init__(
        self,
        backend: str,
        *,
        default_from_email: str = "",
        server_email: str = "",
        alias: str | None = None,
        **options: Any,
    ) -> None:
        wrapped: Any = hosts.build({"BACKEND": backend, "OPTIONS": options}, alias=alias)
        wrapped.alias = alias
        # No super().__init__(): its ``fail_silently`` would replace that of the wrapped one.
        self.wrapped = wrapped
        self.alias = alias
        self.default_from_email = default_from_email
        self.server_email = server_email

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    @property
    def fail_silently(self) -> bool:
        """Whether the wrapped backend swallows errors."""
        # Not every backend has it: Django 6.1 warns of those that do not.
        return bool(vars(self.wrapped).get("fail_silently", False))

    @fail_silently.setter
    def fail_silently(self, value: bool) -> None:
        self.wrapped.fail_silently = value

    def open(self) -> bool | None:
        """Open the wrapped backend; return what it returns."""
        opened: bool | None = self.wrapped.open()
        return opened

    def close(self) -> None:
        """Close the wrapped backend."""
        self.wrapped.close()

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Send the messages through the wrapped backend; return how many it took.

        What it notes on them, Anymail's ``anymail_status`` say, is on the caller's messages
        afterwards.
        """
        messages = list(email_messages)
        batch = self.with_sender(messages)
        copies = [
            (message, sent, dict(vars(sent)))
            for message, sent in zip(messages, batch, strict=True)
            if sent is not message
        ]
        try:
            return int(self.wrapped.send_messages(batch) or 0)
        finally:
            for message, sent, before in copies:
                vars(message).update(_notes(before, vars(sent)))


def _notes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return what has changed.

    Not the sender, which the caller's message keeps, so that another thread can send it
    meanwhile.
    """
    return {
        name: new[name]
        for name in new
        if name != "from_email" and (name not in old or new[name] is not old[name])
    }
