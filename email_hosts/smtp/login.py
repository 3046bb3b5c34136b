"""Logs in with a password, or with an OAuth 2.0 token, which the backend gets and renews.

XOAUTH2 is not a standard. Google and Microsoft document it.
"""

from __future__ import annotations

import hmac
import smtplib
from base64 import b64encode
from typing import Any

from ..exceptions import InvalidEmailHost, one_line
from .connection import ENDS, SMTP, is_ours
from .redaction import Redactor

MECHANISM = "XOAUTH2"

# In this order, as smtplib.
MECHANISMS_FOR_PASSWORDS = ("CRAM-MD5", "PLAIN", "LOGIN")

# Octets of a command line, with its end (RFC 4954, 4).
MAX_COMMAND = 512

REFUSED_LOGIN = 535  # RFC 4954, 6: "authentication credentials invalid"


def log_in(
    connection: smtplib.SMTP, username: str, *, password: str = "", token: str = ""
) -> None:
    """Log in with a password or a token. Raises ``SMTPException``.

    Of several refusals it raises the first, even if the server then ends the connection.
    """
    try:
        if token:
            _log_in_with_token(connection, username, token)
        elif is_ours(connection):
            _log_in_with_password(connection, username, password)
        else:  # a mock, for example
            connection.login(username, password)
    except ValueError as error:  # smtplib could not decode base64
        problem = f"the server's challenge makes no sense: {error}"
        raise smtplib.SMTPException(problem) from error


def refuse_what_cannot_be_sent(username: str, password: str, alias: str | None = None) -> None:
    """Raise ``InvalidEmailHost`` for a login that smtplib cannot encode."""
    if not (username + password).isascii():
        raise InvalidEmailHost(
            "the user name and the password must be ASCII, because smtplib cannot send other "
            "characters",
            alias=alias,
        )


def _log_in_with_password(connection: SMTP, username: str, password: str) -> None:
    # Not smtplib's login(): it raises the last refusal, or only that the connection is lost.
    connection.ehlo_or_helo_if_needed()
    wanted = list(MECHANISMS_FOR_PASSWORDS)
    problem = "the server offers no way to log in with a password"
    if not _has_md5():
        wanted.remove("CRAM-MD5")
        problem += " without MD5, which this Python lacks"
    mechanisms = _offered(connection, wanted, problem)
    connection.user, connection.password = username, password
    refusals: list[smtplib.SMTPException] = []
    for mechanism in mechanisms:
        respond: Any = getattr(connection, "auth_" + mechanism.lower().replace("-", "_"))
        try:
            connection.auth(mechanism, respond)
        except smtplib.SMTPAuthenticationError as error:
            refusals.append(error)
            if error.smtp_code in ENDS:
                break
        except (smtplib.SMTPServerDisconnected, ValueError):
            if not refusals:
                raise
            break
        else:
            return
    raise refusals[0]


def _has_md5() -> bool:
    """Whether HMAC-MD5 can be computed. A system in FIPS mode forbids it, for example."""
    try:
        hmac.new(b"", b"", "md5")
    except ValueError:
        return False
    return True


def _log_in_with_token(connection: smtplib.SMTP, username: str, token: str) -> None:
    """Log in with XOAUTH2. The error of a refusal has what the server's challenge says."""
    connection.ehlo_or_helo_if_needed()
    if isinstance(connection, SMTP):  # a mock offers nothing
        problem = f"the server does not offer {MECHANISM}, which 'oauth2' needs"
        _offered(connection, [MECHANISM], problem)
    initial = f"user={username}\1auth=Bearer {token}\1\1"
    line = f"AUTH {MECHANISM} {b64encode(initial.encode()).decode()}\r\n"
    in_one_step = len(line) <= MAX_COMMAND
    challenges: list[bytes] = []
    responses = iter([initial])

    def respond(challenge: bytes | None = None) -> str:
        response = next(responses, "")
        if not response:  # the challenge is the reason, and the server waits for a line
            challenges.append(challenge or b"")
        return response

    try:
        connection.auth(MECHANISM, respond, initial_response_ok=in_one_step)
    except smtplib.SMTPAuthenticationError as error:
        code: int = error.smtp_code
        reply: Any = error.smtp_error
    except smtplib.SMTPServerDisconnected:
        if not challenges:
            raise
        code, reply = REFUSED_LOGIN, b"the server has ended the connection"
    else:
        return
    redact = Redactor(username, token).redact  # before the text is cut
    reasons = (one_line(redact(each.decode("utf-8", "replace"))) for each in challenges)
    told = (reason.encode() for reason in reasons if reason)
    raise smtplib.SMTPAuthenticationError(code, b"; ".join([reply, *told]))


def _offered(connection: SMTP, wanted: list[str], problem: str) -> list[str]:
    """Return the wanted mechanisms that the server offers, if there are any.

    Raises ``SMTPNotSupportedError`` with the problem.
    """
    if not connection.has_extn("auth"):
        raise smtplib.SMTPNotSupportedError(
            "SMTP AUTH extension not supported by server. It may offer logins only with TLS."
        )
    offered = connection.esmtp_features["auth"].upper().split()
    found = [each for each in wanted if each in offered]
    if not found:
        offer = " ".join(offered) or "nothing"
        raise smtplib.SMTPNotSupportedError(f"{problem}; it offers {offer}")
    return found
