"""What the values of options must be: converters, for the text of a DSN and for Python.

Each returns the value. A ``ValueError`` says what it must be.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from os import PathLike, fspath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.utils.functional import Promise

from .addresses import is_host_name, is_ipv6, is_loopback, recipients
from .exceptions import checked_key

# Converts the text of a DSN. A ValueError says what the value must be.
Converter = Callable[[str], Any]

# The grant types that we use to get an OAuth 2.0 token (RFC 6749, 4.4 and 6).
CLIENT_CREDENTIALS, REFRESH_TOKEN = "client_credentials", "refresh_token"
OAUTH2_GRANTS = (CLIENT_CREDENTIALS, REFRESH_TOKEN)

# Options of other backends whose values are text, even if they look like numbers.
KEYS_AND_NAMES = "(key|token|secret|password|user|account|name|id)$"
# As in JSON, without exponents, and with 15 digits at most on each side of the period.
NUMBER = r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?"
# The spans of limits, in seconds, and what is counted.
SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MESSAGES, RECIPIENTS = "messages", "recipients"

# A text where the value of a variable should be: None, $NAME, ${NAME}, {name}, <name>.
LOOKS_UNSET = r"None|\$\{?\w+\}?|\{\w+\}|<\w+>"

# In characters, for a dotted path. A token may have dots, too, but is longer.
MAX_PATH = 100


def takes(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether it can be called with these arguments. True if only a call would tell."""
    with suppress(ValueError):  # of some that are written in C
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError:
            return False
    return True


def without_control_characters(text: str) -> str:
    """Return the text, or raise ``ValueError`` if it has a line break or the like."""
    if text.isascii() and text.isprintable():  # nearly all, and the quickest test
        return text
    # Cc: control characters, with most line breaks; Zl, Zp: the others; Cs: surrogates.
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text):
        raise ValueError("has a control character, such as a line break; remove it")
    return text


def text(value: Any) -> str:
    """Return a value given in Python, or raise ``ValueError`` if it is not text."""
    if isinstance(value, PathLike):
        value = fspath(value)
    if not isinstance(value, (str, Promise)):
        raise ValueError(f"must be text, not {type(value).__name__}")
    return without_control_characters(str(value))  # it may be lazy


def as_given(name: str, value: str) -> Any:
    """Return the value of an option for a backend that is not ours, with its type in Python.

    A boolean, a number, and JSON for what starts with a brace or a quotation mark. All else
    is text, and so are numbers in options whose names say that they are keys or names.
    """
    if value.startswith(("{", '"')):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(
                "must be JSON, because it starts with a brace or a quotation mark"
            ) from None
    if value in {"true", "false"}:
        return value == "true"
    if re.search(KEYS_AND_NAMES, name) or not re.fullmatch(NUMBER, value):
        return value
    return float(value) if "." in value else int(value)


def boolean(value: str) -> bool:
    """Return whether the option is switched on."""
    if value.lower() in {"1", "true", "yes", "on"}:
        return True
    if value.lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError("must be 1, true, yes or on, or 0, false, no or off")


def seconds(value: str) -> float:
    """Return a positive number of seconds."""
    # A socket takes TIMEOUT_MAX at most.
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) and 0 < float(value) <= threading.TIMEOUT_MAX:
        return int(value) if value.isdigit() else float(value)
    raise ValueError("must be a positive number of seconds, like 10 or 2.5")


def whole_number(value: str, maximum: int = 999_999_999) -> int:
    """Return a whole number from 1 to the maximum."""
    if re.fullmatch("0*[1-9][0-9]{0,8}", value) and int(value) <= maximum:
        return int(value)
    raise ValueError(f"must be a whole number from 1 to {maximum}")


def not_empty(value: str) -> str:
    """Return the text, unless there is none."""
    if not value:
        raise ValueError("must have a value")
    return value


class Limit(NamedTuple):
    """At most this number in any span of so many seconds."""

    number: int
    span: int

    def __str__(self) -> str:
        """Return it as a DSN has it: ``30/m``."""
        units = {span: unit for unit, span in SPANS.items()}
        return f"{self.number}/{units.get(self.span, self.span)}"


@lru_cache(maxsize=1024)  # a call may give them again each time
def limits(value: str) -> tuple[Limit, ...]:
    """Return the limits of a rate, which all hold: ``14/s,50000/d``."""
    found = {}
    for part in value.split(","):
        match = re.fullmatch("0*([1-9][0-9]{0,8})/([smhd])", part.strip())
        if not match:
            raise ValueError(
                "must be a whole number per second, minute, hour or day; write it like "
                '"30/m", or like "14/s,50000/d"'
            )
        limit = Limit(int(match[1]), SPANS[match[2]])
        if limit.span in found:
            raise ValueError(f"has two limits for one span; remove {limit} or the other one")
        found[limit.span] = limit
    return tuple(found.values())


def rate_by(value: str) -> str:
    """Return what a rate counts."""
    if value in (MESSAGES, RECIPIENTS):
        return value
    raise ValueError(f"must be {MESSAGES} or {RECIPIENTS}")


def oauth2(value: str) -> str:
    """Return the way to get a token: a grant type, or the path of a callable."""
    is_path = len(value) <= MAX_PATH and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", value)
    if value in OAUTH2_GRANTS or is_path:
        return value
    raise ValueError(
        f"must be {', '.join(OAUTH2_GRANTS)}, or the dotted path of a callable, like "
        "shop.mail.token"
    )


def begins_with_module(path: str) -> bool:
    """Whether a path begins with a module or a package that is installed."""
    name = path.partition(".")[0]
    return name in sys.modules or find_spec(name) is not None


def token_url(value: str) -> str:
    """Return a URL to which a secret may be sent. RFC 6749, 3.2 requires TLS."""
    with suppress(ValueError):
        url = urlsplit(value)
        host, _ = url.hostname or "", url.port  # a bad port is an error here
        is_secure = url.scheme == "https" or (url.scheme == "http" and is_loopback(host))
        is_plain = re.fullmatch('[!"$-~]+', value) and "@" not in url.netloc  # nor a hash
        if is_secure and is_plain and (is_host_name(host) or is_ipv6(host)):
            return value
    raise ValueError(
        "must be a URL that starts with https:// and has neither user name nor fragment "
        "(http:// is only for this machine)"
    )


# Converters of values in Python, where these differ from the text of a DSN.


def boolean_in_python(value: Any) -> bool:
    """Return a boolean. 1 and 0 count, as they do for Django."""
    if isinstance(value, (bool, int)) and value in (0, 1):
        return bool(value)
    raise ValueError("must be True or False")


def number_in_python(convert: Converter, value: Any) -> Any:
    """Return a number, if this converter allows it in a DSN."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"must be a number, not {type(value).__name__}")
    return convert(str(value))


def oauth2_in_python(value: Any) -> Any:
    """Return the way to get a token, which may be the callable itself."""
    return value if callable(value) else oauth2(text(value))


def limits_in_python(value: Any) -> tuple[Limit, ...]:
    """Return limits from text, from a ``Limit``, or from a list of these."""
    is_one = isinstance(value, Limit) or not isinstance(value, (list, tuple))
    return limits(",".join(map(str, [value] if is_one else value)))


def recipients_in_python(value: Any) -> list[str]:
    """Return addresses and domains, from a list of them or from text."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(one, str) for one in texts):
        raise ValueError("must be text, or a list of texts")
    return recipients(text(",".join(texts))) if texts else []  # nobody is allowed


def keys_in_python(value: Any) -> tuple[str, ...]:
    """Return the keys of hosts, from a list of them or from text."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, Iterable) or isinstance(names, dict):
        raise ValueError(f"must be a list of keys, not {type(value).__name__}")
    keys = tuple(checked_key(name).strip() for name in names)
    return tuple(key for key in keys if key)
