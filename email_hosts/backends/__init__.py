"""The public names of django-email-hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.utils.module_loading import import_string

from ..dsn import parse_conf
from ..hosts import connection_from_dsn, get_connection

if TYPE_CHECKING:
    from ..retry import can_be_retried
    from .failover import FailoverBackend
    from .routing import RoutingBackend
    from .smtp import EmailHostsBackend
    from .wrapped import HostBackend

__all__ = [
    "EmailHostsBackend",
    "FailoverBackend",
    "HostBackend",
    "RoutingBackend",
    "can_be_retried",
    "connection_from_dsn",
    "get_connection",
    "parse_conf",
]

# Imported when somebody asks for the name, or when a host has the class.
MODULES = {
    "EmailHostsBackend": "email_hosts.backends.smtp",
    "FailoverBackend": "email_hosts.backends.failover",
    "HostBackend": "email_hosts.backends.wrapped",
    "RoutingBackend": "email_hosts.backends.routing",
    "can_be_retried": "email_hosts.retry",
}


def __getattr__(name: str) -> Any:
    """Return one of these names (PEP 562)."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = import_string(f"{MODULES[name]}.{name}")
    globals()[name] = found  # so that the next one does not get here
    return found
