"""The options of a DSN: their names, and what their values must be."""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
import threading
from collections.abc import Callable, Iterable
from email import policy
from typing import Any

# Returns the value of an option. A ValueError says what it must be.
Converter = Callable[[str], Any]

# Connections of one send. Servers allow far fewer, and each takes a thread.
MAX_PARALLEL = 50

# Characters. RFC 5321, 4.5.3.1 allows an address 254, and a display name may stand before it.
# The parser of the standard library takes the cube of the length.
MAX_EMAIL_ADDRESS = 320

# Characters, RFC 1035, 2.3.4. IDNA takes the square of the length, and makes it longer before.
MAX_HOST_NAME = 253


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'timeout'?``, or nothing where no known word is near."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""


def is_ipv6(text: str) -> bool:
    """Whether this is an IPv6 address, with or without a zone."""
    try:
        zone = ipaddress.IPv6Address(text).scope_id
    except ValueError:
        return False
    return zone is None or bool(re.fullmatch("[A-Za-z0-9._~-]+", zone))


def is_host_name(text: str) -> bool:
    """Whether ``socket`` can look it up: letters, digits and '-' or '_', in any script."""
    if len(text) > MAX_HOST_NAME:
        return False
    try:
        ascii_name = text.encode("idna").decode("ascii")
    except UnicodeError:
        return False
    return bool(re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", ascii_name))


def as_given(value: str) -> Any:
    """Return the value for a backend that is not ours: a boolean, a JSON object or text."""
    if not value.startswith("{"):
        return {"true": True, "false": False}.get(value, value)
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("starts with a brace and must be a JSON object") from None


def boolean(value: str) -> bool:
    """Return whether the option is switched on."""
    if value.lower() in {"1", "true", "yes", "on"}:
        return True
    if value.lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError("must be 1, true, yes or on, or 0, false, no or off")


def seconds(value: str) -> float:
    """Return a positive number."""
    # TIMEOUT_MAX is the most that a socket takes.
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) and 0 < float(value) <= threading.TIMEOUT_MAX:
        return int(value) if value.isdigit() else float(value)
    raise ValueError("must be a positive number of seconds, like 10 or 2.5")


def _count(value: str) -> int:
    if re.fullmatch("0*[1-9][0-9]{0,8}", value):
        return int(value)
    raise ValueError("must be a positive whole number, like 100")


def _parallel(value: str) -> int:
    if re.fullmatch("0*[1-9][0-9]?", value) and int(value) <= MAX_PARALLEL:
        return int(value)
    raise ValueError(f"must be a whole number from 1 to {MAX_PARALLEL}")


def _text(value: str) -> str:
    if not value:
        raise ValueError("must have a value")
    return value


def _host_name(value: str) -> str:
    if not is_host_name(value) and not re.fullmatch(r"\[[0-9A-Za-z.:]+\]", value):
        raise ValueError(
            "must be a host name, or an IP address in brackets (RFC 5321, 4.1.1.1)"
        )
    return value.encode("idna").decode("ascii")


def _email_address(value: str) -> str:
    problem = ValueError(
        "must be one email address, ASCII before the '@', like shop@example.com or "
        "Shop <shop@example.com>"
    )
    if len(value) > MAX_EMAIL_ADDRESS:
        raise problem
    plain = re.fullmatch(r"[\w+-]+(?:\.[\w+-]+)*@([\w.-]+)", value, re.ASCII)
    if plain and is_host_name(plain[1]):  # nearly all; the parser takes 100 microseconds
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


# Of SMTP hosts.
SMTP_OPTIONS: dict[str, Converter] = {
    "ssl": boolean,
    "tls": boolean,
    "timeout": seconds,
    "ssl_certfile": _text,
    "ssl_keyfile": _text,
    "ssl_cafile": _text,
    "local_hostname": _host_name,
    "conn_max_age": seconds,
    "conn_max_messages": _count,
    "conn_max_idle": _count,
    "parallel": _parallel,
}
# Of hosts of any scheme.
HOST_OPTIONS: dict[str, Converter] = {
    "_default_from_email": _email_address,
    "_server_email": _email_address,
}
