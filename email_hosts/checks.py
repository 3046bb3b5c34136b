"""System checks: EMAIL_HOSTS as the project will meet it at run time."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from . import debug
from .dsn import (
    ANYMAIL,
    BUILTIN_SCHEMES,
    IMPLICIT_TLS_PORT,
    ROUTING_BACKEND,
    Mailer,
    backend_of,
    is_empty,
    members,
    parse_host,
    scheme_of,
)
from .exceptions import InvalidEmailHost
from .hosts import (
    build,
    email_hosts,
    import_backend,
    is_default_routed,
    is_hidden,
    is_strict,
    known_keys,
    router,
)

TAG = "email_hosts"
LOCAL_SCHEMES = {*BUILTIN_SCHEMES, "file"}


def register() -> None:
    """Register the checks with Django."""
    checks.register(check_hosts, TAG)
    checks.register(check_deployment, TAG, deploy=True)


def check_hosts(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """E001 to E005, W001, W005 to W007: whether each host can be used, and the router."""
    try:
        hosts = email_hosts()
    except InvalidEmailHost as error:
        return [
            checks.Error(
                str(error),
                hint='Write EMAIL_HOSTS = {"shop": "smtp://mail.example.com"}.',
                id="email_hosts.E001",
            )
        ]
    messages = [message for key, dsn in hosts.items() for message in _check_host(key, dsn)]
    return [*messages, *_check_router()]


def check_deployment(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """W002, W003, W004: whether the hosts are fit for production."""
    messages: list[checks.CheckMessage] = []
    for key, dsn, mailer in _valid_hosts():
        messages += _check_deployed_host(key, dsn, mailer)
    if not debug.is_installed():
        messages.append(
            checks.Warning(
                "The exception reporter filter that the project has chosen shows the "
                "passwords in EMAIL_HOSTS.",
                hint="Let the class in DEFAULT_EXCEPTION_REPORTER_FILTER inherit from "
                f"{debug.FILTER}.",
                id="email_hosts.W003",
            )
        )
    return messages


def _check_host(key: Any, dsn: Any) -> Iterator[checks.CheckMessage]:
    if not isinstance(key, str):
        yield checks.Error(
            f"EMAIL_HOSTS has a key that is no string: {key!r}.",
            hint=f'Write "{key}".',
            id="email_hosts.E001",
        )
    elif is_empty(dsn):
        is_an_error = is_strict() or (key == "default" and is_default_routed())
        what = (
            "to use it is an error" if is_an_error else "its mail goes to the default backend"
        )
        yield checks.Warning(
            f'EMAIL_HOSTS["{key}"] is empty: {what}.',
            hint="Give it a DSN, or remove the key.",
            id="email_hosts.W001",
        )
    else:
        try:
            mailer = parse_host(key, dsn)
        except InvalidEmailHost as error:
            yield checks.Error(
                str(error),
                hint="The README of django-email-hosts has a table of DSNs and options.",
                id="email_hosts.E002",
            )
        else:
            yield from _check_backend(key, dsn, mailer)
            yield from _check_port(key, mailer)
            if is_hidden(key, mailer):  # pragma: mailers-only
                yield checks.Warning(
                    f'EMAIL_HOSTS["{key}"] is not used: MAILERS["{key}"] comes first.',
                    hint="Rename one of them, or write MAILERS = {**mailers(EMAIL_HOSTS)}.",
                    id="email_hosts.W005",
                )


def _check_backend(key: str, dsn: str, mailer: Mailer) -> Iterator[checks.CheckMessage]:
    path = backend_of(mailer)
    try:
        import_backend(path)
        if scheme_of(dsn) == "backend" or scheme_of(dsn).startswith(ANYMAIL):
            yield from _check_options(key, mailer)
    except InvalidEmailHost as error:
        yield checks.Error(
            f'EMAIL_HOSTS["{key}"]: {error}',
            hint="Install the package that has this backend, or correct the DSN.",
            id="email_hosts.E003",
        )
    problem = "sends through the router, which picks a host" if path == ROUTING_BACKEND else ""
    for member in members(mailer):
        if member not in known_keys():
            problem = f'names "{member}", and there is no such host'
    circle = _circle(key)
    if circle:
        problem = f"is on the way to itself: {' -> '.join(circle)}"
    if problem:
        yield checks.Error(
            f'EMAIL_HOSTS["{key}"] {problem}.',
            hint="Name hosts that have a server of their own.",
            id="email_hosts.E004",
        )


def _check_port(key: str, mailer: Mailer) -> Iterator[checks.CheckMessage]:
    options = mailer["OPTIONS"]
    if options.get("port") == IMPLICIT_TLS_PORT and not options["use_ssl"]:
        yield checks.Warning(
            f'EMAIL_HOSTS["{key}"] has port 465, where a server waits for TLS from the first '
            "byte (RFC 8314).",
            hint="Use submissions:// there, or another port.",
            id="email_hosts.W007",
        )


def _check_options(key: str, mailer: Mailer) -> Iterator[checks.CheckMessage]:
    try:
        build(mailer, alias=key)
    except InvalidEmailHost as error:
        yield checks.Error(
            str(error),
            hint="See the documentation of the backend for its options.",
            id="email_hosts.E002",
        )


def _check_router() -> Iterator[checks.CheckMessage]:
    try:
        chosen = router()
    except ImproperlyConfigured as error:
        yield checks.Error(
            str(error),
            hint='Write EMAIL_HOSTS_ROUTER = "shop.mail.router", or remove it.',
            id="email_hosts.E005",
        )
        return
    if is_default_routed() and not chosen and "default" not in known_keys():
        yield checks.Warning(
            'The default backend is RoutingBackend, and there is no host "default": mail is '
            "an error if its sender has no host.",
            hint='Add a host "default" to EMAIL_HOSTS.',
            id="email_hosts.W006",
        )


def _circle(start: str) -> list[str]:
    """Return the way from a host back to itself, by the members that it names."""
    ways = [[start]]
    seen = set()
    while ways:
        way = ways.pop()
        try:
            following = members(parse_host(way[-1], email_hosts().get(way[-1])))
        except InvalidEmailHost:
            continue
        for member in following:
            if member == start:
                return [*way, member]
            if member not in seen:
                seen.add(member)
                ways.append([*way, member])
    return []


def _check_deployed_host(key: str, dsn: str, mailer: Mailer) -> Iterator[checks.CheckMessage]:
    options = mailer["OPTIONS"]
    is_encrypted = options.get("use_tls") or options.get("use_ssl")
    if options.get("username") and not is_encrypted and not _is_loopback(options["host"]):
        yield checks.Warning(
            f'EMAIL_HOSTS["{key}"] sends its user name and password without TLS.',
            hint="Use submission:// (STARTTLS) or submissions:// (TLS from the first byte).",
            id="email_hosts.W002",
        )
    if scheme_of(dsn) in LOCAL_SCHEMES:
        yield checks.Warning(
            f'EMAIL_HOSTS["{key}"] sends nothing: it is a {scheme_of(dsn)} host.',
            hint="In production, give it the DSN of a mail server.",
            id="email_hosts.W004",
        )


def _valid_hosts() -> Iterator[tuple[str, str, Mailer]]:
    """Give what the deployment checks can look at; check_hosts() reports the others."""
    try:
        hosts = email_hosts()
    except InvalidEmailHost:
        return
    for key, dsn in hosts.items():
        try:
            yield key, dsn, parse_host(key, dsn)
        except InvalidEmailHost:
            continue


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761
