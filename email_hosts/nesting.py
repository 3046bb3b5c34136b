"""What a send takes place within: other hosts, or a log record about them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context

from .exceptions import InvalidEmailHost

logger = logging.getLogger("email_hosts")

_hosts: ContextVar[tuple[object, ...]] = ContextVar("hosts", default=())
_is_logging: ContextVar[bool] = ContextVar("is_logging", default=False)


@contextmanager
def not_in_a_circle(host: object) -> Iterator[None]:
    """Raise ``InvalidEmailHost`` if this host is on the way to itself."""
    way = (*_hosts.get(), host)
    if host in way[:-1]:
        raise InvalidEmailHost(
            f"hosts name each other in a circle: {' -> '.join(map(str, way))}"
        )
    token = _hosts.set(way)
    try:
        yield
    finally:
        _hosts.reset(token)


@contextmanager
def out_of_the_circle(connection: object) -> Iterator[None]:
    """Let a host that sends by itself be the end of the way.

    What is sent meanwhile is another message: a receiver of Anymail's ``post_send`` may send
    one, through any host.
    """
    way = _hosts.get() if getattr(connection, "sends_through_hosts", False) else ()
    token = _hosts.set(way)
    try:
        yield
    finally:
        _hosts.reset(token)


def warn(message: str, *arguments: object) -> None:
    """Log a warning, which nothing that a handler does can turn into a failed send.

    A handler may send mail itself, as ``AdminEmailHandler`` does: that is a send of its
    own, and what would be logged about it is not, lest there be no end to it.
    """
    if not _is_logging.get():
        copy_context().run(_warn, message, *arguments)


def _warn(message: str, *arguments: object) -> None:
    _is_logging.set(True)
    _hosts.set(())
    with suppress(Exception):
        logger.warning(message, *arguments)
