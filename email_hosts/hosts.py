"""How a key or a DSN becomes a connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Any, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.mail.backends.base import BaseEmailBackend
from django.utils.module_loading import import_string

from . import conf
from .boundary import boundary
from .dsn import parse_from_elsewhere
from .exceptions import EmailHostDoesNotExist, InvalidEmailHost, checked_flag, shown
from .host import FAILOVER_BACKEND, HOST_BACKEND, TABLES, Host, class_at
from .log import warn
from .options import HOST_OPTIONS, NOT_GIVEN
from .registry import BASE, find_cycle, registry, with_first_member
from .schemes import SMTP_SCHEMES
from .testmode import LOCMEM_BACKEND, test_mode
from .values import takes

# Whether this server may be used: a host name or an IP address, and a port.
Allow = Callable[[str, int], bool]

OUTBOX_BACKEND = "email_hosts.backends.outbox.OutboxBackend"

MAX_KEYS_SHOWN = 10


@boundary
def get_connection(
    key: str, *, fail_silently: bool = False, **options: Any
) -> BaseEmailBackend:
    """Return a new, unopened connection to the host of this key.

    ``options`` replace the host's own. The connection has the attributes ``alias``,
    ``default_from_email`` and ``server_email`` (``""`` where the host has none).

    An unknown key gets the default backend, without the ``options``, which are not meant for
    it. With ``EMAIL_HOSTS_STRICT`` it raises ``EmailHostDoesNotExist``. A host that is not
    valid raises ``InvalidEmailHost``.
    """
    # For a project without the app in INSTALLED_APPS. By its path: Django's debug pages take
    # time to import.
    import_string("email_hosts.debug.install")()
    fail_silently = checked_flag(fail_silently)
    host = registry().find(key)
    if host is None:
        connection = _default_connection(key)
        if fail_silently:
            connection.fail_silently = True
        return connection
    if host.members and (cycle := find_cycle(key)):
        raise InvalidEmailHost(
            f"hosts name each other in a cycle: {' -> '.join(map(shown, cycle))}", alias=key
        )
    return cast("BaseEmailBackend", _connection(host, options, fail_silently=fail_silently))


@boundary
def connection_from_dsn(
    dsn: str,
    *,
    schemes: Iterable[str] = tuple(SMTP_SCHEMES),
    allow: Allow | None = None,
    fail_silently: bool = False,
    **options: Any,
) -> BaseEmailBackend:
    """Return a new, unopened connection to a host that is not in ``EMAIL_HOSTS``.

    The DSN may come from a stranger. It must have one of these ``schemes``.
    ``allow(host, port)`` decides whether a server may be used. It is called with the host
    of the DSN, and again with each of its IP addresses when the connection is opened.

    ``alias`` is ``None``. All else is as in ``get_connection``. Raises
    ``InvalidEmailHost``.
    """
    fail_silently = checked_flag(fail_silently)
    if allow is not None and not takes(allow, "", 0):
        raise InvalidEmailHost("'allow' must be a function: allow(host, port) returns True")
    host = parse_from_elsewhere(dsn, schemes).but(**options)
    if allow is not None and host.is_smtp:
        server = host.options["host"], host.options["port"]
        if (answer := allow(*server)) is not True:
            more = "" if answer is False else "; to allow one, it must return True"
            raise InvalidEmailHost(f"allow() does not allow this server{more}")
    connection = _connection(host, {}, fail_silently=fail_silently)
    connection.allow = allow
    return cast("BaseEmailBackend", connection)


def connection_to(key: str) -> Any:
    """Return a new connection to a host that must exist, for a backend that sends through it.

    Raises ``EmailHostDoesNotExist`` for a key without a host, and ``InvalidEmailHost`` for
    a host that asks the router.
    """
    host = registry().find(key)
    if host is None or (host.setting == "MAILERS" and host.routes):
        raise _does_not_exist(key)
    if host.routes:
        raise InvalidEmailHost("it asks the router, so no other host can use it", alias=key)
    return get_connection(key)


def adopt(connection: BaseEmailBackend) -> Any:
    """Return a connection that somebody else has made, as one of ours.

    In tests, it is an outbox that changes a message as the connection does. A failover is
    not captured as a whole, because its hosts are captured.
    """
    ours: Any = connection if isinstance(connection, class_at(BASE)) else None
    alias = getattr(connection, "alias", None)
    not_captured = class_at(LOCMEM_BACKEND), class_at(FAILOVER_BACKEND)
    if not isinstance(connection, not_captured):
        options = {name: getattr(ours, name) for name in HOST_OPTIONS} if ours else {}
        host = Host(None, OUTBOX_BACKEND, options)
        if test_mode.captures(host):
            return class_at(OUTBOX_BACKEND).from_host(replace(host, key=alias))
    return ours or class_at(HOST_BACKEND)(connection, alias=alias)


def build(host: Host) -> Any:
    """Return the backend of a host. In tests, that may be an outbox."""
    if test_mode.captures(host):
        return class_at(OUTBOX_BACKEND).from_host(with_first_member(host))
    return build_real(host)


def build_real(host: Host) -> Any:
    """Return the backend of a host, in tests too: checks build it, and send nothing.

    A backend that is not ours is wrapped in a ``HostBackend``. Raises ``InvalidEmailHost`` if
    there is no such backend or it refuses an option.
    """
    try:
        backend_class = class_at(host.backend)
        if host.backend in TABLES:
            return backend_class.from_host(host)
        if host.is_a(BASE):
            return backend_class(alias=host.key or "", **host.options)
        return class_at(HOST_BACKEND).from_host(host)
    except (ImproperlyConfigured, TypeError) as error:
        reason = str(getattr(error, "reason", error))
    reason = reason.removeprefix(f"MAILERS[{host.key or ''!r}]: ")
    raise InvalidEmailHost(reason, alias=host.key, setting=host.setting)


def _connection(host: Host, options: Mapping[str, Any], *, fail_silently: bool) -> Any:
    try:
        connection = build(host.but(**options) if options else host)
    except InvalidEmailHost as error:
        if options:  # the error is about the call, and not about the setting
            error.args = (f'get_connection("{shown(host.key)}"): {error.reason}',)
        raise
    connection.fail_silently = fail_silently
    connection.pickled_key = None if options or fail_silently else host.key
    return connection


def _default_connection(key: str) -> BaseEmailBackend:
    """Return what a key without a host gets, or raise ``EmailHostDoesNotExist``."""
    if conf.strict():
        raise _does_not_exist(key)
    if any(dsn not in NOT_GIVEN for dsn in registry().dsns.values()):
        _warn_of_default(key)
    connection = conf.default_connection()
    if connection is None:  # pragma: mailers-only
        raise _does_not_exist(key, ', and there is no MAILERS["default"]')
    return connection


@lru_cache(maxsize=1024)  # warn once for each key
def _warn_of_default(key: str) -> None:
    warn("%s", _does_not_exist(key, ", so its mail goes to the default backend"))


def _does_not_exist(key: str, more: str = "") -> EmailHostDoesNotExist:
    """Return an error that says why there is no host of this key, and which ones there are."""
    problem = "the host is empty" if key in registry().dsns else "there is no such host"
    known = listed(map(shown, registry().keys())) or "none"
    return EmailHostDoesNotExist(f"{problem}{more}; known hosts: {known}", alias=key)


def listed(names: Iterable[str]) -> str:
    """Return the first of these names, for a message. There may be thousands."""
    first = list(islice(names, MAX_KEYS_SHOWN + 1))
    more = " and others" if len(first) > MAX_KEYS_SHOWN else ""
    return ", ".join(first[:MAX_KEYS_SHOWN]) + more
