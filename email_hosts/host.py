"""A host: one immutable value, whose options fit together.

Code that gets a ``Host`` need not check it again. It may come from ``EMAIL_HOSTS``,
``MAILERS``, a DSN from elsewhere, or the options of a call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeGuard, cast

import django
from django.utils.module_loading import import_string

from .exceptions import InvalidEmailHost, named, raise_time_limit
from .options import (
    HOST_OPTIONS,
    NOT_GIVEN,
    SEVERAL_OPTIONS,
    SMTP_OPTIONS,
    Table,
    checked,
    did_you_mean,
)
from .schemes import (
    ANYMAIL,
    IMPLICIT_TLS_PORT,
    LOCAL_SCHEMES,
    OTHER_SCHEMES,
    PROVIDERS,
    SMTP_PORT,
    SUBMISSION_PORT,
)
from .values import OAUTH2_GRANTS, keys_in_python

SMTP_BACKEND = "email_hosts.backends.EmailHostsBackend"
FAILOVER_BACKEND = "email_hosts.backends.FailoverBackend"
ROUTING_BACKEND = "email_hosts.backends.RoutingBackend"
HOST_BACKEND = "email_hosts.backends.HostBackend"

TABLES: Mapping[str, Table] = {
    SMTP_BACKEND: SMTP_OPTIONS,
    FAILOVER_BACKEND: SEVERAL_OPTIONS,
    ROUTING_BACKEND: HOST_OPTIONS,
}

# An entry of Django's MAILERS.
Mailer = dict[str, Any]

# What Django's console and file backends have of their own.
OF_LOCAL_BACKENDS = ("stream", "file_path")


@dataclass(frozen=True, repr=False)
class Host:
    """A host: its key, its backend and its options.

    ``backend`` is the path of the class that sends. ``options`` have their names in Python.
    You must not change them.
    """

    key: str | None
    backend: str
    options: Mapping[str, Any]
    setting: str = "EMAIL_HOSTS"
    scheme: str = ""  # of the DSN; "" in MAILERS

    def __repr__(self) -> str:
        return f"<Host {self.name}>"

    @property
    def name(self) -> str:
        """How messages name it: ``EMAIL_HOSTS["shop"]``."""
        return named(self.key, self.setting)

    @property
    def table(self) -> Table:
        """The options that it may have. A backend that is not ours has others, too."""
        return TABLES.get(self.backend, HOST_OPTIONS)

    @property
    def is_smtp(self) -> bool:
        """Whether its backend is our SMTP backend, and no subclass of it."""
        return self.backend == SMTP_BACKEND

    @property
    def members(self) -> tuple[str, ...]:
        """The keys of the hosts that a failover or round robin consists of."""
        hosts = self.options.get("hosts")
        return keys_in_python(hosts) if hosts and self.is_a(FAILOVER_BACKEND) else ()

    @property
    def routes(self) -> bool:
        """Whether it asks the router for a host."""
        return self.is_a(ROUTING_BACKEND)

    def is_a(self, backend: str) -> bool:
        """Whether its backend is this class or inherits from it."""
        if self.backend == backend:
            return True
        try:
            found = import_string(self.backend)
            return isinstance(found, type) and issubclass(found, import_string(backend))
        except Exception as error:  # its module may raise anything; reported where it is built
            raise_time_limit(error)
            return False

    @cached_property
    def mailer(self) -> Mailer:
        """The entry of ``MAILERS`` that stands for it. You must not change it, either."""
        options = dict(self.options)
        if self.backend in TABLES or self.table.keys().isdisjoint(options):
            return {"BACKEND": self.backend, "OPTIONS": options}
        return {"BACKEND": HOST_BACKEND, "OPTIONS": {"backend": self.backend, **options}}

    def but(self, **given: Any) -> Host:
        """Return this host with other options. ``None`` or ``""`` removes one.

        A redirect cannot be removed. Raises ``InvalidEmailHost``.
        """
        options = dict(self.options)
        for name in given:
            option = self.table.get(name)
            if option is None or option.can_be_removed:
                options.pop(name, None)
        if self.is_smtp:
            given = with_transport(given, options)
        if self.scheme in LOCAL_SCHEMES:
            given = without_server_options(given)
        elif self.backend not in TABLES:
            given = {name: each for name, each in given.items() if each not in NOT_GIVEN}
        return with_options(replace(self, options=options), given)


def without_server_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a host without a server has a use for.

    While you develop, such a host takes the place of an SMTP host, with the same calls. So it
    takes and refuses the same options. Raises ``InvalidEmailHost``.
    """
    of_server = {name: each for name, each in given.items() if name not in OF_LOCAL_BACKENDS}
    checked(of_server, SMTP_OPTIONS)
    useful = (*OF_LOCAL_BACKENDS, *HOST_OPTIONS)
    return {name: each for name, each in given.items() if name in useful}


def with_transport(given: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options, and those of TLS and port that change with them.

    TLS from the first byte and STARTTLS switch each other off. The former has a port of its
    own, which replaces another standard port in ``options``.
    """
    if not given.get("use_ssl"):
        return {"use_ssl": False, **given} if given.get("use_tls") else dict(given)
    is_standard = options.get("port") in (SMTP_PORT, SUBMISSION_PORT)
    port = {"port": IMPLICIT_TLS_PORT} if is_standard else {}
    return {"use_tls": False, **port, **given}


def with_options(host: Host, given: Mapping[str, Any]) -> Host:
    """Return the host with these options, too, which were given in Python.

    Raises ``InvalidEmailHost``.
    """
    try:
        checked_path(host.backend)
        found = checked(given, host.table, others=host.backend not in TABLES)
        return checked_together(replace(host, options={**host.options, **found}))
    except InvalidEmailHost as error:
        if host.key is not None:
            error.name(host.key, host.setting)
        raise


def checked_together(host: Host) -> Host:
    """Return the host if its options, which have been checked one by one, go together.

    Raises ``InvalidEmailHost``.
    """
    options = host.options
    if not host.backend:
        raise InvalidEmailHost("option 'backend' must name the backend to wrap")
    if host.is_smtp and not options.get("host"):
        raise InvalidEmailHost("option 'host' is missing")
    names = options.get("hosts") or ()
    if host.backend == FAILOVER_BACKEND and (not names or len({*names}) < len(names)):
        raise InvalidEmailHost(
            "option 'hosts' must name hosts, each once, as in failover:shop,spare"
        )
    if host.backend == ROUTING_BACKEND and options.get("rate"):
        raise InvalidEmailHost("option 'rate' has no effect on a router; give it to its hosts")
    if options.get("use_ssl") and options.get("use_tls"):
        raise InvalidEmailHost(
            "TLS from the first byte ('ssl', in Python 'use_ssl') and STARTTLS ('tls', in "
            "Python 'use_tls') are mutually exclusive"
        )
    if problem := host.is_smtp and options.get("oauth2") and _problem_with_token(options):
        raise InvalidEmailHost(problem)
    for name, option in host.table.items():
        if options.get(name) and option.needs and not options.get(option.needs):
            both = option, host.table[option.needs]
            names = [each.in_dsn if host.scheme else each.name for each in both]
            raise InvalidEmailHost("option '{}' needs '{}' beside it".format(*names))
    login = bool(options.get("username")), bool(options.get("password"))
    if host.is_smtp and len({*login}) > 1 and not options.get("oauth2"):
        given, missing = ("user name", "password") if login[0] else ("password", "user name")
        raise InvalidEmailHost(
            f"the host has a {given} and no {missing}; write both or neither ('oauth2' "
            "can replace the password, but not in a DSN from elsewhere)"
        )
    return host


def dict_of_hosts(hosts: Any) -> Mapping[str, Any]:
    """Return these hosts, or raise ``InvalidEmailHost`` if they are not a dict."""
    if isinstance(hosts, Mapping):
        return hosts
    raise InvalidEmailHost(
        f"EMAIL_HOSTS must be a dict of DSN strings, not {type(hosts).__name__}"
    )


def dict_of_mailer(mailer: Any, key: Any = None) -> Mailer:  # pragma: mailers-only
    """Return an entry of ``MAILERS``. Raises ``InvalidEmailHost`` for one that is none."""
    options = mailer.get("OPTIONS", {}) if isinstance(mailer, dict) else None
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        reason = (
            "each entry of MAILERS must be a dict, and its OPTIONS a dict of names and "
            "values; write MAILERS = mailers(EMAIL_HOSTS), which makes entries from DSNs"
        )
        raise InvalidEmailHost(reason, alias=key, setting="MAILERS")
    for name in set(mailer) - {"BACKEND", "OPTIONS"}:
        if (meant := str(name).upper()) in ("BACKEND", "OPTIONS"):  # Django ignores it
            reason = f"write {meant!r} for {name!r}, which has no effect"
            raise InvalidEmailHost(reason, alias=key, setting="MAILERS")
    return cast("Mailer", mailer)


def checked_path(path: Any, what: str = "the backend") -> str:
    """Return the path. Raises ``InvalidEmailHost`` for a DSN, which Django would repeat."""
    if not isinstance(path, str):
        found = type(path).__name__
    elif not is_path(path):
        found = "a DSN; write the DSN in EMAIL_HOSTS"
    elif path and "." not in path:
        found = f"{path!r}; to send through a host by its key, write {ROUTING_BACKEND}"
    else:
        return path
    raise InvalidEmailHost(f"{what} must be the dotted path of a class, not {found}")


def is_path(value: object) -> TypeGuard[str]:
    """Whether this can be the path of a class or a callable. A DSN has a colon."""
    return isinstance(value, str) and ":" not in value


def bare_host(mailer: Any, key: Any = None) -> Host:
    """Return an entry of ``MAILERS`` without its options, to ask what its backend is.

    Raises ``InvalidEmailHost`` if it is a DSN.
    """
    return Host(None, dict_of_mailer(mailer, key).get("BACKEND", ""), {})


def default_port(options: Mapping[str, Any]) -> int:
    """Return the port for a transport."""
    if options.get("use_ssl"):
        return IMPLICIT_TLS_PORT
    return SUBMISSION_PORT if options.get("use_tls") else SMTP_PORT


def class_at(path: str) -> Any:
    """Return the class of a backend. Raises ``InvalidEmailHost``, which names no host."""
    try:
        found = import_string(path)
    except Exception as error:  # its module may raise anything
        raise_time_limit(error)
        problem = f"backend '{path}' cannot be imported: {error}"
    else:
        if isinstance(found, type) and hasattr(found, "send_messages"):
            return found
        problem = f"backend '{path}' must be the class of a mail backend"
    anymail = re.fullmatch(r"anymail\.backends\.(\w+)\.EmailBackend", path)
    provider = anymail[1].replace("_", "-") if anymail else ""
    if provider in PROVIDERS:
        # Pins Django to the installed version, because pip may replace it otherwise.
        version = ".".join(map(str, django.VERSION[:2]))
        problem += (
            f"; python -m pip install 'django-anymail[{provider}]' 'Django~={version}.0'"
        )
    elif provider:
        meant = OTHER_SCHEMES.get(provider, ANYMAIL + provider)
        problem += did_you_mean(meant, [ANYMAIL + each for each in PROVIDERS], cutoff=0.8)
    else:
        problem += did_you_mean(path, [*TABLES, HOST_BACKEND], cutoff=0.9)
    raise InvalidEmailHost(problem)


def _problem_with_token(options: Mapping[str, Any]) -> str:
    """Return why a host cannot log in with a token, or ``""``."""
    username = options.get("username", "")
    if options.get("password"):
        return "option 'oauth2' takes the place of the password; remove the password"
    if not username:
        return (
            "option 'oauth2' needs a user name; write "
            "submission://me%40example.com@smtp.example.com"
        )
    if not (username.isascii() and username.isprintable()):
        return "with 'oauth2', the user name must be printable ASCII"
    if not (options.get("use_tls") or options.get("use_ssl")):
        return (
            "option 'oauth2' needs TLS; write submission:// (STARTTLS) or submissions:// (TLS "
            "from the first byte)"
        )
    return _problem_with_grant(options)


def _problem_with_grant(options: Mapping[str, Any]) -> str:
    """Return which details of a way to get tokens are missing or out of place, or ``""``."""
    grant = options["oauth2"] if options["oauth2"] in OAUTH2_GRANTS else ""
    missing = []
    for name, option in SMTP_OPTIONS.items():
        if option.grants and options.get(name) and grant not in option.grants:
            ways = " and ".join(f"oauth2={each}" for each in option.grants)
            return f"option '{name}' is only for {ways}"
        if option.grants.get(grant) and not options.get(name):
            missing.append(f"'{name}'")
    return f"oauth2={grant} needs {' and '.join(missing)} beside it" if missing else ""
