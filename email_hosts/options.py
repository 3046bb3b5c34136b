"""The options of a DSN: their names, and what their values must be."""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from email import policy
from functools import lru_cache
from typing import Any

# Returns the value of an option. A ValueError says what it must be.
Converter = Callable[[str], Any]

# Values in Python that mean that an option is not given.
NOT_GIVEN = (None, "")

# Connections that one send may use. Servers allow far fewer, and each takes a thread.
MAX_PARALLEL = 50

# In characters. RFC 5321, 4.5.3.1 allows 254 for an address, and a display name may
# precede it. The time of the standard parser grows with the cube of the length.
MAX_EMAIL_ADDRESS = 320

# In characters (RFC 1035, 2.3.4). The time of IDNA grows with the square of the length.
MAX_HOST_NAME = 253

# The prefix of the option for a header. The name of the header follows.
HEADER = "_header-"
HEADER_NAME = f"{HEADER}NAME"

# Headers that have an option of their own.
OTHER_OPTIONS = {
    "from": "_default_from_email",
    "reply-to": "_reply_to",
    "return-path": "_envelope_from",
}
# Headers that a host does not add, because each message has its own.
OWN_HEADERS = re.compile(
    "to|cc|bcc|sender|subject|date|message-id|mime-version|content-.*|resent-.*"
)

# The part of an address before the '@', without quotation marks (RFC 5322, 3.2.3).
ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
LOCAL_PART = rf"{ATOM}(?:\.{ATOM})*"

# The grant types that we use to get an OAuth 2.0 token (RFC 6749, 4.4 and 6).
OAUTH2_GRANTS = ("client_credentials", "refresh_token")
MUST_BE_OAUTH2 = (
    f"must be {', '.join(OAUTH2_GRANTS)}, or the dotted path of a callable, like "
    "shop.mail.token"
)

# In characters, for a dotted path. A token may have dots, too, but is longer.
MAX_PATH = 100


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return ``; did you mean 'timeout'?``, or ``""`` if no known word is close.

    ``cutoff`` is that of ``difflib``: 1 matches only the word itself.
    """
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""


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
    return bool(re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", ascii_name))


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
        raise ValueError("must have this domain in ASCII, with xn--")
    return {in_ascii, own}


def without_control_characters(text: str) -> str:
    """Return the text, or raise ``ValueError`` if it has a line break or the like."""
    if text.isascii() and text.isprintable():  # nearly all, and the quickest test
        return text
    # Cc: control characters, with most line breaks; Zl, Zp: the others; Cs: surrogates.
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text):
        raise ValueError("has a control character; remove it (a line break?)")
    return text


def checked_text(value: Any) -> str:
    """Return a value given in Python, or raise ``ValueError`` if it is not text."""
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {type(value).__name__}")
    return without_control_characters(value)


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
    # A socket takes TIMEOUT_MAX at most.
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


def is_oauth2(value: str) -> bool:
    """Whether this names a way to get tokens, and is not a token itself."""
    is_path = len(value) <= MAX_PATH and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", value)
    return value in OAUTH2_GRANTS or bool(is_path)


def _oauth2(value: str) -> str:
    if not is_oauth2(value):
        raise ValueError(MUST_BE_OAUTH2)
    return value


def _host_name(value: str) -> str:
    if re.fullmatch(r"\[[0-9A-Za-z.:]+\]", value):
        return value
    if is_host_name(value):
        ascii_name = value.encode("idna").decode("ascii")
        if is_host_name(ascii_name):  # it is longer in ASCII
            return ascii_name
    raise ValueError("must be a host name, or an IP address in brackets (RFC 5321, 4.1.1.1)")


@lru_cache(maxsize=1024)
def _email_address(value: str) -> str:
    problem = ValueError(
        "must be one email address, ASCII before the '@', like shop@example.com or "
        "Shop <shop@example.com>"
    )
    if len(value) > MAX_EMAIL_ADDRESS:
        raise problem
    plain = re.fullmatch(r"[\w+-]+(?:\.[\w+-]+)*@([\w.-]+)", value, re.ASCII)
    if plain and is_host_name(plain[1]):  # nearly all; parsing takes 100 microseconds
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


def _recipients(value: str) -> list[str]:
    recipients = [each.strip() for each in value.split(",") if each.strip()]
    return list(map(_recipient, recipients or [""]))


@lru_cache(maxsize=1024)
def _recipient(value: str) -> str:
    match = re.fullmatch(f"(?:{LOCAL_PART}@)?([^@]+)", value)
    if not match or not is_host_name(match[1]):
        raise ValueError(
            "must be addresses and domains, like boss@example.org,example.com (without "
            "names, and a domain is without its subdomains)"
        )
    spellings(match[1])
    return value


def add_header(headers: dict[str, str], name: str, value: str) -> None:
    """Add a header that a host gives to its messages.

    Raises ``ValueError`` for one that each message has itself, or that is given twice.
    """
    if not re.fullmatch("[!-9;-~]+", name):  # RFC 5322, 2.2
        raise ValueError(
            "must name a header in printable ASCII without spaces and colons, like X-Shop"
        )
    lower = name.lower()
    if lower in OTHER_OPTIONS:
        raise ValueError(f"is not for a host to add; write {OTHER_OPTIONS[lower]}")
    if OWN_HEADERS.fullmatch(lower):
        raise ValueError("is not for a host to add: each message has its own")
    if lower in map(str.lower, headers):
        raise ValueError("is given twice")
    headers[name] = value


def missing_headers(headers: Mapping[str, str], present: Iterable[str]) -> dict[str, str]:
    """Return the headers that are not present. Names may differ in case."""
    names = {name.lower() for name in present}
    return {name: value for name, value in headers.items() if name.lower() not in names}


# Options of an SMTP host that logs in with a token instead of a password.
OAUTH2_OPTIONS: dict[str, Converter] = {
    "oauth2": _oauth2,
    "oauth2_token_url": _text,
    "oauth2_client_id": _text,
    "oauth2_client_secret": _text,
    "oauth2_scope": _text,
    "oauth2_refresh_token": _text,
}
SECRET_OPTIONS = {"oauth2_client_secret", "oauth2_refresh_token"}
# Options of SMTP hosts.
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
    **OAUTH2_OPTIONS,
}
SENDERS = ("_default_from_email", "_server_email")
# Host options: those of any host, whatever its scheme.
HOST_OPTIONS: dict[str, Converter] = {
    "_default_from_email": _email_address,
    "_server_email": _email_address,
    "_reply_to": _email_address,
    "_envelope_from": _email_address,
    HEADER_NAME: _text,
    "_redirect_to": _email_address,
    "_allowed_recipients": _recipients,
}
# Host options by the names that backends and Django's MAILERS use.
HOST_OPTION_NAMES = {
    "headers" if name == HEADER_NAME else name.removeprefix("_"): name for name in HOST_OPTIONS
}


def checked_host_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the host options among these, by their names in Python.

    Raises ``ValueError`` for a value that is not allowed in a DSN either.
    """
    checked: dict[str, Any] = {}
    for name, option in HOST_OPTION_NAMES.items():
        value = options.get(name)
        if value in NOT_GIVEN:
            continue
        try:
            checked[name] = _headers(value) if name == "headers" else _of(option, value)
        except ValueError as error:
            raise ValueError(f"option '{name}' {error}") from None
    refuse_allowed_alone(checked)
    return checked


def refuse_allowed_alone(options: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if there are allowed recipients, but no redirect for the others."""
    if options.get("allowed_recipients") and "redirect_to" not in options:
        raise ValueError(
            "option '_allowed_recipients' needs '_redirect_to' beside it, the address that "
            "gets the mail to all others"
        )


def _headers(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a dict of names and texts, not {type(value).__name__}")
    headers: dict[str, str] = {}
    for name, text in value.items():
        try:
            add_header(headers, str(name), _of(HEADER_NAME, text))
        except ValueError as error:
            raise ValueError(f"has {str(name)!r}, which {error}") from None
    return headers


def _of(option: str, value: Any) -> Any:
    if option in SENDERS:  # it may be a lazy string
        value = str(value)
    if option == "_allowed_recipients" and not isinstance(value, str):
        if not isinstance(value, (list, tuple)) or not all(isinstance(x, str) for x in value):
            raise ValueError("must be text, or a list of texts")
        if not value:  # nobody is allowed
            return []
        value = ",".join(value)
    return HOST_OPTIONS[option](checked_text(value))
