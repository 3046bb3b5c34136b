"""Explains in one line why a host did not work."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterable

from django.core.management.base import CommandError

from ..exceptions import InvalidEmailHost, OAuth2Error, looks_like_a_dsn, printable, shown
from ..smtp.login import MECHANISM


def explain(error: Exception) -> str:
    """Return what went wrong, and where to look if that is not obvious."""
    if isinstance(error, InvalidEmailHost):
        text = error.reason
    elif isinstance(error, smtplib.SMTPRecipientsRefused):
        text = f"recipients refused: {explain_refusals(error.recipients)}"
    elif isinstance(error, OAuth2Error):
        text = error.reason
    elif isinstance(error, smtplib.SMTPResponseException):
        text = _reply(error.smtp_code, error.smtp_error)
    elif isinstance(error, smtplib.SMTPNotSupportedError) and "STARTTLS" in str(error):
        text = (
            "the server offers no STARTTLS; submissions:// is for TLS from the first byte, "
            "smtp:// for none"
        )
    elif isinstance(error, smtplib.SMTPNotSupportedError) and MECHANISM in str(error):
        text = str(error)
    elif isinstance(error, smtplib.SMTPNotSupportedError) and "AUTH" in str(error):
        text = "the server offers no login, or none without TLS"
    elif isinstance(error, ssl.SSLCertVerificationError):
        text = (
            f"certificate not trusted: {error.verify_message} (option ssl_cafile names your "
            "own certificate authority)"
        )
    elif isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        text = "the server does not begin with TLS; submission:// is for STARTTLS"
    elif isinstance(error, TimeoutError) or "timed out" in str(error):
        _, separator, hint = str(error).partition("; ")
        text = f"no answer in time{separator}{hint}"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    elif isinstance(error, (OSError, ValueError)):
        text = str(error) or type(error).__name__
    else:  # from a backend that is not ours
        text = f"{type(error).__name__}: {error}"
    return _on_one_line(text)


def explain_refusals(replies: dict[str, tuple[int, bytes]]) -> str:
    """Return the replies of a server that refused recipients, each once."""
    texts = {_reply(code, text) for code, text in replies.values()}
    return _on_one_line("; ".join(sorted(texts)))


def no_such_host(key: str, known: Iterable[str]) -> CommandError:
    """Return the error for a key that is not one of these."""
    name = "such host" if looks_like_a_dsn(key) else f"host '{shown(key)}'"
    listed = ", ".join(map(shown, known)) or "none"
    return CommandError(f"There is no {name}. Known hosts: {listed}.")


def _reply(code: int, text: bytes | str) -> str:
    if isinstance(text, bytes):  # a reply is ASCII, RFC 5321, 2.3.1
        text = text.decode("ascii", "backslashreplace")
    return f"{code} {text}"


def _on_one_line(text: str) -> str:
    return printable(" ".join(text.split()))  # a server may send any character
