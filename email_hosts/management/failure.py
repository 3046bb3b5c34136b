"""Why a host did not work, in one line for people to read."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterable

from django.core.management.base import CommandError

from ..exceptions import InvalidEmailHost

# What a send or a connection can raise: smtplib and ssl raise OSErrors; the standard
# library ValueErrors for bad addresses and headers, and for some of the odd replies.
FAILURES = (InvalidEmailHost, OSError, ValueError)


def reason(error: Exception) -> str:
    """Return what went wrong, and where to look if that is not obvious."""
    if isinstance(error, InvalidEmailHost):
        text = error.reason
    elif isinstance(error, smtplib.SMTPRecipientsRefused):
        text = f"recipients refused: {refusals(error.recipients)}"
    elif isinstance(error, smtplib.SMTPResponseException):
        text = _reply(error.smtp_code, error.smtp_error)
    elif isinstance(error, ssl.SSLCertVerificationError):
        text = (
            f"certificate not trusted: {error.verify_message} (option ssl_cafile is for "
            "an authority of your own)"
        )
    elif isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        text = "no TLS from the first byte there; submission:// starts it later"
    elif isinstance(error, TimeoutError) or "timed out" in str(error):
        text = "no answer in time"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = str(error) or type(error).__name__
    # A server may say what it likes, to a terminal too.
    printable = (character if character.isprintable() else " " for character in text)
    return " ".join("".join(printable).split())


def refusals(replies: dict[str, tuple[int, bytes]]) -> str:
    """Return what a server has replied, by recipient, to those whom it refused."""
    return "; ".join(sorted({_reply(code, text) for code, text in replies.values()}))


def no_such_host(key: str, known: Iterable[str]) -> CommandError:
    """Return the error for a key that is not one of these."""
    name = "such host" if ":" in key else f"host '{key}'"  # what has a colon may be a DSN
    return CommandError(f"There is no {name}. Known hosts: {', '.join(known) or 'none'}.")


def _reply(code: int, text: bytes | str) -> str:
    return f"{code} {text.decode(errors='replace') if isinstance(text, bytes) else text}"
