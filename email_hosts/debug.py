"""Keeps the logins of hosts out of Django's error reports, both pages and mails."""

from __future__ import annotations

from collections.abc import ItemsView
from contextlib import suppress
from string import ascii_lowercase
from types import FrameType
from typing import Any

from django.http import HttpRequest
from django.utils.module_loading import import_string
from django.views.debug import (
    SafeExceptionReporterFilter,
    get_default_exception_reporter_filter,
)

from . import conf
from .dsn import ANYMAIL, SEVERAL_SCHEMES, SMTP_SCHEMES
from .tracebacks import is_own

# The beginnings of DSNs that may hold a secret. A folder or the console has none.
BEGINNINGS = (
    *(f"{scheme}://" for scheme in SMTP_SCHEMES),
    *(f"{scheme}:" for scheme in SEVERAL_SCHEMES),
    ANYMAIL,
    "backend://",
    *(f"backend:{letter}" for letter in ascii_lowercase),  # backend:8080 is a server
)

# Longer lists and dicts in variables are shown as they are.
MAX_ITEMS = 1000


class EmailHostsReporterFilter(SafeExceptionReporterFilter):
    """Django's exception reporter filter, which also knows where DSNs are.

    It stars them out even with ``DEBUG``: people pass on debug pages. It looks only at
    exact types and at beginnings, so it runs no foreign code and searches no text.
    """

    def cleanse_setting(self, key: Any, value: Any) -> Any:
        """Return the value of a setting or of ``request.META``, without secrets."""
        try:
            if type(key) is str and key in conf.SECRET_SETTINGS:
                return self._starred(value)
            return self._cleansed(super().cleanse_setting(key, value))
        except RecursionError:
            # The value contains itself. Starring each level of it could take forever.
            raise
        except Exception:
            return self.cleansed_substitute

    def get_traceback_frame_variables(
        self, request: HttpRequest | None, tb_frame: FrameType
    ) -> ItemsView[str, Any]:
        """Return the variables of a frame without secrets. Ours have only names."""
        with suppress(Exception):
            if not is_own(tb_frame.f_globals.get("__name__")):
                variables = super().get_traceback_frame_variables(request, tb_frame)
                hosts = set(map(id, conf.secret_settings()))
                return {
                    name: self._starred(value) if id(value) in hosts else self._variable(value)
                    for name, value in variables
                }.items()
        return dict.fromkeys(tb_frame.f_code.co_varnames, self.cleansed_substitute).items()

    def _variable(self, value: Any) -> Any:
        # The *args and **kwargs of a decorator may hold DSNs. Deeper levels are not searched.
        kind = type(value)
        if kind in (list, tuple) and len(value) <= MAX_ITEMS:
            return kind(map(self._cleansed, value))
        if kind is dict and "BACKEND" in value:  # an entry of MAILERS
            return self._starred_host(value)
        if kind is dict and len(value) <= MAX_ITEMS:
            return {name: self._cleansed(item) for name, item in value.items()}
        return self._cleansed(value)

    def _starred(self, hosts: Any) -> Any:
        """Return ``EMAIL_HOSTS`` or ``MAILERS`` with keys and backends only."""
        if type(hosts) is not dict:
            return self.cleansed_substitute
        return {self._cleansed(key): self._starred_host(host) for key, host in hosts.items()}

    def _starred_host(self, host: Any) -> Any:
        if type(host) is not dict:  # a DSN
            return self.cleansed_substitute
        return {
            name: self._cleansed(value) if name == "BACKEND" else self.cleansed_substitute
            for name, value in host.items()
        }

    def _cleansed(self, value: Any) -> Any:
        return self.cleansed_substitute if _is_dsn(value) else value


FILTER = f"{EmailHostsReporterFilter.__module__}.{EmailHostsReporterFilter.__qualname__}"


def install() -> None:
    """Make this the exception reporter filter, unless the project has chosen one.

    Another call costs next to nothing.
    """
    if not conf.replace_default_reporter_filter(FILTER):
        return
    # Django makes one filter per process, and other code, such as django-debug-toolbar, may
    # already hold it. So the class of that object changes.
    in_force = get_default_exception_reporter_filter()
    if type(in_force) is SafeExceptionReporterFilter:
        in_force.__class__ = EmailHostsReporterFilter


def is_installed() -> bool:
    """Whether the project's exception reporter filter hides our secrets."""
    try:
        chosen = import_string(conf.reporter_filter())
    except ImportError:
        return False
    return isinstance(chosen, type) and issubclass(chosen, EmailHostsReporterFilter)


def _is_dsn(value: object) -> bool:
    """Whether the value is a DSN that holds user information or options."""
    if type(value) is not str:
        return False
    beginning = value[:64]
    if ":" not in beginning:  # the quickest way to rule out most values
        return False
    # Secret files and .env readers leave white space and quotation marks around it.
    return beginning.lstrip(" \t\r\n'\"").lower().startswith(BEGINNINGS) and (
        "@" in value.partition("://")[2] or "=" in value.partition("?")[2]
    )
