"""A host's key becomes a connection. Here alone the mail settings are read."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, cast

import django
from django.conf import Settings, UserSettingsHolder, settings
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail.backends.base import BaseEmailBackend
from django.utils.module_loading import import_string
from django.views.decorators.debug import sensitive_variables

from .dsn import (
    SMTP_SCHEMES,
    Mailer,
    dict_of_hosts,
    is_empty,
    parse,
    parse_host,
    scheme_of,
)
from .exceptions import EmailHostDoesNotExist, InvalidEmailHost

# For the type checker: it knows neither MAILERS nor the layers of the settings.
_settings: Any = settings
logger = logging.getLogger("email_hosts")

DJANGO_HAS_MAILERS = django.VERSION >= (6, 1)
LOCMEM_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
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
    source = _find(key)
    if source is None:
        connection = _default_connection(key)
    else:
        connection = build(source.mailer, options, alias=key, setting=source.setting)
    return _labelled(connection, alias=key, fail_silently=fail_silently)


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
    scheme, allowed = scheme_of(dsn), sorted(schemes)
    if scheme not in allowed:
        raise InvalidEmailHost(
            f"scheme '{scheme}' is not allowed here; allowed: {', '.join(allowed)}"
        )
    connection = build(_or_outbox(mailer), options, alias=None)
    return _labelled(connection, alias=None, fail_silently=fail_silently)


def email_hosts() -> Mapping[str, Any]:
    """Return ``EMAIL_HOSTS`` as it is set, its empty hosts too. ``{}`` if it is not.

    Raises ``InvalidEmailHost`` if it is no dict.
    """
    return dict_of_hosts(getattr(settings, "EMAIL_HOSTS", {}))


def known_keys() -> list[str]:
    """Return the keys that have a host of their own, in the order of the settings."""
    hosts = [key for key, dsn in email_hosts().items() if not is_empty(dsn)]
    return list(dict.fromkeys([*hosts, *_mailers()]))


def project_senders() -> tuple[str, str]:
    """Return ``DEFAULT_FROM_EMAIL`` and ``SERVER_EMAIL``."""
    return settings.DEFAULT_FROM_EMAIL, settings.SERVER_EMAIL


def import_backend(path: str) -> type[BaseEmailBackend]:
    """Return the class of this path. Raises ``InvalidEmailHost`` without a key."""
    try:
        return cast("type[BaseEmailBackend]", import_string(path))
    except ImportError as error:
        raise InvalidEmailHost(f"backend '{path}' cannot be imported: {error}") from error


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
        backend_class: Any = import_backend(mailer.get("BACKEND", _DJANGO_DEFAULT_BACKEND))
        connection: BaseEmailBackend = backend_class(**named, **options)
    except (ImproperlyConfigured, TypeError) as error:
        reason = str(getattr(error, "reason", error))
    else:
        return connection
    raise InvalidEmailHost(
        reason.removeprefix(f"MAILERS[{alias!r}]: "), alias=alias, setting=setting
    )


_DJANGO_DEFAULT_BACKEND = "django.core.mail.backends.smtp.EmailBackend"


class _Source(NamedTuple):
    """A mailer and the name of the setting that has it."""

    setting: str
    mailer: Mailer


def _find(key: str) -> _Source | None:
    mailer = _mailers().get(key)
    dsn = email_hosts().get(key)
    # Django's test runner makes every mailer an in-memory one; the host knows more.
    is_stand_in = _default_is_locmem() and _is_locmem(mailer)
    if not is_empty(dsn) and (mailer is None or is_stand_in):
        return _Source("EMAIL_HOSTS", _or_outbox(parse_host(key, dsn)))
    return mailer and _Source("MAILERS", mailer)


def _default_connection(key: str) -> BaseEmailBackend:
    known = ", ".join(known_keys()) or "none"
    if getattr(settings, "EMAIL_HOSTS_STRICT", False):
        raise EmailHostDoesNotExist(f"there is no such host; known hosts: {known}", alias=key)
    if any(not is_empty(dsn) for dsn in email_hosts().values()):
        _warn_once(
            f'EMAIL_HOSTS["{key}"]: there is no such host, its mail goes to the default '
            f"backend; known hosts: {known}"
        )
    connection = mail.mailers.get("default") if DJANGO_HAS_MAILERS else mail.get_connection()
    if connection is None:  # pragma: mailers-only
        raise EmailHostDoesNotExist(
            f'there is no such host, and no MAILERS["default"]; known hosts: {known}',
            alias=key,
        )
    return connection


def _labelled(connection: Any, *, alias: str | None, fail_silently: bool) -> BaseEmailBackend:
    connection.alias = alias
    for sender in ("default_from_email", "server_email"):
        setattr(connection, sender, getattr(connection, sender, ""))
    if fail_silently:
        # Since Django 6.1 not every backend takes it as an option.
        connection.fail_silently = True
    return cast("BaseEmailBackend", connection)


def _or_outbox(mailer: Mailer) -> Mailer:
    """Return the mailer or, while tests run, one that delivers to ``mail.outbox``."""
    if not _default_is_locmem() or _hosts_are_overridden():
        return mailer
    if not hasattr(mail, "outbox"):
        _warn_once(
            "The default mailer is Django's in-memory backend, and so every host delivers "
            "to mail.outbox: nothing is sent. That is meant for tests."
        )
    return {"BACKEND": OUTBOX_BACKEND, "OPTIONS": mailer["OPTIONS"]}


def _default_is_locmem() -> bool:
    if _has_mailers():  # pragma: mailers-only
        default = _mailers().get("default")
        # Without a default mailer, an outbox shows that the test runner is at work.
        return hasattr(mail, "outbox") if default is None else _is_locmem(default)
    return bool(_replaced_setting("EMAIL_BACKEND") == LOCMEM_BACKEND)


def _is_locmem(mailer: Mailer | None) -> bool:
    return mailer is not None and mailer.get("BACKEND") == LOCMEM_BACKEND


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
    logger.warning("%s", message)
