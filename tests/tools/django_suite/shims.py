"""Our backends in the place of Django's, with the arguments that Django's have.

Each host has the senders of the project: so the sender of the host is applied to every
message, and every message stays as the tests expect it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlencode

from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends import console, dummy, filebased, locmem, smtp
from django.test import override_settings

from email_hosts.backends import (
    EmailHostsBackend,
    FailoverBackend,
    HostBackend,
    RoutingBackend,
)
from email_hosts.conf import SMTP_SETTINGS

# What each of Django's backends takes beside what all of them take.
OWN_ARGUMENTS: dict[Any, tuple[str, ...]] = {
    console: ("stream",),
    dummy: (),
    filebased: ("file_path",),
    locmem: (),
    smtp: tuple(SMTP_SETTINGS),
}


class FileBased(filebased.EmailBackend):
    """Django's. It names its file by the second and its id(), which nobody else may get."""

    alive: list[FileBased] = []

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.alive.append(self)


# Django's own classes, under a path that stays theirs.
console_ = console.EmailBackend
dummy_ = dummy.EmailBackend
filebased_ = FileBased
locmem_ = locmem.EmailBackend
smtp_ = smtp.EmailBackend


def path_of(module: Any) -> str:
    return f"{__name__}.{module.__name__.rpartition('.')[2]}_"


KEY = "only"  # the one host that the others hand over to


def install(way: str) -> None:
    """Put our backends in the place of Django's, in one of the ways of ``expected.py``."""
    modules: list[Any] = [smtp] if way == "smtp" else [*OWN_ARGUMENTS]
    for module in modules:
        replacement = replacement_for(module, way)
        # Tests look up the class by its path, and look for the path in messages.
        replacement.__module__ = module.__name__
        replacement.__name__ = replacement.__qualname__ = "EmailBackend"
        module.EmailBackend = replacement


def replacement_for(module: Any, way: str) -> type:
    if way == "smtp":
        return smtp_host()
    if way == "wrapped":
        return wrapped(module)
    if way == "failover":
        return several(module, FailoverBackend, hosts=[KEY])
    return several(module, RoutingBackend)


def smtp_host() -> type:
    """Return an SMTP host, for Django's SMTP backend."""

    class Host(EmailHostsBackend):
        def __init__(self, host: Any = None, port: Any = None, **options: Any) -> None:
            options = with_settings(smtp, {"host": host, "port": port, **options})
            super().__init__(**options, **senders())

    return Host


def wrapped(module: Any) -> type:
    """Return Django's backend as a host."""

    class Wrapped(HostBackend):
        def __init__(self, *, fail_silently: bool = False, **options: Any) -> None:
            super().__init__(path_of(module), **with_settings(module, options), **senders())
            if fail_silently:  # as get_connection(key, fail_silently=True) does it
                self.fail_silently = True

    return Wrapped


def several(module: Any, backend: Any, **given: Any) -> type:
    """Return what hands over to one host that sends as Django's backend does."""

    class Several(backend):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            others = with_settings(module, options)
            own = {name: others.pop(name, None) for name in OWN_ARGUMENTS[module]}
            self.dsn = dsn_of(module, own)
            super().__init__(**given, **others)

        def send_messages(self, email_messages: Iterable[EmailMessage]) -> Any:
            hosts = {KEY: self.dsn}
            with override_settings(EMAIL_HOSTS=hosts, EMAIL_HOSTS_ROUTER=lambda message: KEY):
                return super().send_messages(email_messages)

    return Several


def dsn_of(module: Any, own: dict[str, Any]) -> str:
    """Return the DSN of a host that sends as Django's backend with these options does.

    A login is left out: no test sends with one.
    """
    address = f"backend://{path_of(module)}"
    if module is smtp:
        address = f"smtp://{own.pop('host')}:{own.pop('port') or 25}"
        del own["username"], own["password"]
    query = {
        option.removeprefix("use_"): value
        for option, value in own.items()
        if value is not None
    }
    query |= {f"_{option}": sender for option, sender in senders().items()}
    return f"{address}?{urlencode(query, quote_via=quote)}"


def with_settings(module: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options, with Django's settings where Django would look at them.

    It does not for a mailer of ``MAILERS``, which has an alias.
    """
    given = {option: value for option, value in options.items() if value is not None}
    names = {smtp: SMTP_SETTINGS, filebased: {"file_path": "EMAIL_FILE_PATH"}}
    if "alias" in given:
        return given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Django 6.1 warns of each of these settings
        defaults = {
            option: getattr(settings, name)
            for option, name in names.get(module, {}).items()
            if hasattr(settings, name)
        }
    return {**defaults, **given}


def senders() -> dict[str, Any]:
    """Return the project's senders, as those of a host."""
    return {
        "default_from_email": settings.DEFAULT_FROM_EMAIL,
        "server_email": settings.SERVER_EMAIL,
    }
