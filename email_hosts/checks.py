"""System checks: each host is built as it will be at run time, and nothing is sent."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured

from . import conf, debug, hosts
from .dsn import (
    ANYMAIL,
    FILE_BACKEND,
    IMPLICIT_TLS_PORT,
    LOCAL_SCHEMES,
    SMTP_BACKEND,
    Mailer,
    is_empty,
    parse,
    scheme_of,
)
from .exceptions import InvalidEmailHost, looks_like_a_dsn, named, shown
from .mailer import backend_of, is_router, members
from .options import is_loopback
from .tracebacks import clear_frames

TAG = "email_hosts"

# Servers of Microsoft 365 and Outlook.
WITHOUT_PASSWORDS = {"smtp.office365.com", "smtp-mail.outlook.com"}


def register() -> None:
    """Register the checks with Django."""
    checks.register(check_hosts, TAG)
    checks.register(check_deployment, TAG, deploy=True)


@clear_frames
def check_hosts(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """E001 to E005, W001, W005 to W008, W010: whether hosts and router can be used."""
    try:
        configured = conf.email_hosts()
        known = set(hosts.known_keys())
        own_mailers = hosts.own_mailers()
    except InvalidEmailHost as error:
        hint = 'Write EMAIL_HOSTS = {"shop": "smtp://mail.example.com"}.'
        return [_error("E001", str(error), hint)]
    acyclic: set[str] = set()
    messages: list[CheckMessage] = []
    for key, dsn in configured.items():
        messages += check_host(key, dsn, known, acyclic)
    for alias, mailer in own_mailers.items():  # pragma: mailers-only
        messages += check_mailer(alias, mailer, known, acyclic)
    return [*messages, *_check_router(known), *_check_redirects()]


@clear_frames
def check_deployment(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """W002, W003, W004, W009: whether the hosts are fit for production."""
    messages: list[CheckMessage] = list(_check_deployed_redirects())
    with suppress(InvalidEmailHost):  # check_hosts() reports these
        for key, dsn in conf.email_hosts().items():
            with suppress(InvalidEmailHost):
                messages += _check_deployed_host(key, dsn, parse(dsn, alias=key)["OPTIONS"])
        for alias, mailer in hosts.own_mailers().items():  # pragma: mailers-only
            messages += _check_login(named(alias, "MAILERS"), mailer.get("OPTIONS", {}))
    if not debug.is_installed():
        messages.append(
            _warning(
                "W003",
                "The exception reporter filter of the project shows the passwords in "
                "EMAIL_HOSTS.",
                "Let the class in DEFAULT_EXCEPTION_REPORTER_FILTER inherit from "
                f"{debug.FILTER}.",
            )
        )
    return messages


def check_host(
    key: Any, dsn: Any, known: Collection[str], acyclic: set[str]
) -> Iterator[CheckMessage]:
    """Yield what is wrong with one host.

    ``known`` holds the keys of all hosts. For ``acyclic``, see ``hosts.find_cycle``.
    """
    if not isinstance(key, str):
        problem = f"Each key of EMAIL_HOSTS must be a string, not {shown(repr(key))}."
        yield _error("E001", problem, f'Write "{shown(key)}".')
    elif looks_like_a_dsn(key):
        problem = "EMAIL_HOSTS has a DSN as a key, and it may hold a password."
        yield _error("E001", problem, 'Write {"shop": DSN}.')
    elif is_empty(dsn):
        is_default = key == "default" and _default_is_routed()
        consequence = (
            "using it is an error"
            if conf.is_strict() or is_default
            else "its mail goes to the default backend"
        )
        problem = f"{named(key)} is empty: {consequence}."
        yield _warning("W001", problem, "Give it a DSN, or remove the key.")
    else:
        try:
            mailer = parse(dsn, alias=key)
        except InvalidEmailHost as error:
            hint = "The README of django-email-hosts has a table of DSNs and options."
            yield _error("E002", str(error), hint)
        else:
            yield from _check_backend(key, dsn, mailer)
            yield from _check_members(named(key), key, mailer, known, acyclic)
            yield from _check_server(named(key), mailer["OPTIONS"])
            if hosts.is_shadowed(key, mailer):  # pragma: mailers-only
                yield _warning(
                    "W005",
                    f"{named(key)} is not used: {named(key, 'MAILERS')} comes first.",
                    "Rename one of them, or write MAILERS = {**mailers(EMAIL_HOSTS)}.",
                )


def check_mailer(
    alias: str, mailer: Mailer, known: Collection[str], acyclic: set[str]
) -> Iterator[CheckMessage]:  # pragma: mailers-only
    """Yield what is wrong with an entry of ``MAILERS`` that has a backend of this app."""
    name = named(alias, "MAILERS")
    if backend_of(mailer) == FILE_BACKEND:
        return  # building it would create its folder
    if problem := _problem_of_backend(name, alias, mailer, "MAILERS"):
        hint = "The README of django-email-hosts has a table of the options."
        yield _error("E002", problem, hint)
        return
    if not is_router(mailer):
        yield from _check_members(name, alias, mailer, known, acyclic)
    yield from _check_server(name, mailer.get("OPTIONS", {}))


def _check_backend(key: str, dsn: str, mailer: Mailer) -> Iterator[CheckMessage]:
    try:
        hosts.import_backend(backend_of(mailer))
    except InvalidEmailHost as error:
        hint = "Install the package that has this backend, or correct the DSN."
        yield _error("E003", f"{named(key)}: {error}", hint)
        return
    is_known = scheme_of(dsn) != "backend" and not scheme_of(dsn).startswith(ANYMAIL)
    if is_known and "oauth2" not in mailer["OPTIONS"]:
        return  # its options have been checked with the DSN
    if problem := _problem_of_backend(named(key), key, mailer, "EMAIL_HOSTS"):
        hint = (
            "Name a callable, token(username, *, renew). The README has recipes."
            if is_known
            else "See the documentation of the backend for its options."
        )
        yield _error("E002", problem, hint)


def _problem_of_backend(name: str, key: str, mailer: Mailer, setting: str) -> str:
    try:
        hosts.build(mailer, {}, alias=key, setting=setting)
    except InvalidEmailHost as error:
        return str(error)
    except Exception as error:  # a backend that is not ours may raise anything
        return f"{name}: the backend raised {type(error).__name__}: {error}"
    return ""


def _check_members(
    name: str, key: str, mailer: Mailer, known: Collection[str], acyclic: set[str]
) -> Iterator[CheckMessage]:
    missing = [f'"{shown(member)}"' for member in members(mailer) if member not in known]
    if is_router(mailer):
        problem = "sends through the router, which picks a host"
    elif cycle := hosts.find_cycle(key, acyclic):
        problem = f"leads back to itself: {' -> '.join(map(shown, cycle))}"
    elif missing:
        verb = "there is no such host" if len(missing) == 1 else "there are no such hosts"
        problem = f"names {' and '.join(missing)}, and {verb}"
    else:
        return
    hint = "Name hosts that have a server of their own."
    yield _error("E004", f"{name} {problem}.", hint)


def _check_server(name: str, options: Mapping[str, Any]) -> Iterator[CheckMessage]:
    if options.get("port") == IMPLICIT_TLS_PORT and not options.get("use_ssl"):
        yield _warning(
            "W007",
            f"{name} has port 465, where a server expects TLS from the first byte (RFC 8314).",
            "Use submissions:// there, or another port.",
        )
    host = str(options.get("host")).lower().rstrip(".")
    if host in WITHOUT_PASSWORDS and options.get("password"):
        yield _warning(
            "W008",
            f"{name} has a password for {host}. Microsoft switches password logins for SMTP "
            "off, for existing tenants by default at the end of December 2026.",
            "Log in with OAuth 2.0: submission://me%40example.com@smtp.office365.com?oauth2="
            "client_credentials. The README of django-email-hosts has the other options.",
        )


def _check_router(known: Collection[str]) -> Iterator[CheckMessage]:
    try:
        router = conf.router()
    except ImproperlyConfigured as error:
        hint = 'Write EMAIL_HOSTS_ROUTER = "shop.mail.router", or remove it.'
        yield _error("E005", str(error), hint)
        return
    if _default_is_routed() and not router and "default" not in known:
        yield _warning(
            "W006",
            'The default backend is RoutingBackend, and there is no host "default": a '
            "message whose sender has no host is an error.",
            'Add a host "default" to EMAIL_HOSTS.',
        )


def _check_redirects() -> Iterator[CheckMessage]:
    found = list(_usable_hosts())
    redirecting = [name for name, mailer in found if _redirects(mailer)]
    others = [
        name
        for name, mailer in found
        if _sends_to_the_world(mailer) and not _redirects(mailer)
    ]
    if redirecting and others:
        yield _warning(
            "W010",
            f"{redirecting[0]} redirects its mail, and others do not: "
            f"{', '.join(others[: hosts.MAX_KEYS_SHOWN])}"
            f"{' and others' if len(others) > hosts.MAX_KEYS_SHOWN else ''}.",
            "Outside of production, write _redirect_to for each host (an entry of MAILERS has "
            "redirect_to). In production, write it for none.",
        )


def _check_deployed_redirects() -> Iterator[CheckMessage]:
    for name, mailer in _usable_hosts():
        if _redirects(mailer):
            yield _warning(
                "W009",
                f"{name} redirects its mail: people do not get what is theirs.",
                "In production, remove _redirect_to (redirect_to in an entry of MAILERS).",
            )


def _usable_hosts() -> Iterator[tuple[str, Mailer]]:
    """Yield the hosts of both settings as they are used, with their names in messages."""
    with suppress(InvalidEmailHost):
        for key in hosts.known_keys():
            with suppress(InvalidEmailHost):
                if found := hosts.find(key):
                    yield named(key, found.setting), found.mailer


def _redirects(mailer: Mailer) -> bool:
    return bool(mailer.get("OPTIONS", {}).get("redirect_to"))


def _sends_to_the_world(mailer: Mailer) -> bool:
    """Whether mail leaves the machine. A failover host has no server of its own."""
    backend = backend_of(mailer) or hosts.DJANGO_DEFAULT_BACKEND
    return backend in (SMTP_BACKEND, hosts.DJANGO_DEFAULT_BACKEND) or backend.startswith(
        "anymail."
    )


def _check_deployed_host(
    key: str, dsn: str, options: Mapping[str, Any]
) -> Iterator[CheckMessage]:
    yield from _check_login(named(key), options)
    if scheme_of(dsn) in LOCAL_SCHEMES:
        yield _warning(
            "W004",
            f"{named(key)} sends nothing: it is a {scheme_of(dsn)} host.",
            "In production, give it the DSN of a mail server.",
        )


def _check_login(name: str, options: Mapping[str, Any]) -> Iterator[CheckMessage]:
    is_encrypted = options.get("use_tls") or options.get("use_ssl")
    is_local = is_loopback(str(options.get("host", "")))
    if options.get("username") and not is_encrypted and not is_local:
        yield _warning(
            "W002",
            f"{name} sends its user name and password without TLS.",
            "Use submission:// (STARTTLS) or submissions:// (TLS from the first byte).",
        )


def _default_is_routed() -> bool:
    default = conf.default_mailer()
    return default is not None and is_router(default)


def _error(number: str, problem: str, hint: str) -> CheckMessage:
    return checks.Error(problem, hint=hint, id=f"{TAG}.{number}")


def _warning(number: str, problem: str, hint: str) -> CheckMessage:
    return checks.Warning(problem, hint=hint, id=f"{TAG}.{number}")
