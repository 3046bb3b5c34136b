"""Logs in with a password, or with an OAuth 2.0 token.

XOAUTH2 is not a standard. Google and Microsoft document it.
"""

from __future__ import annotations

import smtplib
from typing import Any

from ..exceptions import one_line
from .connection import SMTP
from .redaction import Redactor

MECHANISM = "XOAUTH2"


def log_in(
    connection: smtplib.SMTP, username: str, *, password: str = "", token: str = ""
) -> None:
    """Log in with a password or a token. Raises ``SMTPException``."""
    try:
        if token:
            _log_in_with_token(connection, username, token)
        else:
            connection.login(username, password)
    except ValueError as error:  # smtplib could not decode base64
        problem = f"the server's challenge makes no sense: {error}"
        raise smtplib.SMTPException(problem) from error


def _log_in_with_token(connection: smtplib.SMTP, username: str, token: str) -> None:
    """Log in with XOAUTH2.

    Raises ``SMTPAuthenticationError``, which includes what the server's challenge says,
    and ``SMTPNotSupportedError`` if the server does not offer XOAUTH2.
    """
    connection.ehlo_or_helo_if_needed()
    if isinstance(connection, SMTP):  # a mock offers nothing
        _refuse_without_mechanism(connection)
    challenges: list[bytes] = []

    def respond(challenge: bytes | None = None) -> str:
        if challenge is None:
            return f"user={username}\1auth=Bearer {token}\1\1"
        challenges.append(challenge)  # the reason. The server waits for an empty line.
        return ""

    try:
        connection.auth(MECHANISM, respond)
    except smtplib.SMTPAuthenticationError as error:
        code: int = error.smtp_code
        reply: Any = error.smtp_error
    else:
        return
    redact = Redactor(username, token).redact  # before the text is cut
    reasons = (one_line(redact(each.decode("utf-8", "replace"))) for each in challenges)
    told = (reason.encode() for reason in reasons if reason)
    raise smtplib.SMTPAuthenticationError(code, b"; ".join([reply, *told]))


def _refuse_without_mechanism(connection: SMTP) -> None:
    offered = connection.esmtp_features.get("auth", "").upper().split()
    if MECHANISM not in offered:
        instead = f"it offers {' '.join(offered)}" if offered else "it offers no AUTH at all"
        raise smtplib.SMTPNotSupportedError(
            f"the server does not offer {MECHANISM}, which 'oauth2' needs; {instead}"
        )
