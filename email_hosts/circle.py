"""Hosts that name other hosts: none may be on the way to itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from .exceptions import InvalidEmailHost

# The hosts that hand the message of the moment to each other.
_way: ContextVar[tuple[object, ...]] = ContextVar("way", default=())


@contextmanager
def not_in_a_circle(host: object) -> Iterator[None]:
    """Raise ``InvalidEmailHost`` if this host is on the way to itself."""
    way = (*_way.get(), host)
    if host in way[:-1]:
        raise InvalidEmailHost(
            f"hosts name each other in a circle: {' -> '.join(map(str, way))}"
        )
    token = _way.set(way)
    try:
        yield
    finally:
        _way.reset(token)


@contextmanager
def another_way() -> Iterator[None]:
    """Forget the way: what is sent meanwhile is another message, through any host."""
    token = _way.set(())
    try:
        yield
    finally:
        _way.reset(token)


def handing_over_to(connection: object) -> AbstractContextManager[None]:
    """Return the context in which this connection gets a message.

    One that sends by itself is the end of the way: a receiver of Anymail's ``post_send``,
    say, may send another message then.
    """
    is_on_the_way = getattr(connection, "sends_through_hosts", False)
    return nullcontext() if is_on_the_way else another_way()
