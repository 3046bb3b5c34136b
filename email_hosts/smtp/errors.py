"""What an error says: whether the body was sent, and whether the session is over."""

from __future__ import annotations

import smtplib

SERVICE_CLOSING = 421


def body_was_sent(error: BaseException, *, unless_known: bool = True) -> bool:
    """Whether the body was sent before this error.

    Then the server may have accepted the message, unless it answered otherwise.
    ``unless_known`` is returned for an error that carries no mark.
    """
    return getattr(error, "body_was_sent", unless_known)


def may_be_delivered(error: BaseException) -> bool:
    """Whether the body was sent before this error, and the server has not answered it.

    Then the class of the error says nothing: a signal handler may have raised it.
    """
    return body_was_sent(error, unless_known=False) and not getattr(error, "is_answer", True)


def mark(error: Exception, *, body_was_sent: bool, is_answer: bool = True) -> None:
    """Note on the error whether the body was sent, and if it is the server's answer."""
    error.body_was_sent = body_was_sent  # type: ignore[attr-defined]
    error.is_answer = is_answer  # type: ignore[attr-defined]


def mark_unless_known(error: Exception) -> None:
    """Note on an error without a mark that nobody knows whether the message was sent.

    The server did not send it: it comes from a signal handler, or from making a message.
    """
    if not hasattr(error, "body_was_sent"):
        mark(error, body_was_sent=True, is_answer=False)


def has_given_up(error: smtplib.SMTPException | None) -> bool:
    """Whether this error ended the session before the server got the message.

    The connection was lost or is closing, or the reply to MAIL, to all RCPTs or to DATA is
    4xx. Some servers end a session with such a reply and keep the connection open. OpenSMTPD
    does so after 100 messages, and postscreen in the first session of a client.
    """
    if error is None or body_was_sent(error):
        return False
    codes = codes_of(error)
    was_lost = isinstance(error, smtplib.SMTPServerDisconnected) or SERVICE_CLOSING in codes
    return was_lost or (len(codes) > 0 and all(400 <= code <= 499 for code in codes))


def codes_of(error: smtplib.SMTPException) -> set[int]:
    """Return the reply codes that an error holds."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return {code for code, _ in error.recipients.values()}
    return {error.smtp_code} if isinstance(error, smtplib.SMTPResponseException) else set()
