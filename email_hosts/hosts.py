"""Turns a key or DSN into a connection: finds, builds and labels its backend."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple, cast

import django
from django.core.exceptions import ImproperlyConfigured
from django.core.mail.backends.base import BaseEmailBackend
from django.utils.module_loading import import_string

from . import conf, debug, host_lookup
from .dsn import (
    ANYMAIL,
    HOST_BACKEND,
    LOCAL_SCHEMES,
    PROVIDERS,
    SMTP_BACKEND,
    SMTP_SCHEMES,
    Mailer,
    checked_key,
    is_empty,
    scheme_of,
)
from .exceptions import EmailHostDoesNotExist, InvalidEmailHost, named, shown
from .keyword_options import in_python
from .log import warn
from .mailer import backend_of, is_ours, is_router, members
from .options import HOST_OPTION_NAMES, HOST_OPTIONS, SMTP_OPTIONS, did_you_mean
from .smtp.connection import Allow
from .testing import capture
from .tracebacks import clear_frames
from .untrusted import parse_untrusted

# Django uses this for an entry of MAILERS without a BACKEND.
DJANGO_DEFAULT_BACKEND = "django.core.mail.backends.smtp.EmailBackend"

MAX_KEYS_SHOWN = 10


class Host(NamedTuple):
    """A mailer, the setting that defines it, and whether tests capture its mail."""

    mailer: Mailer
    setting: str = "EMAIL_HOSTS"
    goes_to_outbox: bool = False


@clear_frames
def get_connection(
    key: str, *, fail_silently: bool = False, **options: Any
) -> BaseEmailBackend:
    """Return a new, unopened connection to the host of this key.

    ``options`` replace the host's own. You can name them as in a DSN or as the backend
    does. The connection has the attributes ``alias``, ``default_from_email`` and
    ``server_email`` (``""`` where the host has none).

    An unknown key gets the default backend, without the ``options``, which are not meant for
    it. With ``EMAIL_HOSTS_STRICT`` it raises ``EmailHostDoesNotExist``. A host that is not
    valid raises ``InvalidEmailHost``.
    """
    debug.install()  # for a project without the app in INSTALLED_APPS
    host = find(key)
    if host is None:
        options.clear()
        connection = _default_connection(key)
    else:
        if members(host.mailer) and (cycle := find_cycle(key)):
            raise InvalidEmailHost(
                f"hosts name each other in a cycle: {' -> '.join(map(shown, cycle))}",
                alias=key,
            )
        connection = _connection(host, options, alias=key)
    is_just_its_key = not options and not fail_silently
    return _label(
        connection,
        alias=key,
        pickled_key=key if is_just_its_key else None,
        fail_silently=fail_silently,
    )


@clear_frames
def connection_from_dsn(
    dsn: str,
    *,
    schemes: Iterable[str] = tuple(SMTP_SCHEMES),
    allow: Allow | None = None,
    file_options: Collection[str] = (),
    fail_silently: bool = False,
    **options: Any,
) -> BaseEmailBackend:
    """Return a new, unopened connection to a host that is not in ``EMAIL_HOSTS``.

    The DSN may come from a stranger. It must have one of these ``schemes``, and may
    name files only in these ``file_options``. ``allow(host, port)`` decides whether a
    server may be used. It is called with the host of the DSN, and again with each of
    its IP addresses when the connection is opened.

    ``alias`` is ``None``. All else is as in ``get_connection``. Raises
    ``InvalidEmailHost``.
    """
    mailer = parse_untrusted(dsn, schemes, file_options)
    if allow and mailer["BACKEND"] == SMTP_BACKEND:
        options["allow"] = allow
    elif allow and scheme_of(dsn) not in LOCAL_SCHEMES:
        raise InvalidEmailHost(f"allow= cannot be asked about a '{scheme_of(dsn)}' host")
    host = Host(mailer, goes_to_outbox=capture.captures_mail() and not capture.is_real())
    connection = _connection(host, options, alias=None)
    return _label(connection, alias=None, pickled_key=None, fail_silently=fail_silently)


def get_host(key: str, **options: Any) -> BaseEmailBackend:
    """Return a new connection to a host that must exist, for a backend that sends through it.

    Raises ``EmailHostDoesNotExist`` for a key without a host, and ``InvalidEmailHost`` for
    one that would ask the router.
    """
    host = find(key)
    if host is None or (host.setting == "MAILERS" and is_router(host.mailer)):
        raise EmailHostDoesNotExist(f"{_problem_with(key)}; {_known_hosts()}", alias=key)
    if is_router(host.mailer):
        raise InvalidEmailHost("it sends through the router, which picks a host", alias=key)
    return get_connection(key, **options)


def find(key: str) -> Host | None:
    """Return the host of this key, or ``None`` if it has none of its own.

    Raises ``InvalidEmailHost`` if its DSN is not valid.
    """
    dsn = conf.email_hosts().get(checked_key(key))
    mailer = conf.mailers().get(key)
    if is_empty(dsn):
        return None if mailer is None else Host(mailer, "MAILERS")
    captures_mail = capture.captures_mail()
    of_host = host_lookup.current().mailer
    # A router in MAILERS may pick the host that has the router's own key. In tests,
    # Django replaces MAILERS with in-memory mailers, which lack the host's options.
    if (
        mailer is None
        or is_router(mailer)
        or (
            captures_mail
            and (capture.is_in_memory(mailer) or mailer == host_lookup.current().mailer(key))
        )
    ):
        goes_to_outbox = captures_mail and not capture.is_real(key)
        return Host(of_host(key), goes_to_outbox=goes_to_outbox)
    return Host(mailer, "MAILERS")  # pragma: mailers-only


def find_cycle(key: str, acyclic: set[str] | None = None) -> tuple[str, ...]:
    """Return the path from a host back to itself, ``("a", "b", "a")``, or ``()``.

    ``acyclic`` holds hosts that lead to no cycle. The search skips and adds to them.
    """
    acyclic = set() if acyclic is None else acyclic
    visited: set[str] = set()
    other_cycles = False
    ways: list[tuple[str, ...]] = [(key,)]
    while ways:
        way = ways.pop()
        if way[-1] in way[:-1]:
            if way[-1] == key:
                return way
            other_cycles = True
        elif way[-1] not in visited and way[-1] not in acyclic:
            visited.add(way[-1])
            with suppress(InvalidEmailHost):  # reported where the host is used
                host = find(way[-1])
                ways += [(*way, member) for member in members(host.mailer)] if host else []
    if not other_cycles:
        acyclic |= visited
    return ()


def known_keys() -> list[str]:
    """Return the keys that have a host of their own, in the order of the settings."""
    return list(_known_keys())


def _known_keys() -> Iterator[str]:
    configured = conf.email_hosts()
    for key, dsn in configured.items():
        if not is_empty(dsn):
            yield str(key)
    for key, mailer in conf.mailers().items():  # pragma: mailers-only
        if is_empty(configured.get(key)) and not is_router(mailer):
            yield key


def own_mailers() -> dict[str, Mailer]:
    """Return the ``MAILERS`` entries with our backends and without a host of that key.

    Raises ``InvalidEmailHost`` if an entry is a DSN.
    """
    configured = conf.email_hosts()
    return {
        alias: mailer
        for alias, mailer in conf.mailers().items()
        if backend_of(mailer) and is_empty(configured.get(alias)) and is_ours(mailer)
    }


def is_shadowed(key: str, host: Mailer) -> bool:
    """Whether ``MAILERS`` has a different entry for this key, which comes first."""
    found = find(key)
    return found is not None and found.setting == "MAILERS" and found.mailer != host


def build(
    mailer: Mailer,
    options: Mapping[str, Any],
    *,
    alias: str | None,
    setting: str = "EMAIL_HOSTS",
) -> Any:
    """Return the backend of a mailer, with its options replaced by these.

    A backend that is not ours is wrapped in a ``HostBackend``. So is a failover or a router
    that has host options. Raises ``InvalidEmailHost`` if there is no such backend or it
    refuses an option.
    """
    path = mailer.get("BACKEND", DJANGO_DEFAULT_BACKEND)
    options = {**mailer.get("OPTIONS", {}), **options}
    if "timeout" in options and options["timeout"] is None:
        options["timeout"] = conf.default_timeout()
    try:
        backend_class: Any = import_backend(path)
        if not is_host(backend_class) or (
            (backend_class.has_members or backend_class.asks_router)
            and not options.keys().isdisjoint(HOST_OPTION_NAMES)
        ):
            backend_class, options = import_backend(HOST_BACKEND), {"backend": path, **options}
        return backend_class(alias=alias or "", **options)
    except (ImproperlyConfigured, TypeError) as error:
        reason = str(getattr(error, "reason", error))
    reason = reason.removeprefix(f"MAILERS[{alias or ''!r}]: ")
    raise InvalidEmailHost(reason, alias=alias, setting=setting)


def import_backend(path: str) -> type[BaseEmailBackend]:
    """Return the class at this path. Its ``InvalidEmailHost`` names no key."""
    try:
        return cast("type[BaseEmailBackend]", import_string(path))
    except Exception as error:  # its module may raise anything
        problem = f"backend '{path}' cannot be imported: {error}"
    match = re.fullmatch(r"anymail\.backends\.(\w+)\.EmailBackend", path)
    provider = match[1].replace("_", "-") if match else ""
    if provider in PROVIDERS:
        # Pins Django to the installed version, because pip may replace it otherwise.
        version = ".".join(map(str, django.VERSION[:2]))
        extra = f"'django-anymail[{provider}]' 'Django~={version}.0'"
        problem += f"; python -m pip install {extra}"
    elif provider:
        problem += did_you_mean(ANYMAIL + provider, [ANYMAIL + known for known in PROVIDERS])
    raise InvalidEmailHost(problem)


def is_host(backend: Any) -> bool:
    """Whether a backend, or its class, applies host options itself."""
    return getattr(backend, "applies_host", False)


def _connection(host: Host, options: Mapping[str, Any], *, alias: str | None) -> Any:
    """Return the connection to a host, or its outbox while tests run."""
    mailer, setting, goes_to_outbox = host
    is_smtp = mailer.get("BACKEND") == SMTP_BACKEND
    known = {**SMTP_OPTIONS, **HOST_OPTIONS} if is_smtp else HOST_OPTIONS
    try:
        options = in_python(options, mailer.get("OPTIONS", {}), known)
    except InvalidEmailHost as error:
        raise InvalidEmailHost(error.reason, alias=alias, setting=setting) from None
    if not goes_to_outbox:
        return build(mailer, options, alias=alias, setting=setting)
    # Tests build an SMTP host, too, so that they find a bad option before production
    # does. Other backends may need what tests do not have.
    if is_smtp:
        build(mailer, options, alias=alias, setting=setting)
    return build(capture.outbox_for(mailer), options, alias=alias, setting=setting)


def _default_connection(key: str) -> Any:
    """Return what a key without a host gets, or raise ``EmailHostDoesNotExist``."""
    problem = _problem_with(key)
    if conf.is_strict():
        raise EmailHostDoesNotExist(f"{problem}; {_known_hosts()}", alias=key)
    if any(not is_empty(dsn) for dsn in conf.email_hosts().values()):
        _warn_of_default(key)
    connection = conf.default_connection()
    if connection is None:  # pragma: mailers-only
        reason = f'{problem}, and there is no MAILERS["default"]; {_known_hosts()}'
        raise EmailHostDoesNotExist(reason, alias=key)
    wrapper: Mailer = {"BACKEND": HOST_BACKEND, "OPTIONS": {"backend": connection}}
    return connection if is_host(connection) else build(wrapper, {}, alias=key)


@lru_cache(maxsize=1024)  # warn once for each key
def _warn_of_default(key: str) -> None:
    reason = f"{_problem_with(key)}, its mail goes to the default backend"
    warn("%s: %s; %s", named(key), reason, _known_hosts())


def _problem_with(key: str) -> str:
    return "the host is empty" if key in conf.email_hosts() else "there is no such host"


def _known_hosts() -> str:
    """Return the first keys, for a message: there may be thousands."""
    keys = list(islice(_known_keys(), MAX_KEYS_SHOWN + 1))
    names = ", ".join(map(shown, keys[:MAX_KEYS_SHOWN])) or "none"
    more = " and others" if len(keys) > MAX_KEYS_SHOWN else ""
    return f"known hosts: {names}{more}"


def _label(
    connection: Any, *, alias: str | None, pickled_key: str | None, fail_silently: bool
) -> BaseEmailBackend:
    connection.alias = alias
    connection.pickled_key = pickled_key
    if fail_silently:
        # Since Django 6.1, not every backend takes it as an option.
        connection.fail_silently = True
    return cast("BaseEmailBackend", connection)
