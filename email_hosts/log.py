"""The logger ``email_hosts``. An error of a log handler ends no send."""

from __future__ import annotations

import logging
from contextvars import ContextVar, copy_context

from .exceptions import raise_time_limit

logger = logging.getLogger("email_hosts")

_is_logging: ContextVar[bool] = ContextVar("is_logging", default=False)


def warn(message: str, *arguments: object) -> None:
    """Log a warning. Only the time limit of a task gets out of a log handler.

    A handler may send mail itself, as ``AdminEmailHandler`` does. Nothing is logged about that
    mail, because each record would send another one, without end.
    """
    if not _is_logging.get():
        copy_context().run(_log, logging.WARNING, message, *arguments)


def debug(message: str, *arguments: object) -> None:
    """Log what only a developer wants to know, with the same care."""
    if logger.isEnabledFor(logging.DEBUG) and not _is_logging.get():
        copy_context().run(_log, logging.DEBUG, message, *arguments)


def _log(level: int, message: str, *arguments: object) -> None:
    _is_logging.set(True)
    try:
        logger.log(level, message, *arguments)
    except Exception as error:
        raise_time_limit(error)
