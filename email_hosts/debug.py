"""Keeps the logins of hosts out of Django's error reports, both pages and mails.

``boundary`` does that for all other tools, which look at the frames of an error.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator
from contextlib import suppress
from itertools import chain
from types import FrameType
from typing import Any

from django.apps import apps
from django.http import HttpRequest
from django.utils.module_loading import import_string
from django.views.debug import (
    SafeExceptionReporterFilter,
    get_default_exception_reporter_filter,
)

from . import conf
from .boundary import PACKAGE, is_own
from .exceptions import path_of
from .log import warn
from .schemes import ANYMAIL, SEVERAL_SCHEMES, SMTP_SCHEMES

# The beginnings of DSNs that may hold a secret. A folder or the console has none.
BEGINNINGS = (
    *(f"{scheme}://" for scheme in SMTP_SCHEMES),
    *(f"{scheme}:" for scheme in SEVERAL_SCHEMES),
    ANYMAIL,
    "backend:",
)

# How deep and how far a variable is searched for DSNs. Each key and value of a dict counts.
MAX_LEVELS = 3
MAX_ITEMS = 3000

NO_DICT: dict[Any, Any] = {}
VIEWS = (type(NO_DICT.keys()), type(NO_DICT.values()), type(NO_DICT.items()))
CONTAINERS = {list, tuple, dict, *VIEWS}

# Here Django makes an entry of ``MAILERS`` into a backend, with variables that hold logins.
MAKES_MAILER = "django.core.mail.handler"


class EmailHostsReporterFilter(SafeExceptionReporterFilter):
    """Django's exception reporter filter, which also knows where DSNs are.

    It stars them out even with ``DEBUG``: people pass on debug pages. It looks only at
    exact types and at beginnings, so it runs no foreign code and searches no text.
    """

    def cleanse_setting(self, key: Any, value: Any) -> Any:
        """Return the value of a setting or of ``request.META``, without secrets."""
        try:
            if type(key) is str and key in ("EMAIL_HOSTS", "MAILERS"):
                return self.starred(value)
            return self.cleansed(super().cleanse_setting(key, value))
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
            module = tb_frame.f_globals.get("__name__")
            if not is_own(module) and module != MAKES_MAILER:
                found = super().get_traceback_frame_variables(request, tb_frame)
                stars = self.cleansed_substitute
                return {
                    name: stars if _holds_dsn(value, iter(range(MAX_ITEMS))) else value
                    for name, value in found
                }.items()
        return dict.fromkeys(tb_frame.f_code.co_varnames, self.cleansed_substitute).items()

    def starred(self, hosts: Any) -> Any:
        """Return ``EMAIL_HOSTS`` or ``MAILERS`` with keys and backends only."""
        if type(hosts) is not dict:
            return self.cleansed_substitute
        return {self.cleansed(key): self.starred_host(host) for key, host in hosts.items()}

    def starred_host(self, host: Any) -> Any:
        """Return an entry of ``MAILERS`` with its backend only."""
        if type(host) is not dict:  # a DSN
            return self.cleansed_substitute
        return {
            name: self.cleansed(value) if name == "BACKEND" else self.cleansed_substitute
            for name, value in host.items()
        }

    def cleansed(self, value: Any) -> Any:
        """Return the value, or stars for a DSN."""
        return self.cleansed_substitute if _is_dsn(value) else value


FILTER = path_of(EmailHostsReporterFilter)


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
    if apps.apps_ready and not apps.is_installed(PACKAGE):
        warn(
            '%s is not in INSTALLED_APPS, so "manage.py check" does not look at hosts', PACKAGE
        )


def is_installed() -> bool:
    """Whether the project's exception reporter filter hides our secrets."""
    return isinstance(import_string(conf.reporter_filter())(), EmailHostsReporterFilter)


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


def _holds_dsn(value: Any, left: Iterator[int], levels: int = MAX_LEVELS) -> bool:
    """Whether the value is a DSN or an entry of ``MAILERS``, or a plain container of some."""
    kind = type(value)
    if kind not in CONTAINERS or not levels:
        return _is_dsn(value)
    if kind is dict and "BACKEND" in value:
        return True
    items = chain.from_iterable(value.items()) if kind is dict else value
    below = zip(left, items, strict=False)
    return any(_holds_dsn(item, left, levels - 1) for _, item in below)
