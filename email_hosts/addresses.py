"""What host names and email addresses must be, and which of them are the same."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from email import policy
from email.utils import parseaddr
from functools import lru_cache
from typing import Any

# In characters. RFC 5321, 4.5.3.1 allows 254 for an address, and a display name may
# precede it. The time of the standard parser grows with the cube of the length.
MAX_EMAIL_ADDRESS = 320

# In characters (RFC 1035, 2.3.4). The time of IDNA grows with the square of the length.
MAX_HOST_NAME = 253

# The part of an address before the '@', without quotation marks (RFC 5322, 3.2.3).
ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
LOCAL_PART = rf"{ATOM}(?:\.{ATOM})*"


def is_ipv6(text: str) -> bool:
    """Whether this is an IPv6 address, with or without a zone."""
    try:
        zone = ipaddress.IPv6Address(text).scope_id
    except ValueError:
        return False
    return zone is None or bool(re.fullmatch("[A-Za-z0-9._~-]+", zone))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, so that nothing travels over a network."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761


def is_host_name(text: str) -> bool:
    """Whether ``socket`` can look it up: letters, digits and '-' or '_', in any script."""
    if len(text) > MAX_HOST_NAME:
        return False
    try:
        ascii_name = text.encode("idna").decode("ascii")
    except UnicodeError:
        return False
    is_name = re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", ascii_name)
    return bool(is_name) and len(ascii_name) <= MAX_HOST_NAME


def host_or_address(value: str) -> str:
    """Return a host without the brackets of IPv6 and without a dot at its end.

    Certificates do not have that dot. Raises ``ValueError``.
    """
    is_in_brackets = value.startswith("[") and value.endswith("]")
    host = value[1:-1] if is_in_brackets else value
    if is_ipv6(host):
        return host
    if is_in_brackets or not is_host_name(host):
        raise ValueError("must be a host name or an IP address (IPv6 in brackets)")
    return host.removesuffix(".")


def ehlo_name(value: str) -> str:
    """Return a name for ``EHLO``, in ASCII, or raise ``ValueError``."""
    if re.fullmatch(r"\[[0-9A-Za-z.:]+\]", value):
        return value
    if is_host_name(value):
        return value.encode("idna").decode("ascii")
    raise ValueError("must be a host name, or an IP address in brackets (RFC 5321, 4.1.1.1)")


@lru_cache(maxsize=1024)  # an address with a display name takes 100 microseconds
def email_address(value: str) -> str:
    """Return an address, with a display name or without, or raise ``ValueError``."""
    problem = ValueError(
        "must be one email address in ASCII before the '@', like shop@example.com or "
        '"Shop, Inc." <shop@example.com>; in a DSN, write an ampersand in a name as %26'
    )
    if len(value) > MAX_EMAIL_ADDRESS:
        raise problem
    plain = re.fullmatch(r"[\w+-]+(?:\.[\w+-]+)*@([\w.-]+)", value, re.ASCII)
    if plain and is_host_name(plain[1]):  # nearly all
        return value
    unquoted = re.fullmatch(r'([^"<>]*\.[^"<>]*?)\s*(<[^<>]*>)', value)
    if unquoted:  # Dr. Shop <shop@example.com>: Django 6.0 and later refuse the period
        value = '"{}" {}'.format(*unquoted.groups())
    try:
        header: Any = policy.default.header_factory("From", value)
    except Exception:  # on bad input, the standard library's parser fails in many ways
        raise problem from None
    one = len(header.groups) == 1 and header.groups[0].display_name is None
    if header.defects or not one or value.strip().strip(",") != value.strip():
        raise problem
    domain = header.addresses[0].domain
    if not is_host_name(domain) and not domain.startswith("["):
        raise problem
    return value


def address_and_domain(sender: str) -> tuple[str, str]:
    """Return both in lower case, with the domain in ASCII, to compare them."""
    address = parseaddr(str(sender))[1].lower()
    local_part, _, domain = address.rpartition("@")
    with suppress(UnicodeError):  # then it is not an address
        domain = domain.encode("idna").decode("ascii")
    return f"{local_part}@{domain}", domain


def recipients(value: str) -> list[str]:
    """Return addresses and domains, separated by commas, or raise ``ValueError``."""
    found = [each.strip() for each in value.split(",") if each.strip()]
    return list(map(_recipient, found or [""]))


@lru_cache(maxsize=1024)
def _recipient(value: str) -> str:
    match = re.fullmatch(f"(?:{LOCAL_PART}@)?([^@]+)", value)
    if not match or not is_host_name(match[1]) or value.startswith("*"):
        raise ValueError(
            "must be addresses without names, and domains without an at sign, like "
            "boss@example.org,example.com; a domain does not include its subdomains"
        )
    spellings(match[1])
    return value


def spellings(domain: str) -> set[str]:
    """Return the spellings of a domain in lower case: in ASCII, and in its own script.

    Raises ``ValueError`` where the standards differ: Python's codec (IDNA 2003) turns
    ``straße`` into ``strasse``, and IDNA 2008 does not.
    """
    domain = domain.lower()
    in_ascii = domain.encode("idna").decode("ascii")
    try:
        own = in_ascii.encode("ascii").decode("idna")
    except UnicodeError:  # a name that only IDNA 2008 allows
        own = in_ascii
    if domain not in (in_ascii, own):
        raise ValueError("must have this domain in ASCII, beginning with xn--")
    return {in_ascii, own}
