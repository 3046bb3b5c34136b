"""A host's key becomes a connection. Here alone the mail settings are read."""

from __future__ import annotations

import re
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from copy import copy
from functools import lru_cache, partial
from typing import Any, NamedTuple, cast

import django
from django.conf import Settings, UserSettingsHolder, settings
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.locmem import EmailBackend as LocmemBackend
from django.utils.module_loading import import_string
from django.views.decorators.debug import sensitive_variables

from .dsn import (
    ROUTING_BACKEND,
    SENDERS,
    SMTP_BACKEND,
    SMTP_SCHEMES,
    Mailer,
    backend_of,
    dict_of_hosts,
    is_empty,
    looks_like_a_dsn,
    members,
    parse,
    parse_host,
    scheme_of,
)
from .exceptions import EmailHostDoesNotExist, InvalidEmailHost
from .log import warn

# For the type checker: it knows neither MAILERS nor the layers of the settings.
_settings: Any = settings

DJANGO_HAS_MAILERS = django.VERSION >= (6, 1)
DJANGO_DEFAULT_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
OUTBOX_BACKEND = "email_hosts.backends.outbox.OutboxBackend"


@sensitive_variables()
def get_connection(
    key: str, *, fail_silently: bool = False, **options: Any
) -> BaseEmailBackend:
    """Return a new, unopened connection to the host of this key.

    ``options`` replace the host's own for this connection. It carries ``alias``,
    ``default_from_email`` and ``server_email`` (``""`` where the host has none).

    An unknown key gets the default backend, without the ``options``: they are not
    meant for it. With ``EMAIL_HOSTS_STRICT`` it raises ``EmailHostDoesNotExist``.
    A host that is not valid raises ``InvalidEmailHost``.
    """
    prototype = _prototypes.get(key)
    connection: BaseEmailBackend
    if prototype and not options and prototype.state == _state(key):
        connection = copy(prototype.connection)
    else:
        connection = _new_connection(key, options)
    return _silenced(connection) if fail_silently else connection


@sensitive_variables()
def connection_from_dsn(
    dsn: str,
    *,
    schemes: Iterable[str] = tuple(SMTP_SCHEMES),
    fail_silently: bool = False,
    **options: Any,
) -> BaseEmailBackend:
    """Return a new, unopened connection to a host that is not in ``EMAIL_HOSTS``.

    ``schemes`` are those that the DSN may have: SMTP alone, unless its source is as
    trusted as the settings file. ``alias`` is ``None``, the rest is as with
    ``get_connection``. Raises ``InvalidEmailHost``.
    """
    mailer = parse(dsn)
    scheme = scheme_of(dsn)
    allowed = [schemes] if isinstance(schemes, str) else sorted(schemes)
    if scheme not in allowed:
        raise InvalidEmailHost(
            f"scheme '{scheme}' is not allowed here; allowed: {', '.join(allowed)}"
        )
    source = _Source("DSN", mailer, is_captured=_default_is_locmem())
    connection = _labelled(_connection(source, options, alias=None), alias=None)
    return _silenced(connection) if fail_silently else connection


def email_hosts() -> Mapping[str, Any]:
    """Return ``EMAIL_HOSTS`` as it is set, its empty hosts too. ``{}`` if it is not.

    Raises ``InvalidEmailHost`` if it is no dict.
    """
    return dict_of_hosts(getattr(settings, "EMAIL_HOSTS", {}))


def get_host(key: str, *, fail_silently: bool = False) -> BaseEmailBackend:
    """Return a new connection to a host that has to be there.

    Raises ``EmailHostDoesNotExist`` for a key without one.
    """
    if key not in known_keys():
        raise EmailHostDoesNotExist(f"{_problem_with(key)}; {_known_hosts()}", alias=key)
    return get_connection(key, fail_silently=fail_silently)


def senders() -> dict[str, str]:
    """Return the ``_default_from_email`` of each host that is valid and has one."""
    found = {}
    for key, dsn in email_hosts().items():
        with suppress(InvalidEmailHost):
            found[key] = parse(dsn)["OPTIONS"].get("default_from_email")
    return {key: sender for key, sender in found.items() if sender}


def router() -> Callable[[EmailMessage], str | None] | None:
    """Return ``EMAIL_HOSTS_ROUTER``, or ``None`` if it is not set.

    Raises ``ImproperlyConfigured`` if it is no callable, or the path of none.
    """
    chosen: Any = getattr(settings, "EMAIL_HOSTS_ROUTER", None)
    try:
        found = import_string(chosen) if isinstance(chosen, str) else chosen
    except ImportError as error:
        raise ImproperlyConfigured(
            f"EMAIL_HOSTS_ROUTER cannot be imported: {error}"
        ) from error
    if found is None or callable(found):
        return cast("Callable[[EmailMessage], str | None] | None", found)
    raise ImproperlyConfigured(
        "EMAIL_HOSTS_ROUTER is a callable, or the path of one: router(message) returns the "
        f"key of a host, or None; it is {type(found).__name__}"
    )


def known_keys() -> list[str]:
    """Return the keys that have a host of their own, in the order of the settings."""
    hosts = [str(key) for key, dsn in email_hosts().items() if not is_empty(dsn)]
    mailers = [key for key, mailer in _mailers().items() if not _is_router(mailer)]
    return list(dict.fromkeys([*hosts, *mailers]))


def is_strict() -> bool:
    """Whether a key without a host is an error, instead of the default backend."""
    return bool(getattr(settings, "EMAIL_HOSTS_STRICT", False))


def is_default_routed() -> bool:
    """Whether the default backend is the ``RoutingBackend``."""
    if _has_mailers():  # pragma: mailers-only
        return "default" in _mailers() and _is_router(_mailers()["default"])
    return bool(_replaced_setting("EMAIL_BACKEND") == ROUTING_BACKEND)


def is_hidden(key: str, host: Mailer) -> bool:
    """Whether ``MAILERS`` has something else for the key of a host, and so comes first."""
    source = _find(key)
    return source is not None and source.setting == "MAILERS" and source.mailer != host


def project_senders() -> tuple[str, str]:
    """Return ``DEFAULT_FROM_EMAIL`` and ``SERVER_EMAIL``."""
    return settings.DEFAULT_FROM_EMAIL, settings.SERVER_EMAIL


def import_backend(path: str) -> type[BaseEmailBackend]:
    """Return the class of this path. Raises ``InvalidEmailHost`` without a key."""
    try:
        return cast("type[BaseEmailBackend]", import_string(path))
    except ImportError as error:
        problem = f"backend '{path}' cannot be imported: {error}"
    # Anymail's own ImproperlyInstalled is both; what it needs is in the provider's extra.
    match = re.fullmatch(r"anymail\.backends\.(\w+)\.EmailBackend", path)
    extra = f"[{match[1].replace('_', '-')}]" if match else ""
    # With the Django that is there, which pip would replace otherwise.
    version = ".".join(map(str, django.VERSION[:2]))
    command = f"python -m pip install 'django-anymail{extra}' 'Django~={version}.0'"
    hint = f"; {command}" if match else ""
    raise InvalidEmailHost(problem + hint)


@sensitive_variables()
def build(
    mailer: Mailer,
    options: Mapping[str, Any] | None = None,
    *,
    alias: str | None,
    setting: str = "EMAIL_HOSTS",
) -> BaseEmailBackend:
    """Return the backend of a mailer, with its options replaced by these.

    Raises ``InvalidEmailHost`` if there is no such backend or it refuses an option.
    """
    options = {**mailer.get("OPTIONS", {}), **(options or {})}
    if "timeout" in options and options["timeout"] is None and not _has_mailers():
        options["timeout"] = _replaced_setting("EMAIL_TIMEOUT")
    # With an alias, Django's backends read no setting that MAILERS replaces.
    named = {"alias": alias or ""} if DJANGO_HAS_MAILERS else {}
    try:
        backend_class: Any = import_backend(mailer.get("BACKEND", DJANGO_DEFAULT_BACKEND))
        connection: BaseEmailBackend = backend_class(**named, **options)
    except (ImproperlyConfigured, TypeError) as error:
        reason = str(getattr(error, "reason", error))
    else:
        return _pickled_as(None, connection)
    raise InvalidEmailHost(
        reason.removeprefix(f"MAILERS[{alias!r}]: "), alias=alias, setting=setting
    )


def pickled(key: str | None, protocol: object = None) -> tuple[object, ...]:
    """Return what ``pickle`` keeps of a connection: its key, to ask for another one with.

    Nothing else may travel: not the login, nor an open socket. Raises ``TypeError`` for a
    connection that is more than its key.
    """
    if key is None:
        raise TypeError(
            "a connection cannot be pickled if it has options of its own or comes from a "
            "DSN, for its login would be in the pickle; pass the key of the host, and call "
            "get_connection(key) where the message is sent"
        )
    return get_connection, (key,)


class _Prototype(NamedTuple):
    """A closed connection to make copies of, while the settings are in this state.

    To copy one takes a tenth of the time that it takes to make one.
    """

    connection: Any
    state: tuple[Any, ...]


_prototypes: dict[str, _Prototype] = {}
# Private: where Django keeps the settings that were asked for, for its own speed. It
# forgets them all when it gets another layer (_wrapped), and one when that is set.
_cached_settings = vars(settings)


def _state(key: str) -> tuple[Any, ...]:
    hosts, mailers = _cached_settings.get("EMAIL_HOSTS"), _cached_settings.get("MAILERS")
    layer = _cached_settings.get("_wrapped")
    set_directly = getattr(layer, "__dict__", {}).get
    return (
        hosts.get(key) if isinstance(hosts, dict) else None,
        layer,
        mailers and (mailers.get(key), mailers.get("default")),
        set_directly("EMAIL_BACKEND"),
        set_directly("EMAIL_TIMEOUT"),
        _tests_are_running(),
    )


def _new_connection(key: str, options: Mapping[str, Any]) -> BaseEmailBackend:
    state = _state(key)
    dsn, *_ = state
    source = _find(key)
    if source is None:
        return _labelled(_default_connection(key), alias=key)
    connection = _labelled(_connection(source, options, alias=key), alias=key)
    if options:
        return _pickled_as(None, connection)
    is_dict_entry = source.setting == "EMAIL_HOSTS" and dsn is not None
    if is_dict_entry and "__copy__" in vars(type(connection)):
        _prototypes[key] = _Prototype(copy(connection), state)
    return connection


class _Source(NamedTuple):
    """A mailer, the setting that has it, and whether tests keep its mail in the outbox."""

    setting: str
    mailer: Mailer
    is_captured: bool = False


def _find(key: str) -> _Source | None:
    mailer = _mailers().get(key)
    dsn = email_hosts().get(key)
    default_is_locmem = _default_is_locmem()
    # Django's test runner makes every mailer an in-memory one; the host knows more.
    is_stand_in = default_is_locmem and _is_locmem(mailer)
    # A default mailer that routes may route to the host of its own key.
    if not is_empty(dsn) and (mailer is None or is_stand_in or _is_router(mailer)):
        is_captured = default_is_locmem and not _hosts_are_overridden()
        return _Source("EMAIL_HOSTS", parse_host(key, dsn), is_captured)
    return None if mailer is None else _Source("MAILERS", mailer)


def _connection(
    source: _Source, options: Mapping[str, Any], *, alias: str | None
) -> BaseEmailBackend:
    setting, mailer, is_captured = source
    # An SMTP host is made in tests, too: an option that does not fit should not wait for
    # production. Another backend may need what tests do not have.
    if is_captured and mailer["BACKEND"] == SMTP_BACKEND:
        build(mailer, options, alias=alias, setting=setting)
    stand_in = _outbox(mailer) if is_captured else mailer
    return build(stand_in, options, alias=alias, setting=setting)


def _default_connection(key: str) -> BaseEmailBackend:
    if looks_like_a_dsn(str(key)):
        raise InvalidEmailHost(
            "get_connection() takes the key of a host, and this is a DSN; "
            "connection_from_dsn() takes one"
        )
    known = _known_hosts()
    problem = _problem_with(key)
    if is_strict():
        raise EmailHostDoesNotExist(f"{problem}; {known}", alias=key)
    if any(not is_empty(dsn) for dsn in email_hosts().values()):
        _warn_once(
            f'EMAIL_HOSTS["{key}"]: {problem}, its mail goes to the default backend; {known}'
        )
    connection = mail.mailers.get("default") if DJANGO_HAS_MAILERS else mail.get_connection()
    if connection is None:  # pragma: mailers-only
        raise EmailHostDoesNotExist(
            f'{problem}, and there is no MAILERS["default"]; {known}',
            alias=key,
        )
    return connection


def _problem_with(key: str) -> str:
    return "the host is empty" if key in email_hosts() else "there is no such host"


def _known_hosts() -> str:
    return f"known hosts: {', '.join(known_keys()) or 'none'}"


def _labelled(connection: Any, *, alias: str | None) -> BaseEmailBackend:
    connection.alias = alias
    for name in SENDERS:
        setattr(connection, name, getattr(connection, name, ""))
    return _pickled_as(alias, connection)


def _silenced(connection: BaseEmailBackend) -> BaseEmailBackend:
    # Since Django 6.1 not every backend takes it as an option.
    connection.fail_silently = True
    return _pickled_as(None, connection)


def _pickled_as(key: str | None, connection: Any) -> BaseEmailBackend:
    # On the object, for the class may be anybody's.
    connection.__reduce_ex__ = partial(pickled, key)
    if not hasattr(connection, "__deepcopy__"):
        # Django's in-memory backend copies a message with the connection that it names.
        # Weak, so that one that is dropped closes its socket at once.
        itself = weakref.ref(connection)
        connection.__deepcopy__ = lambda memo: itself()
    return cast("BaseEmailBackend", connection)


def _outbox(mailer: Mailer) -> Mailer:
    """Return what stands in for the mailer while tests run."""
    if not _tests_are_running():
        _warn_once(
            "The default mailer is Django's in-memory backend, and so every host delivers "
            "to mail.outbox: nothing is sent. That is meant for tests."
        )
    return {
        "BACKEND": OUTBOX_BACKEND,
        "OPTIONS": {**_senders_of_first(mailer), **mailer["OPTIONS"]},
    }


def _senders_of_first(mailer: Mailer, *way: str) -> dict[str, str]:
    """Return the senders of the host that sends for several, as long as it can."""
    first = next(iter(members(mailer)), None)
    if first is None or first in way:
        return {}
    try:
        member = parse_host(first, email_hosts().get(first))
    except InvalidEmailHost:
        return {}
    own = {name: member["OPTIONS"][name] for name in SENDERS if name in member["OPTIONS"]}
    return {**_senders_of_first(member, *way, first), **own}


def _default_is_locmem() -> bool:
    if _has_mailers():  # pragma: mailers-only
        default = _mailers().get("default")
        return _tests_are_running() if default is None else _is_locmem(default)
    path = _replaced_setting("EMAIL_BACKEND")
    # The test runner sets it. If it is as Django has it, a test has removed MAILERS.
    is_unset = not _settings.is_overridden("EMAIL_BACKEND")
    return _is_in_memory(path) or (is_unset and _tests_are_running())


def _is_router(mailer: Mailer) -> bool:  # pragma: mailers-only
    return mailer.get("BACKEND") == ROUTING_BACKEND


def _is_locmem(mailer: Mailer | None) -> bool:
    return mailer is not None and "BACKEND" in mailer and _is_in_memory(backend_of(mailer))


@lru_cache(maxsize=64)
def _is_in_memory(path: str) -> bool:
    try:
        return issubclass(import_backend(path), LocmemBackend)
    except InvalidEmailHost:
        return False


def _tests_are_running() -> bool:
    # Private: _TestState. Nothing public tells that setup_test_environment() was called.
    utils = sys.modules.get("django.test.utils")
    return hasattr(getattr(utils, "_TestState", None), "saved_data")


def _hosts_are_overridden() -> bool:
    """Whether a test has set ``EMAIL_HOSTS`` itself, with ``override_settings`` say."""
    # Private: _wrapped. No public name tells a settings file from what is laid over it.
    layer = _settings._wrapped
    while isinstance(layer, UserSettingsHolder):
        below = layer.default_settings
        if not isinstance(below, (Settings, UserSettingsHolder)):
            break  # the layer of settings.configure(), which stands for the file
        if "EMAIL_HOSTS" in vars(layer):
            return True
        layer = below
    return False


def _has_mailers() -> bool:
    return DJANGO_HAS_MAILERS and hasattr(settings, "MAILERS")


def _mailers() -> Mapping[str, Mailer]:
    return cast("Mapping[str, Mailer]", _settings.MAILERS) if _has_mailers() else {}


def _replaced_setting(name: str) -> Any:
    # Private: _wrapped. On 6.1, Django warns of each other way to read these settings.
    return getattr(_settings._wrapped, name)


@lru_cache(maxsize=1024)
def _warn_once(message: str) -> None:
    warn("%s", message)
