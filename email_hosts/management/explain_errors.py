"""Explains in one line why a host did not work."""

from __future__ import annotations

import smtplib
import ssl
from typing import Any

from ..exceptions import InvalidEmailHost, OAuth2Error, one_line
from ..smtp.tls import hint_for


def explain(error: Exception) -> str:
    """Return what went wrong, and where to look if that is not obvious."""
    return one_line(_explanation(error))


def explain_refusals(replies: dict[str, tuple[int, bytes]]) -> str:
    """Return the replies of a server that refused recipients, each once."""
    texts = {_reply(code, text) for code, text in replies.values()}
    return one_line("; ".join(sorted(texts)))


def _explanation(error: Any) -> str:
    text = str(error)
    if isinstance(error, (InvalidEmailHost, OAuth2Error)):
        return error.reason
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return f"recipients refused: {explain_refusals(error.recipients)}"
    if isinstance(error, smtplib.SMTPResponseException):
        return _reply(error.smtp_code, error.smtp_error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {error.verify_message}; {hint_for(error)}"
    if "timed out" in text:
        _, separator, hint = text.partition("; ")
        return f"no answer in time{separator}{hint}"
    if isinstance(error, (OSError, ValueError)):
        return getattr(error, "strerror", None) or text or type(error).__name__
    return f"{type(error).__name__}: {text}"  # from a backend that is not ours


def _reply(code: int, text: bytes | str) -> str:
    if isinstance(text, bytes):  # a reply is ASCII, RFC 5321, 2.3.1
        text = text.decode("ascii", "backslashreplace")
    return f"{code} {text}"
