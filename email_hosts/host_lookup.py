"""Caches ``EMAIL_HOSTS`` by key and by sender, until the setting is replaced.

So choosing one of ten thousand hosts costs as much as choosing one of ten.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from email.utils import parseaddr
from functools import cached_property
from typing import Any

from . import conf
from .dsn import Mailer, parse
from .exceptions import InvalidEmailHost


class HostLookup:
    """Finds a host of one dict by its key, or by the sender of a message."""

    def __init__(self, hosts: Mapping[str, Any]) -> None:
        self.hosts = hosts
        self._parsed: dict[str, tuple[Any, Mailer]] = {}

    def mailer(self, key: str) -> Mailer:
        """Return the mailer of this key. You must not change it.

        A DSN that has changed in place is parsed again. Raises ``InvalidEmailHost``.
        """
        dsn = self.hosts.get(key)
        known, mailer = self._parsed.get(key, (None, None))
        if mailer is None or known != dsn:
            mailer = parse(dsn, alias=key)
            self._parsed[key] = dsn, mailer
        return mailer

    def host_of(self, sender: str) -> str | None:
        """Return the key of the host whose ``_default_from_email`` matches the sender.

        A host with the same address comes first, then the first host with the same domain.
        """
        address, domain = _parsed(sender)
        by_address, by_domain = self._senders
        return by_address.get(address) or by_domain.get(domain)

    @cached_property
    def _senders(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the key of the first host for each address and for each domain."""
        by_address: dict[str, str] = {}
        by_domain: dict[str, str] = {}
        for key in self.hosts:
            with suppress(InvalidEmailHost):
                if sender := self.mailer(key)["OPTIONS"].get("default_from_email"):
                    address, domain = _parsed(sender)
                    by_address.setdefault(address, key)
                    by_domain.setdefault(domain, key)
        return by_address, by_domain


_current = HostLookup({})


def current() -> HostLookup:
    """Return the lookup of ``EMAIL_HOSTS``. Raises ``InvalidEmailHost`` for no dict."""
    global _current
    lookup, hosts = _current, conf.email_hosts()
    if lookup.hosts is not hosts:
        lookup = _current = HostLookup(hosts)
    return lookup


def _parsed(sender: str) -> tuple[str, str]:
    """Return address and domain in lower case, with the domain in ASCII."""
    address = parseaddr(str(sender))[1].lower()
    local_part, _, domain = address.rpartition("@")
    with suppress(UnicodeError):  # then it is not an address
        domain = domain.encode("idna").decode("ascii")
    return f"{local_part}@{domain}", domain
