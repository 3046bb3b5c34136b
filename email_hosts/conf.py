"""The settings of this app and of mail, and how they differ between versions of Django."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import NoneType
from typing import Any, cast

import django
from django.conf import Settings, UserSettingsHolder, global_settings
from django.conf import settings as django_settings
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend
from django.utils.module_loading import import_string

from .dsn import DJANGO_SETTINGS
from .exceptions import InvalidEmailHost, raise_time_limit
from .host import (
    TABLES,
    Host,
    Mailer,
    checked_path,
    class_at,
    dict_of_hosts,
    dict_of_mailer,
    is_path,
)
from .log import warn

# The type checker knows neither MAILERS nor the layers of the settings.
settings: Any = django_settings

# Django before 6.1 has no MAILERS. Remove once we require Django 6.1.
DJANGO_HAS_MAILERS = django.VERSION >= (6, 1)

SMTP_SETTINGS = {
    **DJANGO_SETTINGS,
    "ssl_keyfile": "EMAIL_SSL_KEYFILE",
    "ssl_certfile": "EMAIL_SSL_CERTFILE",
}

# For a setting that is not set: the same object each time.
NOTHING: Mapping[str, Any] = {}

OWN_SETTINGS = ("EMAIL_HOSTS", "EMAIL_HOSTS_CACHE", "EMAIL_HOSTS_ROUTER", "EMAIL_HOSTS_STRICT")

Router = Callable[[EmailMessage], str | BaseEmailBackend | None]


def email_hosts() -> Mapping[str, Any]:
    """Return ``EMAIL_HOSTS``, with its empty hosts, or ``{}`` if it is not set.

    Raises ``InvalidEmailHost`` if it is not a dict.
    """
    return dict_of_hosts(getattr(settings, "EMAIL_HOSTS", NOTHING))


def email_hosts_of_file() -> Mapping[str, Any]:
    """Return ``EMAIL_HOSTS`` as it was before any ``override_settings``."""
    # Private: _wrapped. Nothing public reaches the settings below an override.
    layer = settings._wrapped
    while isinstance(layer, UserSettingsHolder) and isinstance(
        layer.default_settings, (Settings, UserSettingsHolder)
    ):
        layer = layer.default_settings
    return dict_of_hosts(getattr(layer, "EMAIL_HOSTS", NOTHING))


def strict() -> Any:
    """Return ``EMAIL_HOSTS_STRICT``: whether a key without a host is an error."""
    return getattr(settings, "EMAIL_HOSTS_STRICT", False)


def foreign_settings() -> list[str]:
    """Return the names of all settings that are neither Django's nor ours."""
    known = {*dir(global_settings), *SMTP_SETTINGS.values(), *OWN_SETTINGS}
    return [name for name in dir(settings) if name.isupper() and name not in known]


def router() -> Router | None:
    """Return ``EMAIL_HOSTS_ROUTER``, or ``None`` if it is not set.

    Raises ``ImproperlyConfigured`` if it is neither a callable nor the path to one.
    """
    chosen = getattr(settings, "EMAIL_HOSTS_ROUTER", None)
    try:
        # A DSN would be repeated.
        found = import_string(chosen) if is_path(chosen) else chosen
    except Exception as error:  # its module may raise anything
        raise_time_limit(error)
        raise ImproperlyConfigured(
            f"EMAIL_HOSTS_ROUTER cannot be imported: {error}; its path must be like "
            "shop.mail.router, a module and the name of a callable in it"
        ) from error
    if found is None or callable(found):
        return cast("Router | None", found)
    raise ImproperlyConfigured(
        "EMAIL_HOSTS_ROUTER must be a callable or the path of one: router(message) returns "
        f"the key of a host, a connection, or None. It is {type(found).__name__}."
        f"{' A path has dots, and no colon.' if isinstance(found, str) else ''}"
    )


def rate_cache() -> str:
    """Return ``EMAIL_HOSTS_CACHE``, an alias of ``CACHES``, or ``""`` if it is not set."""
    return getattr(settings, "EMAIL_HOSTS_CACHE", None) or ""


def project_senders() -> tuple[str, str]:
    """Return ``DEFAULT_FROM_EMAIL`` and ``SERVER_EMAIL``."""
    return settings.DEFAULT_FROM_EMAIL, settings.SERVER_EMAIL


def has_mailers() -> bool:
    """Whether Django knows ``MAILERS`` and the project has set it."""
    return DJANGO_HAS_MAILERS and hasattr(settings, "MAILERS")


def mailers() -> Mapping[str, Mailer]:
    """Return ``MAILERS``, or ``{}`` if Django does not know it or the project has none."""
    return cast("Mapping[str, Mailer]", settings.MAILERS) if has_mailers() else NOTHING


def default_mailer() -> Mailer:
    """Return ``MAILERS["default"]`` or ``{}``, or a mailer made from ``EMAIL_BACKEND``."""
    if has_mailers():  # pragma: mailers-only
        return mailers().get("default") or {}
    return {"BACKEND": _deprecated_setting("EMAIL_BACKEND"), "OPTIONS": {}}


def default_path() -> str:
    """Return the path of the default backend, or raise ``InvalidEmailHost`` for a DSN."""
    name = 'MAILERS["default"]: BACKEND' if has_mailers() else "EMAIL_BACKEND"
    return checked_path(dict_of_mailer(default_mailer(), "default").get("BACKEND", ""), name)


def default_connection() -> BaseEmailBackend | None:
    """Return a connection to the default mailer, or ``None`` if ``MAILERS`` has none."""
    default_path()  # raises for a DSN, which Django's own error would show
    if DJANGO_HAS_MAILERS:  # pragma: mailers-only
        return cast("BaseEmailBackend | None", mail.mailers.get("default"))
    return mail.get_connection()  # pragma: no-mailers-only


def default_timeout() -> float | None:
    """Return ``EMAIL_TIMEOUT`` in seconds. It applies to hosts until ``MAILERS`` is set."""
    seconds = None if has_mailers() else _deprecated_setting("EMAIL_TIMEOUT")
    if isinstance(seconds, (int, float, NoneType)):
        return seconds
    found = type(seconds).__name__
    raise InvalidEmailHost(f"EMAIL_TIMEOUT must be a number of seconds, not {found}")


def global_smtp_options() -> dict[str, Any]:
    """Return the values that Django's SMTP backend takes from the settings.

    It uses them for options that it is not given. Since Django 6.1, it does so only if
    it has no alias.
    """
    return {option: _deprecated_setting(name) for option, name in SMTP_SETTINGS.items()}


def without_ignored(options: dict[str, Any], host: Host) -> dict[str, Any]:
    """Return the options of a call without those that a backend has to ignore.

    Callers such as ``send_mail()`` pass the default backend options of Django's SMTP backend.
    Django 6.1 says which these are. A failover or a router that is made without a key ignores
    all that it does not know.
    """
    # Private: Django 6.1's own get_connection() passes it.
    ignored = options.pop("_ignore_unknown_kwargs", ())
    if host.key is None and host.backend in TABLES and not host.is_smtp:
        ignored = options
    elif ignored and host.backend not in TABLES:
        with suppress(InvalidEmailHost):  # told where it is built
            if issubclass(class_at(host.backend), EmailBackend):  # it knows them
                ignored = [name for name in ignored if options.get(name) is None]
    kept = {
        name: value
        for name, value in options.items()
        if name in host.table or name not in ignored
    }
    # send_mail() passes a login as None.
    dropped = [name for name, value in options.items() if name not in kept and value]
    if dropped:
        warn("options of a call have no effect: %s; each host has its own", ", ".join(dropped))
    return kept


def tests_are_running() -> bool:
    """Whether Django's test environment is set up."""
    # Private: _TestState. Nothing public says whether setup_test_environment() ran.
    utils = sys.modules.get("django.test.utils")
    return hasattr(getattr(utils, "_TestState", None), "saved_data")


def mailers_before_tests() -> Mapping[str, Mailer]:
    """Return ``MAILERS`` as it was before Django's test environment replaced it.

    ``{}`` without such an environment: pytest sets none up if there are no settings.
    """
    # Private: _TestState and saved_data. Nothing else holds the original MAILERS.
    state: Any = getattr(sys.modules.get("django.test.utils"), "_TestState", None)
    saved: Mapping[str, Mailer] = getattr(getattr(state, "saved_data", None), "mailers", {})
    return saved


def reporter_filter() -> str:
    """Return ``DEFAULT_EXCEPTION_REPORTER_FILTER``, the path of a class."""
    return cast("str", settings.DEFAULT_EXCEPTION_REPORTER_FILTER)


def replace_default_reporter_filter(path: str) -> bool:
    """Install this filter unless one is chosen. Return whether that was needed."""
    name = "DEFAULT_EXCEPTION_REPORTER_FILTER"
    is_default = reporter_filter() == getattr(global_settings, name)
    if settings.is_overridden(name) or not is_default:
        return False
    setattr(settings, name, path)
    return True


def _deprecated_setting(name: str) -> Any:
    # Private: _wrapped. Django 6.1 warns about each public way to read these settings.
    return getattr(settings._wrapped, name)
