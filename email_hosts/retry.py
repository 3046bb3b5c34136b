"""Whether a message that failed may be sent again, later or through another host."""

from __future__ import annotations

import math
import smtplib
import socket
import ssl
from itertools import dropwhile
from traceback import walk_tb

from .boundary import is_own
from .exceptions import AllHostsFailed, RateLimited
from .smtp.tls import NOT_TLS

# Raised before the message is offered, or when the server refuses MAIL.
NOT_OFFERED = (
    smtplib.SMTPConnectError,
    smtplib.SMTPHeloError,
    smtplib.SMTPNotSupportedError,
    smtplib.SMTPAuthenticationError,
    smtplib.SMTPSenderRefused,
    RateLimited,
)

# Whether somebody has the message, as ``error.delivery``. The moment of an error tells, and
# not its class: a signal handler may raise any.
NOT_SENT = "not sent"  # certainly nobody has it
PERHAPS = "perhaps"  # it was sent, and not answered

# Errors of urllib3 and botocore. By name, because neither is a dependency. The last has no
# login.
NOT_CONNECTED = {
    "NewConnectionError",
    "ConnectTimeoutError",
    "NameResolutionError",
    "EndpointConnectionError",
    "NoCredentialsError",
}


def set_delivery(error: BaseException, delivery: str) -> None:
    """Note on an error whether somebody has the message."""
    error.delivery = delivery  # type: ignore[attr-defined]


def delivery_of(error: BaseException) -> str | None:
    """Return what is noted on an error, or ``None`` if nothing is."""
    return getattr(error, "delivery", None)


def can_be_retried(error: BaseException) -> bool:
    """Whether, after this error, sending the message again later is safe and may help.

    True if certainly nobody got it, and a retry may help: also where the login or the sender
    was refused. False if it may have been delivered, or the message or its recipients were
    refused permanently (RFC 5321, 4.2.1). The README has a table. Of several messages, some
    may have been sent: see ``error.unsent`` and ``error.failed``.

    Call it where you catch the error: pickling loses what it needs.
    """
    return may_be_tried_elsewhere(error) and not is_too_much(error)


def may_be_tried_elsewhere(error: BaseException) -> bool:
    """Whether certainly nobody got the message, and another host may accept it."""
    if _is_of_a_receiver(error) or delivery_of(error) == PERHAPS:
        return False
    if isinstance(error, AllHostsFailed):
        return True
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return any(code < 500 for code, _ in error.recipients.values())
    if isinstance(error, NOT_OFFERED):
        return True
    if isinstance(error, smtplib.SMTPDataError) and error.smtp_code >= 400:
        return error.smtp_code < 500
    if delivery_of(error) == NOT_SENT:
        return True
    errors = _with_causes(error)
    if status := next(filter(None, map(_http_status, errors)), None):
        return status == 429 or status >= 500
    return any(map(_could_not_connect, errors))


def is_answer(error: BaseException) -> bool:
    """Whether it is the answer of a provider, which has a status of HTTP."""
    return any(map(_http_status, _with_causes(error)))


def is_too_much(error: BaseException) -> bool:
    """Whether the message is too large (RFC 1870, 6.2), or has too many recipients."""
    if isinstance(error, AllHostsFailed):
        return len(error.errors) > 0 and all(map(is_too_much, error.errors.values()))
    if isinstance(error, RateLimited):
        return error.retry_after == math.inf
    return isinstance(error, smtplib.SMTPSenderRefused) and error.smtp_code == 552


def _is_of_a_receiver(error: BaseException) -> bool:
    """Whether a receiver of a signal raised this while a backend of ours was sending.

    Then it says nothing about the message: Anymail's ``post_send`` comes after the provider
    has accepted it.
    """
    modules = [frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__)]
    below = dropwhile(lambda module: not is_own(module), modules)
    return "django.dispatch.dispatcher" in below


def _with_causes(error: BaseException) -> list[BaseException]:
    """Return the error and its causes.

    The cause may be in ``reason`` (urllib3), among the arguments (requests) or in ``kwargs``
    (botocore). It is not in ``__context__``, which may be an error that the caller handles.
    """
    found = [error]
    for one in found:
        kwargs = getattr(one, "kwargs", None)
        below = [one.__cause__, getattr(one, "reason", None), *one.args]
        below += kwargs.values() if isinstance(kwargs, dict) else ()
        found += [
            each for each in below if isinstance(each, BaseException) and each not in found
        ]
    return found


def _http_status(error: BaseException) -> int | None:
    """Return the status of a provider's answer: Anymail's, or that of botocore below it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(error, "status_code", None) or getattr(response, "status_code", response)
    return status if isinstance(status, int) else None


def _could_not_connect(error: BaseException) -> bool:
    """Whether there was no connection, or none with TLS, so that nothing has been sent."""
    if isinstance(error, ssl.SSLError):  # others come later, too
        return isinstance(error, ssl.SSLCertVerificationError) or error.reason in NOT_TLS
    names = {each.__name__ for each in type(error).__mro__}
    is_refused = isinstance(error, (ConnectionRefusedError, socket.gaierror))
    return is_refused or not names.isdisjoint(NOT_CONNECTED)
