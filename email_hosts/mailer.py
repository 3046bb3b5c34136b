"""Inspects mailers: entries of ``MAILERS``, or what DSNs stand for."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from django.utils.module_loading import import_string

from .dsn import HOST_BACKEND, Mailer, keys_of
from .exceptions import InvalidEmailHost


def backend_of(mailer: Mailer) -> str:
    """Return the path of the backend that sends, which a ``HostBackend`` may wrap.

    Raises ``InvalidEmailHost`` for a DSN in ``MAILERS``.
    """
    if not isinstance(mailer, dict):
        raise InvalidEmailHost(
            f"each entry of MAILERS must be a dict, not {type(mailer).__name__}; write "
            "MAILERS = mailers(EMAIL_HOSTS), which makes entries of DSNs"
        )
    # An entry that a user has written may lack BACKEND or OPTIONS.
    path = mailer.get("BACKEND", "")
    backend = mailer.get("OPTIONS", {}).get("backend", "")
    return str(backend) if path == HOST_BACKEND else path


def is_ours(mailer: Mailer) -> bool:  # pragma: mailers-only
    """Whether the mailer has a backend of this app, or one that inherits from it."""
    return _has(str(mailer.get("BACKEND", "")), "applies_host")


def is_router(mailer: Mailer) -> bool:
    """Whether this mailer asks the router for a host."""
    return _has(backend_of(mailer), "asks_router")


def members(mailer: Mailer) -> tuple[str, ...]:
    """Return the keys of the hosts that a failover or round robin consists of."""
    if not _has(backend_of(mailer), "has_members"):
        return ()
    return keys_of(mailer.get("OPTIONS", {}).get("hosts", ()))


@lru_cache(maxsize=64)  # each get_connection() asks
def class_of(path: str) -> Any:
    """Return the class at this path. Raises what importing its module raises."""
    return import_string(path)


def _has(path: str, attribute: str) -> bool:
    """Whether the class at this path has this attribute, and it is true."""
    try:
        return bool(getattr(class_of(path), attribute, False))
    except Exception:  # of its module; reported where the backend is built
        return False
