"""Picks a host for each message."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from email.utils import parseaddr

from django.core.mail import EmailMessage

from .. import conf, hosts
from ..dsn import parse
from ..exceptions import InvalidEmailHost, summarize
from ..log import warn
from .base import HostMixin

_is_asking_router: ContextVar[bool] = ContextVar("is_asking_router", default=False)


class RoutingBackend(HostMixin):
    """The default backend of a project, which sends each message through one of its hosts.

    ``EMAIL_HOSTS_ROUTER`` picks the host. It is a callable or its path: ``router(message)``
    returns a key or ``None``. Without one, ``host_of_sender`` picks it. A message without a
    host goes to the host ``"default"``. If there is none, ``EmailHostDoesNotExist`` is raised.
    """

    def __init__(
        self,
        *,
        alias: str | None = None,
        fail_silently: bool = False,
        # send_mail() has these for the default backend. They are not meant for a host.
        username: object = None,
        password: object = None,
        _ignore_unknown_kwargs: object = None,  # private: from Django 6.1's get_connection()
    ) -> None:
        super().__init__()
        self.alias = alias
        self.fail_silently = fail_silently

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Send the messages. Return how many were accepted.

        Each host gets its messages in one batch. An error of one host does not keep back the
        mail of the others: the first error is raised after all have had their turn.
        """
        batches: dict[str, list[EmailMessage]] = {}
        errors: list[Exception] = []
        sent = 0
        for message in email_messages:
            try:
                batches.setdefault(_ask_router(message), []).append(message)
            except Exception as error:
                errors.append(error)
        for key, batch in batches.items():
            try:
                host = hosts.get_host(key, fail_silently=self.fail_silently)
                sent += host.send_messages(batch) or 0
            except Exception as error:
                errors.append(error)
        for ignored in errors[0 if self.fail_silently else 1 :]:
            warn("router: %s, ignored", summarize(ignored))
        if errors and not self.fail_silently:
            raise errors[0]
        return sent


def host_of_sender(message: EmailMessage) -> str | None:
    """Return the key of the host whose ``_default_from_email`` the message is from.

    A host with the same address comes first, then the first host with the same domain.
    """
    address, domain = _parsed(message.from_email)
    senders = [(key, *_parsed(sender)) for key, sender in _senders().items()]
    for key, own, _ in senders:
        if own == address:
            return key
    for key, _, own_domain in senders:
        if own_domain == domain:
            return key
    return None


def _ask_router(message: EmailMessage) -> str:
    """Return the key of the host for a message.

    Raises ``InvalidEmailHost`` if the router itself sends mail that asks the router.
    """
    if _is_asking_router.get():
        raise InvalidEmailHost("the router sends mail through itself")
    token = _is_asking_router.set(True)
    try:
        return (conf.router() or host_of_sender)(message) or "default"
    finally:
        _is_asking_router.reset(token)


def _senders() -> dict[str, str]:
    """Return the ``_default_from_email`` of each host that is valid and has one."""
    found = {}
    for key, dsn in conf.email_hosts().items():
        with suppress(InvalidEmailHost):
            found[key] = parse(dsn)["OPTIONS"].get("default_from_email")
    return {key: sender for key, sender in found.items() if sender}


def _parsed(sender: str) -> tuple[str, str]:
    """Return address and domain, in the form in which equal ones are the same string."""
    address = parseaddr(str(sender))[1].lower()
    local_part, _, domain = address.rpartition("@")
    with suppress(UnicodeError):  # it is no address anyway
        domain = domain.encode("idna").decode("ascii")
    return f"{local_part}@{domain}", domain
