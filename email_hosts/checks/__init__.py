"""System checks: hosts are built as they will be at run time, and nothing is sent.

Here are the checks of settings: a check is a function in one of the tuples below.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from inspect import iscoroutinefunction
from itertools import chain
from typing import Any

from django.apps import AppConfig
from django.conf import global_settings
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured

from .. import conf, debug
from ..addresses import address_and_domain
from ..boundary import boundary, is_own
from ..exceptions import InvalidEmailHost, looks_like_a_dsn, named, shown
from ..host import ROUTING_BACKEND, Host, Mailer, bare_host, class_at
from ..hosts import listed
from ..options import SMTP_OPTIONS, did_you_mean
from ..registry import needs_check, registry, with_first_member
from ..schemes import DJANGO_BACKENDS, DJANGO_SMTP_BACKEND
from ..testmode import test_mode
from ..values import takes
from .host import (
    MAILERS_HINT,
    OF_DEPLOYED_HOST,
    SENDS_NOTHING,
    TAG,
    Found,
    can_be_member,
    check_entry,
    default_routes,
    entries,
    has_server,
    host_in_use,
    invalid,
    message,
)

__all__ = ["TAG", "check_deployment", "check_hosts"]

# How near another name is to that of a setting of ours (``difflib``).
NEAR = 0.9


@boundary
def check_hosts(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Return what is wrong with the hosts, and with the settings that are about them."""
    try:
        found = [each for entry in entries().values() for each in check_entry(entry)]
    except InvalidEmailHost as problem:  # a setting is no dict
        return [invalid(problem, "E001")]
    return [*found, *(each for check in OF_SETTINGS for each in check())]


@boundary
def check_deployment(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """Return why the hosts are not fit for production."""
    found: list[CheckMessage] = []
    with suppress(InvalidEmailHost):  # check_hosts() reports it
        for entry in entries().values():
            if host := host_in_use(entry):
                found += (each for check in OF_DEPLOYED_HOST for each in check(host))
        found += (each for check in OF_DEPLOYED_SETTINGS for each in check())
    return found


def _router() -> Found:
    try:
        router = conf.router()
    except ImproperlyConfigured as refusal:
        hint = 'Write EMAIL_HOSTS_ROUTER = "shop.mail.router", or remove it.'
        yield message("E005", str(refusal), hint)
        return
    if router and (iscoroutinefunction(router) or not takes(router, None)):
        problem = "must be a function with one argument, and not an async one."
        hint = "Write def router(message), which returns the key of a host, or None."
        yield message("E005", f"EMAIL_HOSTS_ROUTER {problem}", hint)
    elif router:
        yield from _router_that_nobody_asks()
    elif default_routes():
        yield from _default_router()


def _router_that_nobody_asks() -> Found:
    mailers = conf.default_mailer(), *conf.mailers().values()
    if any(bare_host(each).routes or _may_ask_router(each) for each in mailers):
        return
    yield message(
        "W016",
        "EMAIL_HOSTS_ROUTER is not used: no backend of the settings is a RoutingBackend.",
        f'Give an entry of MAILERS, such as "default", this BACKEND: "{ROUTING_BACKEND}".'
        if conf.has_mailers()
        else f'Write EMAIL_BACKEND = "{ROUTING_BACKEND}".',
    )


def _default_router() -> Found:
    if not can_be_member("default"):
        yield message(
            "W006",
            'The default backend is RoutingBackend, and there is no host "default": a '
            "message whose sender has no host is an error.",
            'Add a host "default" to EMAIL_HOSTS.',
        )
    yield from _senders()


def _strict() -> Found:
    strict = conf.strict()
    if not isinstance(strict, bool):
        yield message(
            "E006",
            f"EMAIL_HOSTS_STRICT must be True or False, not {type(strict).__name__}.",
            'An environment variable is text: write os.environ["STRICT"] == "1".',
        )


def _cache() -> Found:
    cache, known = conf.rate_cache(), list(conf.settings.CACHES)
    if cache and cache not in known:
        yield message(
            "E007",
            f'EMAIL_HOSTS_CACHE must be a key of CACHES, and "{shown(cache)}" is none.',
            f"Write one of these: {listed(known)}. Or add that one to CACHES.",
        )


def _default_backend() -> Found:
    """``EMAIL_BACKEND`` must work without options. ``MAILERS`` is checked host by host."""
    if conf.has_mailers():  # pragma: mailers-only
        return
    hint = (
        f'Write EMAIL_BACKEND = "{ROUTING_BACKEND}", and add a host "default" to EMAIL_HOSTS. '
        "Since Django 6.1, MAILERS can have a backend with options."
    )
    where = ""
    try:
        path = conf.default_path()
        where = "EMAIL_BACKEND: "
        if needs_check(conf.default_mailer()):
            backend_class = class_at(path)
            where = f"EMAIL_BACKEND {path} needs options, and gets none: "
            backend_class()
    except Exception as problem:  # a class of the project may raise anything
        yield message("E002", f"{where}{problem}", hint)


def _default_host() -> Found:
    """Django's own mail does not go to a host only because its key is ``default``."""
    host, default = registry().valid("default"), conf.default_mailer()
    if host is None or (conf.has_mailers() and default):
        return  # if it is not used, W005 says so
    if default_routes() or default == host.mailer or _may_ask_router(default):
        return
    instead = "EMAIL_BACKEND" if default else 'MAILERS, which has no "default"'
    yield message(
        "W013",
        f"{host.name} is not the default of Django: send_mail() and the like go to {instead}.",
        f'Write EMAIL_BACKEND = "{ROUTING_BACKEND}", or MAILERS = mailers(EMAIL_HOSTS) since '
        "Django 6.1. Or rename the host.",
    )


def _backend_of_development() -> Found:
    """With ``EMAIL_BACKEND`` on the console, you may think that hosts send there, too."""
    default = conf.default_mailer()
    if not conf.settings.DEBUG or conf.has_mailers() or test_mode.has_replaced(default):
        return
    backend = SENDS_NOTHING.get(str(default.get("BACKEND")))
    known = list(_hosts())
    sending = [host.name for host in known if has_server(host)]
    are_local = known and all(host.backend in SENDS_NOTHING for host in known)
    if backend and sending:
        yield message(
            "W020",
            f"EMAIL_BACKEND is Django's {backend} backend, and these hosts send all the same: "
            f"{listed(sending)}.",
            "While you develop, give each the DSN console: with its sender.",
        )
    elif are_local and has_server(bare_host(default)) and _names_server():
        yield message(
            "W020",
            "No host sends, but EMAIL_BACKEND does: Django's own mail, like password resets.",
            "While you develop, let EMAIL_BACKEND be that of the console, too: "
            f"{DJANGO_BACKENDS}.console.EmailBackend.",
        )


def _hosts_without_mailers() -> Found:  # pragma: mailers-only
    mailers = registry().mailers
    if not conf.has_mailers() or any(map(test_mode.has_replaced, mailers.values())):
        return
    # Of "default", W013 says so.
    known = [host for host in _hosts_of_dsns() if host.key != "default"]
    members = [host.members for host in _hosts() if host.setting == "MAILERS"]
    in_use = {*mailers, *chain.from_iterable(members)}
    missing = [host for host in known if host.key not in in_use]
    # By hand, a project may choose some. mailers() makes an entry of each host.
    is_made = any(mailers.get(str(host.key)) == host.mailer for host in known)
    if missing and (is_made or len(missing) == len(known)):
        yield message(
            "W014",
            f"MAILERS lacks {listed(host.name for host in missing)}, so "
            f'using="{shown(missing[0].key)}" is an error.',
            f"{MAILERS_HINT} Write it below the last host.",
        )


def _similar_settings() -> Found:
    djangos = conf.global_smtp_options()["host"]
    if isinstance(djangos, dict) or looks_like_a_dsn(str(djangos)):
        kind = "dict" if isinstance(djangos, dict) else "DSN"
        yield message(
            "W015",
            f"The setting EMAIL_HOST is a {kind}; did you mean EMAIL_HOSTS?",
            "EMAIL_HOST is the name of one server, without its login.",
        )
    missing = [name for name in conf.OWN_SETTINGS if not hasattr(conf.settings, name)]
    for name in conf.foreign_settings():
        option = name.removeprefix("EMAIL_HOSTS_").lower()
        longer = name.replace("EMAIL_ROUTER", "EMAIL_HOSTS_ROUTER")
        hint = did_you_mean(longer, missing, cutoff=NEAR)
        if name.startswith("EMAIL_HOSTS_") and not hint:
            # A project may keep a DSN under such a name, or a dict of some.
            value = getattr(conf.settings, name)
            is_none_of_ours = isinstance(value, Collection) and "://" in str(value)
            hint = "" if is_none_of_ours else "."
            if option in SMTP_OPTIONS:
                hint = f"; write {option!r} as an option of each host"
        if hint:
            yield message(
                "W015",
                f"The setting {name} has no effect{hint}",
                "Correct its name. If it is yours, choose another one.",
            )


def _senders() -> Found:
    """Of two hosts with one sender, the router picks the first, unless they are one group."""
    groups = [registry().group(str(host.key)) for host in _hosts_of_dsns() if host.members]
    # By the key of the first host with their sender, and its address.
    others: dict[tuple[str, str], list[str]] = {}
    for host in _hosts_of_dsns():
        sender = with_first_member(host).options.get("default_from_email", "")
        first = registry().host_of(sender) if sender else None
        if first in (None, host.key) or any({first, host.key} <= group for group in groups):
            continue
        address = address_and_domain(sender)[0]
        others.setdefault((str(first), address), []).append(host.name)
    for (first, address), names in others.items():
        yield message(
            "W012",
            f"{named(first)} gets all mail from {address}. Other hosts have the same sender: "
            f"{listed(names)}.",
            "Give each a sender of its own, make them one host (failover:a,b), or write a "
            "router.",
        )


def _redirects() -> Found:
    redirecting, others = [], []
    if not conf.has_mailers() and has_server(bare_host(conf.default_mailer())):
        others.append("EMAIL_BACKEND, which Django's own mail uses")
    for host in _hosts():
        if host.options.get("redirect_to"):
            redirecting.append(host.name)
        elif has_server(host):
            others.append(host.name)
    if redirecting and others:
        yield message(
            "W010",
            f"{redirecting[0]} redirects its mail, and others do not: {listed(others)}.",
            "Outside of production, let each host redirect, and let Django's own mail go "
            "through one. In production, let none.",
        )


OF_SETTINGS: tuple[Callable[[], Found], ...] = (
    _router,
    _strict,
    _cache,
    _default_backend,
    _default_host,
    _backend_of_development,
    _hosts_without_mailers,
    _similar_settings,
    _redirects,
)


# Whether they are fit for production


def _default_sends_nothing() -> Found:
    default, host = conf.default_mailer(), registry().valid("default")
    is_a_host = host is not None and host.mailer == default  # it is told of the host
    if is_a_host or test_mode.has_replaced(default):
        return
    if backend := SENDS_NOTHING.get(str(default.get("BACKEND"))):
        setting = 'MAILERS["default"]' if conf.has_mailers() else "EMAIL_BACKEND"
        yield message(
            "W004",
            f"The default mailer sends nothing: it is Django's {backend} backend.",
            f"In production, let {setting} be one that sends.",
        )


def _default_is_local() -> Found:
    """Before ``MAILERS``, a project may forget where mail of Django and of other apps goes."""
    if conf.has_mailers() or _names_server() or "default" in registry().dsns:
        return  # of a host "default", W013 says so
    if any(_hosts()) and bare_host(conf.default_mailer()).is_a(DJANGO_SMTP_BACKEND):
        yield message(
            "W022",
            "Django's own mail, like password resets, goes to EMAIL_HOST, which is localhost.",
            f'Write EMAIL_BACKEND = "{ROUTING_BACKEND}", and add a host "default". Or set '
            "EMAIL_HOST.",
        )


def _names_server() -> bool:
    """Whether the project has set the server of Django's own mail."""
    return bool(conf.settings.is_overridden("EMAIL_HOST"))


def _reporter_filter() -> Found:
    if not debug.is_installed():
        yield message(
            "W003",
            "The exception reporter filter of the project shows the passwords in EMAIL_HOSTS.",
            f"Let the class in DEFAULT_EXCEPTION_REPORTER_FILTER inherit from {debug.FILTER}.",
        )


def _rate_cache() -> Found:
    limited = [host.name for host in _hosts() if host.options.get("rate")]
    if not limited or any(_cache()):  # that is told already
        return
    cache = str(conf.settings.CACHES.get(conf.rate_cache(), {}).get("BACKEND", ""))
    if not cache or cache.endswith((".LocMemCache", ".DummyCache")):
        yield message(
            "W011",
            f"{listed(limited)}: each process counts only its own messages, so eight workers "
            "may send eight times the rate.",
            'Write EMAIL_HOSTS_CACHE = "default", where CACHES["default"] is one for all '
            "processes, like Redis or Memcached.",
        )


def _error_mails() -> Found:
    sender, default, host = conf.project_senders()[1], conf.default_mailer(), None
    if not conf.settings.ADMINS or sender != global_settings.SERVER_EMAIL:
        return
    with suppress(InvalidEmailHost):
        host = registry().find("default")
    is_used = default_routes() or needs_check(default) or (host and host.mailer == default)
    if not host or host.routes or not is_used:
        return
    if not with_first_member(host).options.get("server_email"):
        yield message(
            "W019",
            f"{host.name} sends error mails to ADMINS from {sender}, which servers refuse.",
            "Set SERVER_EMAIL, or add _server_email=errors@example.com to the DSN.",
        )


OF_DEPLOYED_SETTINGS = (
    _default_sends_nothing,
    _default_is_local,
    _reporter_filter,
    _rate_cache,
    _error_mails,
)


# What the checks above ask


def _may_ask_router(mailer: Mailer) -> bool:
    """Whether nobody knows what its mail goes through.

    It may be a queue, whose worker asks the router. Or Django's test environment has put it in
    the place of another.
    """
    path = str(mailer.get("BACKEND", DJANGO_BACKENDS))
    is_queue = not path.startswith((DJANGO_BACKENDS, "anymail.")) and not is_own(path)
    return is_queue or test_mode.has_replaced(mailer)


def _hosts() -> Iterator[Host]:
    """Yield the hosts of both settings that can be used."""
    for key in list(registry().keys()):
        with suppress(InvalidEmailHost):
            if host := registry().find(key):  # None if its key is no string
                yield host


def _hosts_of_dsns() -> Iterator[Host]:
    return filter(None, map(registry().valid, registry().dsns))
