"""What can be wrong with a host. No message holds a DSN, a user name or a password."""

from __future__ import annotations

import smtplib
from collections.abc import Mapping
from functools import partial

from django.core.exceptions import ImproperlyConfigured


class InvalidEmailHost(ImproperlyConfigured):
    """A host cannot be used the way it is configured.

    ``reason`` says which part is wrong and what to write instead, ``alias`` is the
    host's key, or ``None`` for a DSN from elsewhere. The message has both.
    """

    def __init__(
        self, reason: str, *, alias: str | None = None, setting: str = "EMAIL_HOSTS"
    ) -> None:
        self.reason = reason
        self.alias = alias
        super().__init__(reason if alias is None else f'{setting}["{alias}"]: {reason}')


class EmailHostDoesNotExist(InvalidEmailHost, KeyError):
    """No host has this key. Also a ``KeyError``, like Django's ``MailerDoesNotExist``."""

    # KeyError's own __str__ would show the repr() of the message.
    __str__ = Exception.__str__


class AllHostsFailed(smtplib.SMTPException):
    """None of several hosts could be used, and none has taken the message.

    ``errors`` has what each of them raised, by key.
    """

    def __init__(self, errors: Mapping[str, Exception], *, alias: str | None = None) -> None:
        self.errors = dict(errors)
        self.alias = alias
        # Their texts may hold recipients.
        causes = ", ".join(f"{key} ({type(error).__name__})" for key, error in errors.items())
        name = "" if alias is None else f'host "{alias}": '
        super().__init__(f"{name}all hosts failed: {causes}")

    def __reduce__(self) -> tuple[object, ...]:
        """Be of use in another process, too: where a task is waited for, say."""
        errors = {key: _plain(error) for key, error in self.errors.items()}
        return partial(type(self), alias=self.alias), (errors,)


def without_text(error: Exception) -> str:
    """Return how a record names an error: by class and code, for its text may hold recipients.

    An ``InvalidEmailHost`` holds none, and is shown in full.
    """
    name = type(error).__name__
    if isinstance(error, InvalidEmailHost):
        return f"{name}: {error}"
    return f"{name} {getattr(error, 'smtp_code', '')}".rstrip()


def _plain(error: Exception) -> Exception:
    """Return the error, or its name if it may hold more than text: a request with its key."""
    is_known = type(error).__module__ in {"builtins", "smtplib", "ssl", "socket", __name__}
    is_text = all(isinstance(each, (str, bytes, int, dict, type(None))) for each in error.args)
    return error if is_known and is_text else smtplib.SMTPException(without_text(error))
