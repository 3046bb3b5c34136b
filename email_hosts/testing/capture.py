"""Decides where mail goes while tests run."""

from __future__ import annotations

import sys
from contextlib import ContextDecorator
from functools import lru_cache
from inspect import iscoroutinefunction
from typing import Any

from django.core.mail.backends.locmem import EmailBackend as LocmemBackend

from .. import conf
from ..dsn import Mailer, parse
from ..exceptions import InvalidEmailHost
from ..log import warn
from ..mailer import backend_of, class_of, is_ours, is_router, members
from ..options import HOST_OPTION_NAMES, missing_headers

OUTBOX_BACKEND = "email_hosts.backends.outbox.OutboxBackend"

_real_hosts_blocks = 0  # how many ``with real_hosts()`` are open


class real_hosts(ContextDecorator):  # noqa: N801 (like Django's override_settings)
    """Makes every host real in a ``with`` block, or in a function that it decorates.

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
        global _real_hosts_blocks
        _real_hosts_blocks += 1

    def __exit__(self, *exc_info: object) -> None:
        """Capture their mail again."""
        global _real_hosts_blocks
        _real_hosts_blocks -= 1


def captures_mail() -> bool:
    """Whether the mail of hosts is delivered to ``mail.outbox`` instead.

    True in Django's test environment, and while the default mailer is an in-memory one.
    """
    default = conf.default_mailer()
    return _tests_are_running() or (default is not None and is_in_memory(default))


def is_real(key: str | None = None) -> bool:
    """Whether a host is real in tests: a test has set or changed it, or uses ``real_hosts``.

    ``None`` stands for a host that is not in ``EMAIL_HOSTS``.
    """
    if _real_hosts_blocks or key is None:
        return _real_hosts_blocks > 0
    of_file = conf.email_hosts_of_file()
    return key not in of_file or of_file[key] != conf.email_hosts().get(key)


def outbox_for(mailer: Mailer) -> Mailer:
    """Return the mailer that delivers to ``mail.outbox`` in place of this one."""
    if not _tests_are_running():
        _warn_of_outbox()
    return {
        "BACKEND": OUTBOX_BACKEND,
        "OPTIONS": _with_first_member(mailer),
    }


def capture_mailers() -> None:
    """Let ``using="shop"`` deliver to ``mail.outbox`` as the host ``shop`` does.

    Django's test environment replaces each mailer with an in-memory one, which knows no
    sender. Mailers with our backends become what ``get_connection`` uses in tests. A
    router stays as it is, because the hosts that it picks are captured.
    """
    # Private: saved_data. Nothing else holds the original MAILERS.
    state: Any = sys.modules["django.test.utils"]
    saved: dict[str, Mailer] = getattr(state._TestState.saved_data, "mailers", {})
    captured = {alias: _captured(mailer) for alias, mailer in saved.items() if is_ours(mailer)}
    if captured:  # pragma: mailers-only
        conf.settings.MAILERS = {**conf.mailers(), **captured}


def is_in_memory(mailer: Mailer) -> bool:
    """Whether the mailer delivers to ``mail.outbox`` by itself."""
    try:
        return "BACKEND" in mailer and issubclass(class_of(backend_of(mailer)), LocmemBackend)
    except ImportError:
        return False


def _tests_are_running() -> bool:
    # Private: _TestState. Nothing public says whether setup_test_environment() ran.
    utils = sys.modules.get("django.test.utils")
    return hasattr(getattr(utils, "_TestState", None), "saved_data")


def _captured(mailer: Mailer) -> Mailer:  # pragma: mailers-only
    return mailer if is_router(mailer) else outbox_for(mailer)


@lru_cache(maxsize=1)  # warn once
def _warn_of_outbox() -> None:
    warn(
        "The default mailer is Django's in-memory backend, and so every host delivers to "
        "mail.outbox: nothing is sent. That is meant for tests."
    )


def _with_first_member(mailer: Mailer, *above: str) -> dict[str, Any]:
    """Return the options of a host, with what its first member does to a message.

    A member may have members itself. ``above`` holds the keys on the path to it,
    because these may form a cycle.
    """
    own = mailer.get("OPTIONS", {})
    first = next(iter(members(mailer)), None)
    if first is None or first in above:
        return own
    try:
        member = parse(conf.email_hosts().get(first), alias=first)
    except InvalidEmailHost:
        return own
    below = _with_first_member(member, *above, first)
    of_member = {name: below[name] for name in HOST_OPTION_NAMES if name in below}
    headers = own.get("headers", {})
    headers = {**headers, **missing_headers(of_member.get("headers", {}), headers)}
    return {**of_member, **own, "headers": headers}
