"""What a test suite can import."""

from __future__ import annotations

from contextlib import ContextDecorator
from inspect import iscoroutinefunction
from typing import Any

from .. import conf
from ..host import bare_host
from ..hosts import OUTBOX_BACKEND
from ..registry import BASE, host_of_mailer, with_first_member
from ..testmode import test_mode

__all__ = ["capture_mailers", "real_hosts"]


class real_hosts(ContextDecorator):  # noqa: N801 (like Django's override_settings)
    """Makes every host of ``EMAIL_HOSTS`` real, in a ``with`` block or a decorated function.

    Use it in a test that talks to a server. It applies to all threads of the process.
    Raises ``TypeError`` for a class or a coroutine function, which it cannot decorate.
    """

    def __call__(self, function: Any) -> Any:
        """Decorate a function."""
        if isinstance(function, type) or iscoroutinefunction(function):
            raise TypeError("real_hosts() decorates functions; use 'with real_hosts():' here")
        return super().__call__(function)

    def __enter__(self) -> None:
        """Make hosts real."""
        test_mode.real_blocks += 1

    def __exit__(self, *exc_info: object) -> None:
        """Capture their mail again."""
        test_mode.real_blocks -= 1


def capture_mailers() -> None:
    """Let ``using="shop"`` deliver to ``mail.outbox`` as the host ``shop`` does.

    Django's test environment replaces each mailer with an in-memory one, which knows no
    sender. Mailers with our backends become what ``get_connection`` uses in tests. A
    router stays as it is, because the hosts that it picks are captured.
    """
    captured = {}
    for alias, mailer in conf.mailers_before_tests().items():  # pragma: mailers-only
        if bare_host(mailer).is_a(BASE):
            host = host_of_mailer(alias, mailer)
            options = dict(with_first_member(host).options)
            in_tests = {"BACKEND": OUTBOX_BACKEND, "OPTIONS": options}
            captured[alias] = mailer if host.routes else in_tests
    if captured:  # pragma: mailers-only
        conf.settings.MAILERS = {**conf.mailers(), **captured}
