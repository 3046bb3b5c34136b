"""Keeps the secrets of DSNs out of Django's error reports, in pages and in mails."""

from __future__ import annotations

import re
from collections.abc import ItemsView, Mapping, MappingView, Set
from types import FrameType
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils.module_loading import import_string
from django.views.debug import (
    SafeExceptionReporterFilter,
    get_default_exception_reporter_filter,
)

from .conf import email_hosts
from .dsn import ANYMAIL, SMTP_SCHEMES
from .exceptions import InvalidEmailHost

# What shows strings that it holds: containers, the environment, exceptions.
HOLDERS = (bytes, Mapping, MappingView, list, tuple, Set, BaseException)

# DSNs from elsewhere: up to the last '@' before the next DSN, or the end of what is quoted.
SMTP_DSN = rf"(?:{'|'.join(map(re.escape, SMTP_SCHEMES))})://"
LOGIN = re.compile(rf"\b({SMTP_DSN})(?:(?!{SMTP_DSN}|['\"][,:\])}}])[^\r\n])*@", re.IGNORECASE)
OPTIONS = re.compile(
    rf"\b(?:{re.escape(ANYMAIL)}|backend:)[^?\s'\"]*\?[^\r\n'\"]*", re.IGNORECASE
)


class EmailHostsReporterFilter(SafeExceptionReporterFilter):
    """Django's exception reporter filter, which also knows where DSNs are.

    It works with ``DEBUG`` on, too: a debug page is easily passed on.
    """

    def cleanse_setting(self, key: Any, value: Any) -> Any:
        """Return the value of a setting or of ``request.META``, without secrets."""
        if key == "EMAIL_HOSTS":
            if not isinstance(value, dict):
                return self.cleansed_substitute
            return {name: "*****" for name, dsn in value.items()}
        if key == "username":  # in the options of MAILERS
            return self.cleansed_substitute
        return _without_dsns(super().cleanse_setting(key, value))

    def get_traceback_frame_variables(
        self, request: HttpRequest | None, tb_frame: FrameType
    ) -> ItemsView[str, Any]:
        """Return the variables of a frame; none of ours, nor of those that we called."""
        variables = super().get_traceback_frame_variables(request, tb_frame)
        if _is_below_email_hosts(tb_frame):
            return {name: self.cleansed_substitute for name, _ in variables}.items()
        return {name: _without_dsns(value) for name, value in variables}.items()


FILTER = f"{EmailHostsReporterFilter.__module__}.{EmailHostsReporterFilter.__qualname__}"


def install() -> None:
    """Make this the exception reporter filter, unless the project has chosen one."""
    chosen: Any = settings
    if not chosen.is_overridden("DEFAULT_EXCEPTION_REPORTER_FILTER"):
        settings.DEFAULT_EXCEPTION_REPORTER_FILTER = FILTER
        # Undocumented: Django keeps its filter, once an error was reported before this.
        cached: Any = get_default_exception_reporter_filter
        cached.cache_clear()


def is_installed() -> bool:
    """Whether the project's exception reporter filter keeps our secrets."""
    try:
        chosen = import_string(settings.DEFAULT_EXCEPTION_REPORTER_FILTER)
    except ImportError:
        return False
    return isinstance(chosen, type) and issubclass(chosen, EmailHostsReporterFilter)


class _Shown:
    """A value that shows itself with these words."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __repr__(self) -> str:
        return self.words


def _without_dsns(value: Any) -> Any:
    """Return a string, or what may hold some, without the secrets of DSNs."""
    if isinstance(value, str):
        return _redacted_text(value, quoted=False)
    # No other types: to show a queryset, say, runs a query.
    if isinstance(value, HOLDERS):
        try:
            shown = repr(value)
        except Exception:  # of whatever is in it; an error report has to survive that
            return value
        cleansed = _redacted_text(shown, quoted=True)
        return value if cleansed == shown else _Shown(cleansed)
    return value


def _redacted_text(text: str, *, quoted: bool) -> str:
    try:
        hosts = email_hosts()
    except InvalidEmailHost:
        hosts = {}
    # Not just any word. The longer first: one may be the beginning of another.
    dsns = [dsn for dsn in hosts.values() if isinstance(dsn, str) and ":" in dsn]
    for dsn in sorted(dsns, key=len, reverse=True):
        shown = repr(dsn)[1:-1] if quoted else dsn
        if shown in text:
            text = text.replace(shown, "*****")
    text = LOGIN.sub(r"\1*****:*****@", text)
    return OPTIONS.sub(lambda match: re.sub("=[^&]*", "=*****", match[0]), text)


def _is_below_email_hosts(frame: FrameType | None) -> bool:
    package = __name__.partition(".")[0]
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package:
            return True
        frame = frame.f_back
    return False
