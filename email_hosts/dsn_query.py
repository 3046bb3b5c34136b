"""Parses the options in the query of a DSN, after its question mark.

No error repeats a part of the DSN that may belong to a login or an API key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from .exceptions import InvalidEmailHost
from .options import (
    HEADER,
    HEADER_NAME,
    HOST_OPTION_NAMES,
    HOST_OPTIONS,
    SECRET_OPTIONS,
    Converter,
    add_header,
    boolean,
    did_you_mean,
    refuse_allowed_alone,
    without_control_characters,
)

# Names that we use ourselves. A DSN cannot pass them to a backend.
RESERVED_OPTIONS = {"alias", "backend", "fail_silently", *HOST_OPTION_NAMES}

# Names the characters, because '%2F' or '/' in a message could be part of a password.
PERCENT_ENCODE = (
    "percent-encode each slash, question mark, hash, ampersand, at sign and percent sign that "
    "belongs to a user name, a password or a value"
)


def options_of(
    query: str,
    converters: Mapping[str, Converter],
    others: Converter | None = None,
    *,
    is_smtp: bool = False,
) -> dict[str, Any]:
    """Return the values of the options in a query, by the names that a backend takes.

    ``converters`` is the table of known options. ``others`` converts unknown options.
    Without it, they are errors.
    """
    options: dict[str, Any] = {}
    headers: dict[str, str] = {}
    parts = [part.partition("=") for part in query.split("&") if part]
    if is_smtp:
        _refuse_stray_at(parts)
    has_secret = not SECRET_OPTIONS.isdisjoint(name for name, _, _ in parts)
    for name, equals, value in parts:
        is_header = name.startswith(HEADER)
        converter = converters.get(HEADER_NAME if is_header else name, others)
        if converter is None:
            hint = did_you_mean(name, converters)
            if has_secret:  # this may be the end of a secret
                problem = f"what follows an ampersand is no option{hint}; {PERCENT_ENCODE}"
                raise InvalidEmailHost(problem)
            hint = hint or f"; known options: {', '.join(converters)}"
            raise InvalidEmailHost(f"unknown option {name!r}{hint}")
        if converter is others:
            _refuse_option_name(name if equals else "")  # it may be the end of a key
        option = name.removeprefix("_") if name in HOST_OPTIONS else name
        if option in options:
            raise InvalidEmailHost(f"option '{name}' is given twice")
        if not equals and converter is boolean:
            value = "true"
        try:
            options[option] = converter(decoded(f"option '{name}'", value))
            if is_header:
                add_header(headers, name.removeprefix(HEADER), options.pop(option))
                options["headers"] = headers
        except ValueError as error:
            raise InvalidEmailHost(f"option '{name}' {error}") from None
    try:
        refuse_allowed_alone(options)
    except ValueError as error:
        raise InvalidEmailHost(str(error)) from None
    return options


def _refuse_stray_at(parts: Iterable[tuple[str, str, str]]) -> None:
    """Refuse what looks like options but is the rest of a password.

    Only host options may have an '@' in their value. A misspelt one gets a better
    message later.
    """
    for name, _, value in parts:
        is_ours = name in HOST_OPTIONS or name.startswith(HEADER)
        if "@" not in name + (value if not is_ours else ""):
            continue
        if "@" in name or not difflib.get_close_matches(name, HOST_OPTIONS):
            raise InvalidEmailHost(
                f"the DSN has an at sign among its options; {PERCENT_ENCODE}"
            )


def _refuse_option_name(name: str) -> None:
    """Refuse what cannot be the name of an option of a backend that is not ours.

    Only host options begin with an underscore. A misspelt ``_redirect_to`` must not
    reach a backend that ignores unknown options.
    """
    if name.isidentifier() and name not in RESERVED_OPTIONS and not name.startswith("_"):
        return
    if not re.fullmatch("[a-z_-]+", name):  # it may be the end of a key
        raise InvalidEmailHost(f"what follows an ampersand is no option; {PERCENT_ENCODE}")
    hint = did_you_mean(name, HOST_OPTIONS)
    raise InvalidEmailHost(f"{name!r} cannot be the name of an option{hint}")


def decoded(part: str, text: str) -> str:
    """Return the percent-decoded text. A '+' stays a '+', as in RFC 3986."""
    if re.search("%(?![0-9A-Fa-f]{2})", text):
        raise InvalidEmailHost(
            f"{part} has a percent sign that encodes nothing; percent-encode it, too"
        )
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidEmailHost(f"{part} is percent-encoded, but not in UTF-8") from None
    refuse_control_characters(part, decoded)
    return decoded


def refuse_control_characters(part: str, text: str) -> None:
    """Raise ``InvalidEmailHost`` for a text with a line break or another control character."""
    try:
        without_control_characters(text)
    except ValueError as error:
        raise InvalidEmailHost(f"{part} {error}") from None
