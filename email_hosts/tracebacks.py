"""Tracebacks without the local variables of this package and of the clients below it.

Sentry, structlog, rich, pytest and others show the local variables of each frame in a
traceback. These hold DSNs, user names and passwords, and messages.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Modules besides smtplib through which a password or a client secret reaches a server.
CLIENTS = {"http.client", "socket", "ssl", "urllib.request"}

PACKAGE = __name__.partition(".")[0]


def clear_frames(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function so that no error leaves it with these variables in its traceback."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            failure = error
        del args, kwargs
        for each in _chain(failure):
            has_secrets = False
            for frame, _ in traceback.walk_tb(each.__traceback__):
                module = frame.f_globals.get("__name__")
                # Frames below a callable of the project are not ours.
                is_below = has_secrets and module in CLIENTS
                has_secrets = is_own(module) or module == "smtplib" or is_below
                if has_secrets:
                    with suppress(RuntimeError):  # this frame, which is still running
                        frame.clear()
        raise failure

    return wrapper


@contextmanager
def without_tracebacks(error: BaseException | None) -> Iterator[None]:
    """Remove the tracebacks from an error while other code sees it.

    Their frames are still running, so they cannot be cleared.
    """
    chain = [] if error is None else _chain(error)
    kept = [each.__traceback__ for each in chain]
    for each in chain:
        each.__traceback__ = None
    try:
        yield
    finally:
        for each, its_own in zip(chain, kept, strict=True):
            each.__traceback__ = its_own


def is_own(module: object) -> bool:
    """Whether a module of this name belongs to this package."""
    return isinstance(module, str) and module.partition(".")[0] == PACKAGE


def _chain(error: BaseException) -> list[BaseException]:
    """Return the error with its causes and contexts."""
    chain = [error]
    for each in chain:
        below = (each.__cause__, each.__context__)
        chain += [one for one in below if one is not None and one not in chain]
    return chain
