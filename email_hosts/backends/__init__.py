"""The public names of django-email-hosts."""

from ..dsn import parse_conf
from ..hosts import connection_from_dsn, get_connection
from ..retry import can_be_retried
from .base import HostBackend
from .failover import FailoverBackend
from .routing import RoutingBackend
from .smtp import EmailHostsBackend

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
