"""What a test suite can import."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .. import conf
from ..host import backend_of
from ..hosts import OUTBOX_BACKEND
from ..registry import BASE, host_of_mailer, with_first_member
from ..testmode import test_mode

__all__ = ["capture_mailers", "real_hosts"]


@contextmanager
def real_hosts() -> Iterator[None]:
    """Make every host real in a ``with`` block, or in a function that it decorates.

    Use it in a test that talks to a server. It applies to all threads of the process. A class
    or a coroutine function cannot be decorated.
    """
    test_mode.real_blocks += 1
    try:
        yield
    finally:
        test_mode.real_blocks -= 1


def capture_mailers() -> None:
    """Let ``using="shop"`` deliver to ``mail.outbox`` as the host ``shop`` does.

    Django's test environment replaces each mailer with an in-memory one, which knows no
    sender. Mailers with our backends become what ``get_connection`` uses in tests. A
    router stays as it is, because the hosts that it picks are captured.
    """
    captured = {}
    for alias, mailer in conf.mailers_before_tests().items():  # pragma: mailers-only
        if backend_of(mailer).is_a(BASE):
            host = host_of_mailer(alias, mailer)
            options = dict(with_first_member(host).options)
            in_tests = {"BACKEND": OUTBOX_BACKEND, "OPTIONS": options}
            captured[alias] = mailer if host.routes else in_tests
    if captured:  # pragma: mailers-only
        conf.settings.MAILERS = {**conf.mailers(), **captured}
