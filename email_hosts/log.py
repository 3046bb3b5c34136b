"""The logger ``email_hosts``, of which no record disturbs a send."""

from __future__ import annotations

import logging
from contextlib import suppress
from contextvars import ContextVar, copy_context

from .circle import another_way

logger = logging.getLogger("email_hosts")

_is_logging: ContextVar[bool] = ContextVar("is_logging", default=False)


def warn(message: str, *arguments: object) -> None:
    """Log a warning, which nothing that a handler does can turn into a failed send.

    A handler may send mail itself, as ``AdminEmailHandler`` does: that is a send of its
    own, and what would be logged about it is not, lest there be no end to it.
    """
    if not _is_logging.get():
        copy_context().run(_warn, message, *arguments)


def _warn(message: str, *arguments: object) -> None:
    _is_logging.set(True)
    with suppress(Exception), another_way():
        logger.warning(message, *arguments)
