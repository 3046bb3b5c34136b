"""The errors of this app, and how errors name a host: never by its DSN or its login."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Mapping
from functools import partial
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from .schemes import SCHEMES

MAX_FOREIGN_TEXT = 500  # characters

# Packages of task queues. They raise a time limit wherever Python is, even in code of the
# project whose other errors we ignore.
OF_TIME_LIMITS = {"billiard", "celery", "rq"}


class InvalidEmailHost(ImproperlyConfigured):
    """A host cannot be used as it is configured.

    ``reason`` says which part is wrong and what to write instead. ``alias`` is the host's
    key, or ``None`` for a DSN that is not in ``EMAIL_HOSTS``. The message has both.
    """

    def __init__(
        self, reason: str, *, alias: str | None = None, setting: str = "EMAIL_HOSTS"
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.alias: str | None = None
        if alias is not None:
            self.name(alias, setting)

    def name(self, alias: str, setting: str = "EMAIL_HOSTS") -> None:
        """Say which host it is about, once that is known."""
        self.alias = alias
        self.args = (f"{named(alias, setting)}: {self.reason}",)


class EmailHostDoesNotExist(InvalidEmailHost, KeyError):
    """No host has this key. Also a ``KeyError``, like Django's ``MailerDoesNotExist``."""

    # KeyError's __str__ shows the repr() of the message.
    __str__ = Exception.__str__


class OAuth2Error(smtplib.SMTPAuthenticationError):
    """A host has no OAuth 2.0 token to log in with: a login that failed.

    Raise it in a callable of your own to say why, without a secret: ``reason`` is the message.
    Its ``smtp_code`` is 454, "temporary authentication failure" (RFC 4954, 6).
    """

    def __init__(self, reason: str) -> None:
        super().__init__(454, reason)
        self.args = (reason,)  # type: ignore[assignment]
        self.reason = reason


class AllHostsFailed(smtplib.SMTPException):
    """None of several hosts took the message.

    ``errors`` maps the key of each to the exception that it raised. If all are at their
    limits, ``retry_after`` is the number of seconds until one may take the message.
    """

    def __init__(self, errors: Mapping[str, Exception], *, alias: str | None = None) -> None:
        self.errors = dict(errors)
        self.alias = alias
        waits: list[Any] = [getattr(error, "retry_after", None) for error in errors.values()]
        if waits and None not in waits:
            self.retry_after = min(waits)
        # Only the classes of errors: their texts may hold recipients.
        causes = ", ".join(
            f"{shown(key)} ({type(error).__name__})" for key, error in errors.items()
        )
        name = "" if alias is None else f'host "{shown(alias)}": '
        super().__init__(f"{name}all hosts failed: {causes}")

    def __reduce__(self) -> tuple[object, ...]:
        """Return what ``pickle`` keeps, for a task queue that stores the error.

        Each host's error becomes a summary, because it may hold a request with an API key.
        """
        summaries = {
            key: smtplib.SMTPException(summarize(error)) for key, error in self.errors.items()
        }
        return partial(type(self), alias=self.alias), (summaries,), {"args": self.args}


class RateLimited(smtplib.SMTPException):
    """A host takes no more at present, because the limit of its ``rate`` is reached.

    Nothing was sent. ``alias`` is the key of the host. ``retry_after`` is the number of
    seconds until the message may have its turn. It is ``math.inf`` if the message has more
    recipients than the limit allows: this host can never send it.
    """

    def __init__(self, reason: str, *, alias: str | None = None, retry_after: float) -> None:
        self.alias = alias
        self.retry_after = retry_after
        name = "" if alias is None else f'host "{shown(alias)}": '
        super().__init__(f"{name}{reason}")

    def __reduce__(self) -> tuple[object, ...]:
        """Return what ``pickle`` keeps, for a task queue that stores the error."""
        make = partial(type(self), alias=self.alias, retry_after=self.retry_after)
        return make, ("",), {"args": self.args}


def looks_like_a_dsn(key: str) -> bool:
    """Whether a key may be a DSN by mistake, with a login that nobody should see."""
    scheme, colon, _ = key.partition(":")
    is_one = "://" in key or (colon and scheme in SCHEMES)  # failover:shop,spare
    return bool(is_one) or re.search(":.*[?@=]", key, re.DOTALL) is not None


def checked_key(key: str) -> str:
    """Return the key. Raise ``InvalidEmailHost`` for a DSN, without repeating it."""
    if not isinstance(key, str):
        raise InvalidEmailHost(f"the key of a host must be a string, not {type(key).__name__}")
    if looks_like_a_dsn(key):
        raise InvalidEmailHost(
            "the key of a host must not be a DSN; give the DSN a key in EMAIL_HOSTS, or pass "
            "it to connection_from_dsn()"
        )
    return key


def checked_flag(fail_silently: Any) -> bool:
    """Return the flag. Raise ``InvalidEmailHost`` for another value, such as a key."""
    if fail_silently in (True, False, None):
        return bool(fail_silently)
    raise InvalidEmailHost(
        "'fail_silently' must be True or False; in a call of send(), write using= before the "
        "key of a host"
    )


def name_host(error: BaseException, name: str) -> None:
    """Note on an error which host it is about (PEP 678), unless that is known.

    ``name`` is that of a backend: its key, its server, or both, and no secret.
    """
    is_named = isinstance(error, AllHostsFailed) or getattr(error, "alias", None) is not None
    if name and not is_named and hasattr(error, "add_note"):  # pragma: notes-only
        notes = getattr(error, "__notes__", ())
        if not any(note.startswith("email host ") for note in notes):
            error.add_note(f"email host {name.removeprefix('host ')}")


def shown(key: object) -> str:
    """Return a key for a message: printable, and without the login of a DSN."""
    return "(a DSN)" if looks_like_a_dsn(str(key)) else printable(str(key))


def printable(text: str) -> str:
    """Return the text with line breaks and control characters escaped."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def one_line(text: str) -> str:
    """Return the text of a server or a library as one short line."""
    return printable(" ".join(text.split()))[:MAX_FOREIGN_TEXT]


def path_of(thing: Any) -> str:
    """Return the path of a callable, or that of the class of an object."""
    known = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{known.__module__}.{known.__qualname__}"


def named(key: object, setting: str = "EMAIL_HOSTS") -> str:
    """Return ``EMAIL_HOSTS["shop"]``, as messages name a host."""
    return f'{setting}["{shown(key)}"]'


def is_interruption(error: BaseException) -> bool:
    """Whether it says nothing about what runs: the time limit of a task, or Ctrl-C."""
    package = type(error).__module__.partition(".")[0]
    return not isinstance(error, Exception) or package in OF_TIME_LIMITS


def raise_time_limit(error: Exception) -> None:
    """Raise the time limit of a task. Return if the error is any other."""
    if is_interruption(error):
        raise error


def summarize(error: Exception) -> str:
    """Return an error for a log record: its class and code, not its text.

    The text of a server may hold recipients. ``InvalidEmailHost``, ``OAuth2Error`` and
    ``RateLimited`` hold none, so their text is shown.
    """
    name = type(error).__name__
    if isinstance(error, (InvalidEmailHost, OAuth2Error, RateLimited)):
        return f"{name}: {error}"
    return f"{name} {getattr(error, 'smtp_code', '')}".rstrip()
