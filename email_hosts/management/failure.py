"""Why a host did not work, in one line for people to read."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterable

from django.core.mail.backends.base import BaseEmailBackend

# What a send or a connection can raise: smtplib and ssl raise OSErrors; the standard
# library ValueErrors for bad addresses and headers, and for some of the odd replies.
FAILURES = (OSError, ValueError)


def reason(error: Exception, connection: BaseEmailBackend) -> str:
    """Return what went wrong, without the user name and password of the connection."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        replies = {_reply(code, text) for code, text in error.recipients.values()}
        text = f"recipients refused: {'; '.join(sorted(replies))}"
    elif isinstance(error, smtplib.SMTPResponseException):
        text = _reply(error.smtp_code, error.smtp_error)
    elif isinstance(error, ssl.SSLCertVerificationError):
        text = f"certificate not trusted: {error.verify_message}"
    elif isinstance(error, TimeoutError):
        text = "no answer in time"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = str(error) or type(error).__name__
    return _without(text, _secrets(connection))


def _reply(code: int, text: bytes | str) -> str:
    return f"{code} {text.decode(errors='replace') if isinstance(text, bytes) else text}"


def _secrets(connection: BaseEmailBackend) -> Iterable[str]:
    return filter(None, (getattr(connection, name, "") for name in ("password", "username")))


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:  # a server may repeat them in its reply
        text = text.replace(secret, "*****")
    return " ".join(text.split())
