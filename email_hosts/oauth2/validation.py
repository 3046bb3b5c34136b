"""Which options go together in an SMTP host that logs in with a token."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from ..options import (
    MUST_BE_OAUTH2,
    OAUTH2_OPTIONS,
    checked_text,
    is_host_name,
    is_ipv6,
    is_loopback,
    is_oauth2,
)

# The options that each grant type needs, and those that it may have.
NEEDED = {
    "client_credentials": ("oauth2_token_url", "oauth2_client_id", "oauth2_client_secret"),
    "refresh_token": ("oauth2_token_url", "oauth2_client_id", "oauth2_refresh_token"),
}
TAKEN = {
    "client_credentials": {*NEEDED["client_credentials"], "oauth2_scope"},
    "refresh_token": {*NEEDED["refresh_token"], "oauth2_client_secret", "oauth2_scope"},
}


def problem_with(options: Mapping[str, Any]) -> str:
    """Return what is wrong with the options of a host, by their Python names, or ``""``."""
    oauth2 = options.get("oauth2")
    details = [name for name in OAUTH2_OPTIONS if name != "oauth2" and options.get(name)]
    if not oauth2:
        return f"option '{details[0]}' needs 'oauth2' beside it" if details else ""
    if not callable(oauth2) and not (isinstance(oauth2, str) and is_oauth2(oauth2)):
        return f"option 'oauth2' {MUST_BE_OAUTH2}"
    return (
        _problem_with_login(options)
        or _problem_with_texts(details, options)
        or _problem_with_details(oauth2, details, options)
    )


def origin(options: Mapping[str, Any]) -> str:
    """Return where the tokens of a host come from, for people to read."""
    oauth2 = options["oauth2"]
    if oauth2 in NEEDED:
        return str(urlsplit(options["oauth2_token_url"]).hostname)
    return str(oauth2)


def _problem_with_login(options: Mapping[str, Any]) -> str:
    username = str(options.get("username") or "")
    if options.get("password"):
        return "option 'oauth2' takes the place of the password; remove the password"
    if not username:
        return (
            "option 'oauth2' needs a user name; write "
            "submission://me%40example.com@smtp.example.com"
        )
    if not (username.isascii() and username.isprintable()):
        return "with 'oauth2', the user name must be printable ASCII"
    if not (options.get("use_tls") or options.get("use_ssl")):
        return (
            "option 'oauth2' needs TLS; write submission:// (STARTTLS) or submissions:// (TLS "
            "from the first byte)"
        )
    return ""


def _problem_with_texts(names: Iterable[str], options: Mapping[str, Any]) -> str:
    for name in names:
        try:
            checked_text(options[name])
        except ValueError as error:
            return f"option '{name}' {error}"
    return ""


def _problem_with_details(oauth2: Any, details: list[str], options: Mapping[str, Any]) -> str:
    way = oauth2 if isinstance(oauth2, str) and oauth2 in NEEDED else ""
    for name in details:
        if name not in TAKEN.get(way, ()):
            ways = " and ".join(f"oauth2={each}" for each in TAKEN if name in TAKEN[each])
            return f"option '{name}' belongs to {ways}, and 'oauth2' is something else"
    missing = [f"'{name}'" for name in NEEDED.get(way, ()) if name not in details]
    if missing:
        return f"oauth2={way} needs {' and '.join(missing)} beside it"
    if way and not _is_secure(options["oauth2_token_url"]):
        return (
            "option 'oauth2_token_url' must be a URL that starts with https://, without user "
            "name and fragment (http:// is for this machine alone)"
        )
    return ""


def _is_secure(url: str) -> bool:
    """Whether a secret may be sent there. RFC 6749, 3.2 requires TLS."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port  # a bad port is an error here
    except ValueError:
        return False
    is_host = is_host_name(host) or is_ipv6(host)
    if not is_host or not re.fullmatch("[!-~]+", url) or "@" in parts.netloc or "#" in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
