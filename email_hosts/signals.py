"""Signals that say whether a message was sent. An error in a receiver never changes a send.

``message_sent``: a host has taken the message. Receivers get ``message``, which is the
caller's own object, ``alias``, the key of the host that really sent it, and ``refused``, the
server's replies to recipients who do not get it (as smtplib's ``sendmail()`` returns them).

``message_failed``: a host has not taken it, or nobody knows. Receivers get ``message``,
``alias`` and ``error``. The README says when these are ``None``.
"""

from __future__ import annotations

import smtplib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple

from django.core.mail import EmailMessage
from django.dispatch import Signal

from .log import warn
from .tracebacks import without_tracebacks

message_sent = Signal()
message_failed = Signal()


class Result(NamedTuple):
    """The outcome of a message. ``refused`` are recipients who do not get it."""

    message: EmailMessage
    error: smtplib.SMTPException | None
    refused: dict[str, tuple[int, bytes]]


NOBODY: Mapping[Any, Any] = MappingProxyType({})

_is_telling: ContextVar[bool] = ContextVar("is_telling", default=False)

# The caller's messages by the identity of the copies that go on to other hosts.
_originals: ContextVar[Mapping[int, EmailMessage]] = ContextVar("originals", default=NOBODY)


def are_received() -> bool:
    """Whether there are receivers. Without them, a signal costs nothing."""
    return bool(message_sent.receivers or message_failed.receivers)


def tell(
    backend: Any,
    message: EmailMessage,
    error: Exception | None = None,
    refused: Mapping[str, Any] = NOBODY,
) -> None:
    """Send the signal of a message that this backend has sent, or that failed."""
    if error is not None:
        tell_failed(backend, message, error, alias=backend.alias)
    elif message_sent.receivers:
        told: dict[str, Any] = {"message": _original(message), "alias": backend.alias}
        told["refused"] = dict(refused)
        _send(message_sent, type(backend), told)


def tell_failed(
    backend: Any, message: EmailMessage | None, error: Exception | None, *, alias: str | None
) -> None:
    """Send ``message_failed``, with the key of the host, which may be a member of this one."""
    if message_failed.receivers:
        told = {"message": message and _original(message), "alias": alias, "error": error}
        with without_tracebacks(error):
            _send(message_failed, type(backend), told)


@contextmanager
def on_behalf_of(
    messages: Iterable[EmailMessage], copies: Iterable[EmailMessage]
) -> Iterator[None]:
    """Send signals about these copies with the caller's messages."""
    pairs = zip(copies, map(_original, messages), strict=True)
    known = {**_originals.get(), **{id(copy): message for copy, message in pairs}}
    token = _originals.set(known)
    try:
        yield
    finally:
        _originals.reset(token)


def _original(message: EmailMessage) -> EmailMessage:
    return _originals.get().get(id(message), message)


def _send(signal: Signal, sender: type, told: dict[str, Any]) -> None:
    """Send a signal. Django logs what a receiver raises (logger ``django.dispatch``).

    That log may be mailed, by ``AdminEmailHandler``, and a receiver may send mail itself. Such
    mail has no signals, because each could send another mail, without end.
    """
    if _is_telling.get():
        return
    token = _is_telling.set(True)
    try:
        signal.send_robust(sender, **told)
    except Exception as error:  # of logging, or of an async receiver in a loop
        name = "message_sent" if signal is message_sent else "message_failed"
        warn("receivers of %s could not be called: %s", name, type(error).__name__)
    finally:
        _is_telling.reset(token)
