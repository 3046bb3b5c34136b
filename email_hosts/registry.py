"""The hosts of the settings: by their keys, and by their senders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

from django.core.mail import EmailMessage

from . import conf
from .addresses import address_and_domain
from .boundary import is_own
from .dsn import parse
from .exceptions import InvalidEmailHost, checked_flag, checked_key
from .host import (
    HOST_BACKEND,
    Host,
    Mailer,
    bare_host,
    checked_path,
    dict_of_mailer,
    is_path,
    with_options,
)
from .options import HOST_OPTIONS, NOT_GIVEN, missing_headers
from .schemes import DJANGO_SMTP_BACKEND
from .testmode import test_mode

BASE = "email_hosts.backends.base.Backend"


class Registry:
    """The hosts of ``EMAIL_HOSTS`` and ``MAILERS``, for as long as these are the same objects.

    Finding one of ten thousand hosts costs as much as finding one of ten.
    """

    def __init__(self, dsns: Mapping[str, Any], mailers: Mapping[str, Mailer]) -> None:
        self.dsns = dsns
        self.mailers = mailers
        self._hosts: dict[tuple[str, str], tuple[Any, Host]] = {}

    def of_dsn(self, key: str) -> Host | None:
        """Return the host of ``EMAIL_HOSTS``. Raises ``InvalidEmailHost``."""
        dsn = self.dsns.get(key)
        if dsn in NOT_GIVEN:
            return None
        return self._made("EMAIL_HOSTS", key, dsn, lambda: parse(dsn, key))

    def valid(self, key: str) -> Host | None:
        """Return the same, or ``None`` for a host that is not valid."""
        with suppress(InvalidEmailHost):  # reported where the host is used
            return self.of_dsn(key)
        return None

    def of_mailer(self, key: str) -> Host:  # pragma: mailers-only
        """Return the host of ``MAILERS``. Raises ``InvalidEmailHost``."""
        entry = dict_of_mailer(self.mailers[key], key)
        entry = {**entry, "OPTIONS": dict(entry.get("OPTIONS", {}))}
        return self._made("MAILERS", key, entry, lambda: host_of_mailer(key, entry))

    def _made(self, setting: str, key: str, entry: object, make: Callable[[], Host]) -> Host:
        """Return the host of an entry, made anew if one of its values has been replaced."""
        known, host = self._hosts.get((setting, key), (None, None))
        if host is None or known != entry:
            host = make()
            self._hosts[setting, key] = entry, host
        return host

    def find(self, key: str) -> Host | None:
        """Return the host of this key, or ``None`` if it has none of its own.

        Raises ``InvalidEmailHost`` if it is not valid.
        """
        host = self.of_dsn(checked_key(key))
        its_own = host.mailer if host else None
        mailer: Any = self.mailers.get(key, its_own)
        if mailer != its_own:  # pragma: mailers-only
            found = self.of_mailer(key)
            # A router in MAILERS may pick the host that has the router's own key.
            if not (host and (found.routes or test_mode.has_replaced(mailer))):
                return found
        return host

    def keys(self) -> Iterator[str]:
        """Yield the keys that have a host of their own, in the order of the settings."""
        for key, dsn in self.dsns.items():
            if dsn not in NOT_GIVEN:
                yield str(key)
        for key, mailer in self.mailers.items():  # pragma: mailers-only
            if self.dsns.get(key) in NOT_GIVEN and not bare_host(mailer, key).routes:
                yield key

    def host_of(self, sender: str) -> str | None:
        """Return the key of the host of ``EMAIL_HOSTS`` that has this sender.

        A host with the same address comes first, then the first host with the same domain.
        A host of several comes before its members. If it has no sender, it has that of the
        first.
        """
        address, domain = address_and_domain(sender)
        by_address, by_domain = self._senders
        return by_address.get(address) or by_domain.get(domain)

    def group(self, key: str) -> set[str]:
        """Return the keys of all hosts that a host stands for, its own among them."""
        group = [key]
        for each in group:  # it grows, because a member may have members
            host = self.valid(each)
            members = host.members if host else ()
            group += [one for one in members if one in self.dsns and one not in group]
        return set(group)

    @cached_property
    def _senders(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the key of the host for each address and for each domain."""
        by_address: dict[str, str] = {}
        by_domain: dict[str, str] = {}
        place = {key: place for place, key in enumerate(self.dsns)}
        groups = {key: self.group(key) for key in place}
        # A host of several comes right before the first of its members.
        first = {key: min(place[each] for each in groups[key]) for key in place}
        in_order = sorted(place, key=lambda key: (first[key], -len(groups[key])))
        for host in filter(None, map(self.valid, in_order)):
            if sender := with_first_member(host).options.get("default_from_email"):
                address, domain = address_and_domain(sender)
                by_address.setdefault(address, str(host.key))
                by_domain.setdefault(domain, str(host.key))
        return by_address, by_domain


_registry = Registry({}, {})


def registry() -> Registry:
    """Return the hosts of the settings. Raises ``InvalidEmailHost`` if these are no dicts."""
    global _registry
    current, dsns, mailers = _registry, conf.email_hosts(), conf.mailers()
    if current.dsns is not dsns or current.mailers is not mailers:
        current = _registry = Registry(dsns, mailers)
    return current


def host_of_sender(message: EmailMessage) -> str | None:
    """Return the key of the host with the sender of a message: the default router."""
    return registry().host_of(message.from_email)


def host_of_mailer(key: str, mailer: Any) -> Host:  # pragma: mailers-only
    """Return the host of an entry of ``MAILERS``. Raises ``InvalidEmailHost``."""
    path = mailer.get("BACKEND", DJANGO_SMTP_BACKEND)
    options = dict(mailer.get("OPTIONS", {}))
    if path == HOST_BACKEND:
        path = options.pop("backend", "")
    try:
        checked_path(path)
        # Of the mailer, and not of its host: get_connection() has its own.
        checked_flag(options.pop("fail_silently", None))
    except InvalidEmailHost as error:
        error.name(key, "MAILERS")
        raise
    host = Host(key, path, {}, setting="MAILERS")
    for name in mailer:
        if name in (*host.table, "fail_silently"):  # Django ignores it
            reason = f"an entry of MAILERS has BACKEND and OPTIONS; move {name!r} into OPTIONS"
            raise InvalidEmailHost(reason, alias=key, setting="MAILERS")
    return with_options(host, options)


def needs_check(mailer: Mailer, key: Any = None) -> bool:  # pragma: mailers-only
    """Whether we check a mailer: its backend is one of ours, or not the path of a class.

    The path of one of ours may be misspelt. Raises ``InvalidEmailHost`` if the mailer itself
    is a DSN.
    """
    host = bare_host(mailer, key)
    return not is_path(host.backend) or is_own(host.backend) or host.is_a(BASE)


def find_cycle(
    key: str, path: tuple[str, ...] = (), acyclic: set[str] | None = None
) -> tuple[str, ...]:
    """Return the hosts that name each other in a cycle: ``("a", "b", "a")``, or ``()``.

    The host of this key is one of them, or leads to them.
    """
    acyclic = set() if acyclic is None else acyclic
    if key in path:
        return (*path[path.index(key) :], key)
    if key not in acyclic:  # a host that several others name is looked at once
        host = None
        with suppress(InvalidEmailHost):  # reported where the host is used
            host = registry().find(key)
        for member in host.members if host else ():
            if cycle := find_cycle(member, (*path, key), acyclic):
                return cycle
        acyclic.add(key)
    return ()


def with_first_member(host: Host, above: tuple[str, ...] = ()) -> Host:
    """Return a host of several with what its first member does to a message.

    A member may have members itself. ``above`` holds the keys on the path to it,
    because these may form a cycle.
    """
    members = host.members
    if not members or members[0] in above:
        return host
    member = registry().valid(members[0])
    if member is None:
        return host
    below = with_first_member(member, (*above, members[0])).options
    of_member = {name: below[name] for name in HOST_OPTIONS if name in below}
    headers = host.options.get("headers", {})
    headers = {**headers, **missing_headers(of_member.get("headers", {}), headers)}
    return replace(host, options={**of_member, **host.options, "headers": headers})
