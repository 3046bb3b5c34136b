"""Our backends in the place of Django's, with the arguments that Django's have.

Each host has the senders of the project: so the sender of the host is applied to every
message, and every message stays as the tests expect it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
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

MODULES: dict[str, Any] = {
    "console": console,
    "dummy": dummy,
    "filebased": filebased,
    "locmem": locmem,
    "smtp": smtp,
}


class FileBased(filebased.EmailBackend):
    """Django's. It names its file by the second and its id(), which nobody else may get."""

    alive: list[FileBased] = []

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.alive.append(self)


# Django's own classes, under a path that stays theirs.
CONSOLE = console.EmailBackend
DUMMY = dummy.EmailBackend
FILEBASED = FileBased
LOCMEM = locmem.EmailBackend
SMTP = smtp.EmailBackend

# What each of Django's backends takes beside what all of them take.
OWN_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "console": ("stream",),
    "dummy": (),
    "filebased": ("file_path",),
    "locmem": (),
    "smtp": tuple(SMTP_SETTINGS),
}

KEY = "only"  # the one host that the others hand over to


def install(way: str) -> None:
    """Put our backends in the place of Django's, in one of the ``WAYS``."""
    for name, module in MODULES.items():
        replacement = WAYS[way](name)
        if replacement is None:
            continue
        # Tests look up the class by its path, and look for the path in messages.
        replacement.__module__ = module.__name__
        replacement.__name__ = replacement.__qualname__ = "EmailBackend"
        module.EmailBackend = replacement


def smtp_host(name: str) -> type | None:
    """Return an SMTP host, for Django's SMTP backend."""
    if name != "smtp":
        return None

    class Host(EmailHostsBackend):
        def __init__(self, host: Any = None, port: Any = None, **options: Any) -> None:
            options = with_settings(name, {"host": host, "port": port, **options})
            super().__init__(**options, **senders())

    return Host


def wrapped(name: str) -> type:
    """Return Django's backend as a host."""

    class Wrapped(HostBackend):
        def __init__(self, *, fail_silently: bool = False, **options: Any) -> None:
            path = f"{__name__}.{name.upper()}"
            super().__init__(path, **with_settings(name, options), **senders())
            if fail_silently:  # as get_connection(key, fail_silently=True) does it
                self.fail_silently = True

    return Wrapped


def several(name: str, backend: Any, **given: Any) -> type:
    """Return what hands over to one host that sends as Django's backend does."""

    class Several(backend):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            self.dsn, others = as_dsn(name, options)
            super().__init__(**given, **others)

        def send_messages(self, email_messages: Iterable[EmailMessage]) -> Any:
            hosts = {KEY: self.dsn}
            with override_settings(EMAIL_HOSTS=hosts, EMAIL_HOSTS_ROUTER=lambda message: KEY):
                return super().send_messages(email_messages)

    return Several


WAYS: dict[str, Callable[[str], type | None]] = {
    "django": lambda name: None,
    "smtp": smtp_host,
    "wrapped": wrapped,
    "failover": partial(several, backend=FailoverBackend, hosts=[KEY]),
    "routing": partial(several, backend=RoutingBackend),
}


def as_dsn(name: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the DSN of a host that sends as Django's backend with these options does.

    And the options that are not the backend's own. A login is left out: no test sends with
    one.
    """
    others = with_settings(name, options)
    own = {option: others.pop(option, None) for option in OWN_ARGUMENTS[name]}
    if name == "smtp":
        address = f"smtp://{own.pop('host')}:{own.pop('port') or 25}"
        del own["username"], own["password"]
    else:
        address = f"backend://{__name__}.{name.upper()}"
    query = {
        option.removeprefix("use_"): value
        for option, value in own.items()
        if value is not None
    }
    query |= {f"_{option}": sender for option, sender in senders().items()}
    return f"{address}?{urlencode(query, quote_via=quote)}", others


def with_settings(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options, with Django's settings where Django would look at them.

    It does not for a mailer of ``MAILERS``, which has an alias.
    """
    given = {option: value for option, value in options.items() if value is not None}
    if "alias" in given:
        return given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Django 6.1 warns of each of these settings
        if name == "smtp":
            defaults = {
                option: getattr(settings, name) for option, name in SMTP_SETTINGS.items()
            }
        elif name == "filebased" and hasattr(settings, "EMAIL_FILE_PATH"):
            defaults = {"file_path": settings.EMAIL_FILE_PATH}  # type: ignore[misc]
        else:
            defaults = {}
    return {**defaults, **given}


def senders() -> dict[str, Any]:
    """Return the project's senders, as those of a host."""
    return {
        "default_from_email": settings.DEFAULT_FROM_EMAIL,
        "server_email": settings.SERVER_EMAIL,
    }
