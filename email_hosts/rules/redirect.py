"""Outside of production, some people get their mail, and one address gets all the rest.

It fails closed: a recipient is allowed only if that is certain. ``recipients()`` of a
message says who would get it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from datetime import date
from functools import partial
from itertools import chain
from numbers import Number
from typing import Any

from django.core.mail import EmailMessage
from django.utils.functional import Promise

from ..addresses import LOCAL_PART, spellings
from ..exceptions import InvalidEmailHost, printable

FIELDS = ("to", "cc", "bcc")
ORIGINAL = "X-Original-To"

# Recipients may see the first six, and some backends send to them. The other three tell
# SendGrid, SparkPost and Mailchimp to send to more people.
RECIPIENT_HEADERS = {
    *("to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc"),
    *("x-smtpapi", "x-msys-api", "x-mc-bccaddress"),
}

# With one of these, Anymail (the last: django-sendgrid-v5) sends each recipient a message.
PER_RECIPIENT = ("merge_data", "merge_headers", "merge_metadata", "personalizations")

# An address, with a name or without, that all parsers read in the same way. Some decode
# encoded words (RFC 2047), so '=' in a name and '=?' in a local part are not allowed.
CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
MAILBOX = re.compile(
    rf"""
    (?: (?: "[^"\\<>={CONTROL}]*"[ ]* | [^"\\<>=()\[\],;:@{CONTROL}]* ) (<) )?
    (?![^@]*=\?) ({LOCAL_PART}) @ ([^\s"\\<>()\[\],;:@]+)
    (?(1)>)
    """,
    re.VERBOSE,
)


def recipients(message: EmailMessage, host: Any) -> dict[str, Any]:
    """The host's ``redirect_to`` takes the place of recipients who are not allowed.

    It stands where the first of them stood, once. Raises ``InvalidEmailHost`` for a message
    that Anymail may send to others.
    """
    if not host.redirect_to:
        return {}
    refuse_other_recipients(
        lambda name: getattr(message, name, None), "the message", host.alias
    )
    allowed = _allowed(host)
    people = [(str(each), _address(str(each))) for each in message.recipients()]
    staying = {address: text for text, address in people if _may_get_mail(address, allowed)}
    others = [text for text, address in people if address not in staying]
    is_new = others and _address(host.redirect_to) not in staying
    stand_in = [host.redirect_to] if is_new else []
    changes: dict[str, Any] = {}
    for field in FIELDS:
        changes[field] = []
        for text in map(str, filter(None, getattr(message, field, ()) or ())):
            if _address(text) in staying:
                changes[field].append(text)
            elif stand_in:
                changes[field].append(stand_in.pop())
    shown = {_address(text) for field in FIELDS for text in changes[field]}
    changes["bcc"] += [text for address, text in staying.items() if address not in shown]
    changes["bcc"] += stand_in
    # A subclass may override recipients(). A partial can be pickled, a lambda cannot.
    changes["recipients"] = partial(
        list, [text for field in FIELDS for text in changes[field]]
    )
    left_out = {*RECIPIENT_HEADERS, ORIGINAL.lower()} if others else RECIPIENT_HEADERS
    headers = getattr(message, "extra_headers", {})
    changes["extra_headers"] = {
        name: value for name, value in headers.items() if name.strip().lower() not in left_out
    }
    if others:
        changes["extra_headers"][ORIGINAL] = ", ".join(printable(text) for text, _ in people)
    return changes


def nobody_else(message: EmailMessage, host: Any) -> dict[str, Any]:
    """Whatever a subclass does, the message goes to nobody who is not allowed."""
    if not host.redirect_to:
        return {}
    allowed = _allowed(host)
    fields = [getattr(message, field, None) or () for field in FIELDS]
    for text in map(str, chain(message.recipients(), *fields)):
        if not _may_get_mail(_address(text), allowed) and text != host.redirect_to:
            raise InvalidEmailHost(
                "option '_redirect_to' cannot be combined with a message whose recipients "
                "cannot be replaced",
                alias=host.alias,
            )
    return {}


RULES = (recipients, nobody_else)


def refuse_other_recipients(
    get: Callable[[str], Any], where: str, alias: str | None, *more: str
) -> None:
    """Raise ``InvalidEmailHost`` if Anymail would send mail to others than the recipients.

    ``get`` returns an attribute by its name. ``where`` says what has it: the message,
    or Anymail's ``SEND_DEFAULTS``.
    """
    # Anymail's "not set" is a class. An empty dict counts as set.
    found = [
        name for name in (*PER_RECIPIENT, *more) if not isinstance(get(name), type | None)
    ]
    # The structure of esp_extra depends on the provider, but each address has an '@'.
    if _may_have_address(get("esp_extra")):
        found.append("an address in esp_extra")
    if found:
        raise InvalidEmailHost(
            f"option '_redirect_to' cannot be combined with {found[0]} in {where}, with which "
            "the provider may send mail to other people; remove one of the two",
            alias=alias,
        )


def _may_have_address(value: Any) -> bool:
    """Whether it has an '@', or anything that cannot be searched for one."""
    if isinstance(value, Mapping):
        return any(map(_may_have_address, [*value.keys(), *value.values()]))
    if isinstance(value, (list, tuple, set)):
        return any(map(_may_have_address, value))
    if isinstance(value, (str, Promise)):
        return "@" in str(value)
    # A class is Anymail's "not set".
    return not isinstance(value, (Number, date, type, type(None)))


def _allowed(host: Any) -> set[str | None]:
    """Return the addresses and domains that get their mail."""
    allowed = {_address(host.redirect_to)}
    for recipient in host.allowed_recipients:
        local_part, at, domain = recipient.rpartition("@")
        allowed.update(f"{local_part}{at}{spelling}" for spelling in spellings(domain))
    return allowed


def _may_get_mail(address: str | None, allowed: Container[str | None]) -> bool:
    return address is not None and (
        address in allowed or address.rpartition("@")[2] in allowed
    )


def _address(recipient: str) -> str | None:
    """Return the address of a recipient, or ``None`` if it may not be just one.

    The local part keeps its case, which may matter (RFC 5321, 2.4).
    """
    match = MAILBOX.fullmatch(recipient.strip(" "))
    return f"{match[2]}@{match[3].lower()}" if match else None
