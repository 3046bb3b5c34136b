"""Options that are given in Python: in a call, or in an entry of ``MAILERS``.

The rules for their values are those of a DSN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from inspect import signature
from typing import Any, TypeVar, cast

from .dsn import IMPLICIT_TLS_PORT, SMTP_SCHEMES
from .exceptions import InvalidEmailHost
from .options import HEADER, HOST_OPTION_NAMES, NOT_GIVEN, Converter

F = TypeVar("F", bound=Callable[..., Any])

# Options that have another name in Python than in a DSN. The names are Django's.
PYTHON_NAMES = {
    "ssl": "use_ssl",
    "tls": "use_tls",
    **{option: name for name, option in HOST_OPTION_NAMES.items()},
}

# A call must not switch a redirect off by accident.
OF_REDIRECT = ("redirect_to", "allowed_recipients")

# A host probably did not choose a port that is one of these, so ssl may change it.
STANDARD_PORTS = {scheme.port for scheme in SMTP_SCHEMES.values()}


def python_name(name: str) -> str:
    """Return what Python calls an option of a DSN."""
    return "headers" if name.startswith(HEADER) else PYTHON_NAMES.get(name, name)


def in_python(
    given: Mapping[str, Any], own: Mapping[str, Any], converters: Mapping[str, Converter]
) -> dict[str, Any]:
    """Return the options of one connection by their names in Python.

    ``own`` holds the host's options. As in a DSN, ``ssl`` and ``tls`` switch each other
    off, and ``ssl`` has a port of its own. Raises ``InvalidEmailHost`` for an option
    that is given under both names.
    """
    options: dict[str, Any] = {}
    for name, value in given.items():
        is_header = name.startswith(HEADER)
        option = python_name(name) if is_header or name in converters else name
        if (is_header or option in OF_REDIRECT) and value in NOT_GIVEN:
            continue
        if is_header and "headers" not in given:
            options.setdefault(option, {})[name.removeprefix(HEADER)] = value
            continue
        if option in options:
            both = " and ".join(repr(each) for each in given if python_name(each) == option)
            raise InvalidEmailHost(f"options {both} are the same one; give one of them")
        options[option] = value
    for name, other in (("ssl", "use_tls"), ("tls", "use_ssl")):
        if name in given and name in converters and _is_on(given[name], converters[name]):
            options.setdefault(other, False)
            if name == "ssl" and own.get("port") in STANDARD_PORTS:
                options.setdefault("port", IMPLICIT_TLS_PORT)
    return options


def checked(converters: Mapping[str, Converter]) -> Callable[[F], F]:
    """Decorate the constructor of a backend to take only values that a DSN may have.

    Any other value raises ``InvalidEmailHost``.
    """
    by_name = {python_name(name): converter for name, converter in converters.items()}

    def decorate(function: F) -> F:
        defaults = {
            name: parameter.default
            for name, parameter in signature(function).parameters.items()
        }

        @wraps(function)
        def wrapper(*args: Any, **options: Any) -> Any:
            for name in options.keys() & by_name.keys() & defaults.keys():
                if options[name] in NOT_GIVEN and defaults[name] in NOT_GIVEN:
                    options[name] = defaults[name]
                    continue
                try:
                    options[name] = _value(options[name], by_name[name])
                except ValueError as error:
                    raise InvalidEmailHost(f"option '{name}' {error}") from None
            return function(*args, **options)

        return cast("F", wrapper)

    return decorate


def names_mailer(function: F) -> F:
    """Decorate the constructor of a backend: its ``InvalidEmailHost`` names the mailer.

    For a host of ``EMAIL_HOSTS``, ``hosts.build`` replaces that name.
    """

    @wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except InvalidEmailHost as error:
            reason = error.reason
        raise InvalidEmailHost(reason, alias=options.get("alias"), setting="MAILERS")

    return cast("F", wrapper)


def _is_on(value: Any, converter: Converter) -> bool:
    try:
        return bool(_value(value, converter))
    except ValueError:  # the backend raises it again, with a message
        return False


def _value(value: Any, converter: Converter) -> Any:
    """Return the value that a DSN would give. In Python, a number must not be a string."""
    result = _converted(converter, str(value))
    is_number = isinstance(result, (int, float)) and not isinstance(result, bool)
    if isinstance(value, str) and is_number:
        return converter(repr(value))  # raises ValueError, and says what it must be
    return result


@lru_cache(maxsize=1024)  # an address with a display name takes 100 microseconds
def _converted(converter: Converter, text: str) -> Any:
    return converter(text)
