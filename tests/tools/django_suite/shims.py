"""Our backends in the place of Django's, with the arguments that Django's have.

Each host has the senders of the project: so the sender of the host is applied to every
message, and every message stays as the tests expect it.
"""

import warnings
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

from django.conf import settings
from django.core.mail.backends import console, dummy, filebased, locmem, smtp
from django.test import override_settings

from email_hosts.backends import (
    EmailHostsBackend,
    FailoverBackend,
    HostBackend,
    RoutingBackend,
)
from email_hosts.conf import SMTP_SETTINGS

# What each of Django's backends takes beside what all of them take, with its settings.
OWN_ARGUMENTS: dict[Any, dict[str, str]] = {
    console: {"stream": ""},
    dummy: {},
    filebased: {"file_path": "EMAIL_FILE_PATH"},
    locmem: {},
    smtp: {**SMTP_SETTINGS},
}


class FileBased(filebased.EmailBackend):
    """Django's. It names its file by the second and its id(), which nobody else may get."""

    alive: list[Any] = []

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.alive.append(self)


# Django's own classes, under a path that stays theirs.
console_ = console.EmailBackend
dummy_ = dummy.EmailBackend
filebased_ = FileBased
locmem_ = locmem.EmailBackend
smtp_ = smtp.EmailBackend


def path_of(module):
    return f"{__name__}.{module.__name__.rpartition('.')[2]}_"


def install(way):
    """Put our backends in the place of Django's, in one of the ways of ``expected.ini``."""
    modules: list[Any] = [smtp] if way == "smtp" else [*OWN_ARGUMENTS]
    for module in modules:
        replacement = WAYS[way](module)
        # Tests look up the class by its path, and look for the path in messages.
        replacement.__module__ = module.__name__
        replacement.__name__ = replacement.__qualname__ = "EmailBackend"
        module.EmailBackend = replacement


def smtp_host(module):
    """Return an SMTP host, for Django's SMTP backend."""

    class Host(EmailHostsBackend):
        def __init__(self, host: Any = None, port: Any = None, **options: Any) -> None:
            options = with_settings(module, {"host": host, "port": port, **options})
            super().__init__(**options, **senders())

    return Host


def wrapped(module):
    """Return Django's backend as a host."""

    class Wrapped(HostBackend):
        def __init__(self, *, fail_silently: bool = False, **options: Any) -> None:
            options = with_settings(module, options)
            super().__init__(path_of(module), **options, **senders())
            if fail_silently:  # as get_connection(key, fail_silently=True) does it
                self.fail_silently = True

    return Wrapped


def several(module, backend, **given):
    """Return what hands over to one host that sends as Django's backend does."""

    class Several(backend):  # type: ignore[misc, valid-type]
        def __init__(self, **options: Any) -> None:
            others = with_settings(module, options)
            own = {name: others.pop(name, None) for name in OWN_ARGUMENTS[module]}
            self.in_a_project = override_settings(
                EMAIL_HOSTS={"only": dsn_of(module, own)},
                EMAIL_HOSTS_ROUTER=lambda message: "only",
            )
            super().__init__(**given, **others)

        def send_messages(self, email_messages: Any) -> Any:
            with self.in_a_project:
                return super().send_messages(email_messages)

    return Several


WAYS: dict[str, Any] = {
    "smtp": smtp_host,
    "wrapped": wrapped,
    "failover": partial(several, backend=FailoverBackend, hosts=["only"]),
    "routing": partial(several, backend=RoutingBackend),
}


def dsn_of(module, own):
    """Return the DSN of a host that sends as Django's backend with these options does.

    A login is left out: no test sends with one.
    """
    address = f"backend://{path_of(module)}"
    if module is smtp:
        address = f"smtp://{own.pop('host')}:{own.pop('port') or 25}"
        del own["username"], own["password"]
    given = {name: value for name, value in own.items() if value is not None}
    query = {name.removeprefix("use_"): value for name, value in given.items()}
    query |= {f"_{option}": sender for option, sender in senders().items()}
    return f"{address}?{urlencode(query, quote_via=quote)}"


def with_settings(module, options):
    """Return the options, with Django's settings where Django would look at them.

    It does not for a mailer of ``MAILERS``, which has an alias.
    """
    given = {option: value for option, value in options.items() if value is not None}
    if "alias" in given:
        return given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Django 6.1 warns of each of these settings
        defaults = {
            option: getattr(settings, name)
            for option, name in OWN_ARGUMENTS[module].items()
            if hasattr(settings, name)
        }
    return {**defaults, **given}


def senders():
    """Return the project's senders, as those of a host."""
    return {
        "default_from_email": settings.DEFAULT_FROM_EMAIL,
        "server_email": settings.SERVER_EMAIL,
    }
