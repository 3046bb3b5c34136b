"""What an error gets and loses where it leaves this package.

It gets the name of its host. It loses the local variables in its traceback: Sentry,
structlog, rich, pytest and others show those of each frame. Ours, and those of the clients
below us, hold DSNs, logins and messages.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from types import FrameType
from typing import ParamSpec, TypeVar

from .exceptions import AllHostsFailed, InvalidEmailHost, name_host

P = ParamSpec("P")
T = TypeVar("T")

PACKAGE = __name__.partition(".")[0]

# Modules of these packages hold a login, wherever they stand in a traceback.
HOLDS_LOGIN = {PACKAGE, "smtplib", "anymail"}

# These hold one if something above called them with it. By name: not all are dependencies.
CLIENTS = {
    *("botocore", "http", "httpcore", "httpx", "requests", "socket", "ssl", "urllib"),
    "urllib3",
}


def boundary(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate what a project calls.

    An error that leaves it has no local variables of ours in its traceback. It has a note of
    the host, if the function is a method of a backend. An ``InvalidEmailHost`` without a host
    gets the ``alias`` of the call, Django's name for it.
    """

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            failure = error
        alias = kwargs.get("alias")
        if isinstance(failure, InvalidEmailHost) and failure.alias is None and alias:
            failure.name(str(alias), "MAILERS")
        if args and isinstance(failure, Exception):
            name_host(failure, getattr(args[0], "full_name", ""))
        del args, kwargs
        _clear_frames(failure)
        try:
            raise failure
        finally:
            del failure  # a reference cycle, with all that an interruption has left behind

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


def _clear_frames(failure: BaseException) -> None:
    with_secrets: set[FrameType] = set()
    for error in _chain(failure):
        has_secrets = False
        for frame, _ in traceback.walk_tb(error.__traceback__):
            package = str(frame.f_globals.get("__name__")).partition(".")[0]
            # Frames below a callable of the project are not ours. A cause begins in a frame
            # that the error above it has, too.
            is_below = (has_secrets and package in CLIENTS) or frame in with_secrets
            has_secrets = package in HOLDS_LOGIN or is_below
            if has_secrets:
                with_secrets.add(frame)
    for frame in with_secrets:
        with suppress(RuntimeError):  # the frame of the wrapper, which is still running
            frame.clear()


def _chain(error: BaseException) -> list[BaseException]:
    """Return the error with its causes and contexts."""
    chain = [error]
    for each in chain:
        below = [each.__cause__, each.__context__]
        below += each.errors.values() if isinstance(each, AllHostsFailed) else ()
        chain += [one for one in below if one is not None and one not in chain]
    return chain
