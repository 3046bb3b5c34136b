"""Whether a message that failed may be sent again, later or through another host."""

from __future__ import annotations

import smtplib
import socket

from .exceptions import AllHostsFailed
from .transaction import body_was_sent

# By name, for neither package is a dependency. urllib3's, then botocore's.
NOT_CONNECTED = {
    "NewConnectionError",
    "ConnectTimeoutError",
    "NameResolutionError",
    "EndpointConnectionError",
}


def can_be_retried(error: BaseException) -> bool:
    """Whether to send the message again is safe, and of any use, after this was raised.

    True if surely nobody got it, and another time or another host may do better. False if
    it may have been delivered, or if it was refused for good. See the README for when that
    is, and RFC 5321, 4.2.1 for what is for good.
    """
    if isinstance(error, AllHostsFailed):
        return True
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return any(code < 500 for code, _ in error.recipients.values())
    if isinstance(error, smtplib.SMTPSenderRefused):
        return True
    if isinstance(error, smtplib.SMTPDataError) and error.smtp_code >= 400:
        return error.smtp_code < 500
    status = _http_status(error)
    if status is not None:
        return status == 429 or status >= 500
    return not body_was_sent(error) or _could_not_connect(error)


def _http_status(error: BaseException | None) -> int | None:
    """Return the status of a provider's answer: Anymail's, or that of botocore below it."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        status = getattr(error, "status_code", None) or getattr(
            response, "status_code", response
        )
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None


def _could_not_connect(error: BaseException) -> bool:
    """Whether the connection was refused, or the like: nothing has been sent then.

    The cause may be in ``reason`` (urllib3) or among the arguments (requests). Not so in
    ``__context__``: that may be an error that the caller is handling.
    """
    pending, seen = [error], []
    while pending:
        one = pending.pop()
        seen.append(one)
        names = {each.__name__ for each in type(one).__mro__}
        if isinstance(one, (ConnectionRefusedError, socket.gaierror)) or names & NOT_CONNECTED:
            return True
        below = [one.__cause__, getattr(one, "reason", None), *one.args]
        pending += [each for each in below if isinstance(each, Exception) and each not in seen]
    return False
