"""Signals that say whether a message was sent. An error in a receiver never changes a send.

``message_sent``: a host has taken the message. Receivers get ``message``, which is the
caller's own object, ``alias``, the key of the host that really sent it, and ``refused``, the
server's replies to recipients who do not get it (as smtplib's ``sendmail()`` returns them).
Receivers of both signals get ``seconds``: how long the send of this message took. A backend
that is not ours takes a list in one call, and then it is the time of the list.

``message_failed``: a host has not taken it, or nobody knows. Receivers get ``message`` and
``alias``, which may be ``None``, as the README says, and ``error``.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from django.dispatch import Signal

from .boundary import without_tracebacks
from .exceptions import raise_time_limit
from .log import warn

if TYPE_CHECKING:
    from .delivery import Outcome

message_sent = Signal()
message_failed = Signal()

_is_telling: ContextVar[bool] = ContextVar("is_telling", default=False)


def tell(sender: type, outcome: Outcome) -> None:
    """Send the signal of an outcome. Without receivers, it costs nothing.

    Django logs what a receiver raises (logger ``django.dispatch``). That log may be mailed, by
    ``AdminEmailHandler``, and a receiver may send mail itself. Such mail has no signals,
    because each could send another mail, without end.
    """
    signal = message_failed if outcome.error else message_sent
    if not signal.receivers or _is_telling.get():
        return
    told: dict[str, Any] = {
        "message": outcome.message,
        "alias": outcome.alias,
        "seconds": outcome.seconds,
    }
    told |= {"error": outcome.error} if outcome.error else {"refused": dict(outcome.refused)}
    try:  # first: a signal handler may raise behind any call
        _is_telling.set(True)
        with without_tracebacks(outcome.error):
            signal.send_robust(sender, **told)
    except Exception as error:  # of logging, or of an async receiver in a loop
        name = "message_sent" if signal is message_sent else "message_failed"
        raise_time_limit(error)
        warn("receivers of %s could not be called: %s", name, type(error).__name__)
    finally:
        _is_telling.set(False)
