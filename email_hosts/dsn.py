"""Turns a DSN into a host, or says what is wrong with it.

No error repeats a part of the DSN that may belong to a login or an API key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from speckenv_django import django_email_url

from .addresses import is_ipv6
from .exceptions import InvalidEmailHost
from .host import (
    FAILOVER_BACKEND,
    SMTP_BACKEND,
    TABLES,
    Host,
    checked_together,
    default_port,
    with_transport,
)
from .options import (
    HEADER,
    HOST_OPTIONS,
    INSTEAD,
    SEVERAL_OPTIONS,
    SMTP_OPTIONS,
    Option,
    Table,
    add_header,
    by_name_in_dsn,
    did_you_mean,
    instead_of,
    known_options,
)
from .schemes import (
    ANYMAIL,
    BUILTIN_SCHEMES,
    DJANGO_BACKENDS,
    DJANGO_SMTP_BACKEND,
    FILE_BACKEND,
    LOCAL_SCHEMES,
    OTHER_SCHEMES,
    PROVIDERS,
    SCHEMES,
    SEVERAL_SCHEMES,
    SMTP_SCHEMES,
)
from .values import LOOKS_UNSET, as_given, boolean, keys_in_python, without_control_characters

# Django's settings that an SMTP DSN replaces. speckenv returns them.
DJANGO_SETTINGS = {
    "host": "EMAIL_HOST",
    "port": "EMAIL_PORT",
    "username": "EMAIL_HOST_USER",
    "password": "EMAIL_HOST_PASSWORD",
    "use_tls": "EMAIL_USE_TLS",
    "use_ssl": "EMAIL_USE_SSL",
    "timeout": "EMAIL_TIMEOUT",
}

# Options that a DSN cannot pass to a backend that is not ours.
RESERVED_OPTIONS = {"alias", "backend", "fail_silently", *HOST_OPTIONS}

# The maximum length of a DSN from elsewhere, in characters. Real ones are far shorter.
MAX_LENGTH = 4096

# Names the characters, because '%2F' or '/' in a message could be part of a password.
PERCENT_ENCODE = (
    "percent-encode each slash, question mark, hash, ampersand, at sign and percent sign that "
    "belongs to a user name, a password or a value"
)

SEPARATORS = {
    "?": "a question mark before the first option",
    "&": "an ampersand between options",
}

QUOTATION_MARKS = {"'", '"'}

EXAMPLE = "for a mail server, write submission://smtp.example.com"

NO_OPTION = "the text after a question mark or an ampersand is not an option"


def parse(dsn: object, key: str | None = None, *, from_elsewhere: bool = False) -> Host:
    """Return the host that a DSN stands for. Raises ``InvalidEmailHost`` with its key.

    With ``from_elsewhere``, so does an option that a stranger must not use.
    """
    try:
        if not isinstance(dsn, str):
            raise InvalidEmailHost(f"a host must be a DSN string, not {type(dsn).__name__}")
        return replace(_parse(dsn.strip(), from_elsewhere), key=key)
    except InvalidEmailHost as error:
        reason = error.reason
    # Raised outside of the except block: __context__ may hold a part of the DSN.
    raise InvalidEmailHost(reason, alias=key)


def parse_from_elsewhere(dsn: str, schemes: str | Iterable[str]) -> Host:
    """Return the host of a DSN that a stranger may have written.

    Raises ``InvalidEmailHost`` unless it has one of these schemes, and for options that a
    stranger must not use.
    """
    if isinstance(dsn, str) and len(dsn) > MAX_LENGTH:
        raise InvalidEmailHost(f"the DSN must have at most {MAX_LENGTH} characters")
    if isinstance(dsn, str) and re.fullmatch(r"[\w-]+", dsn):
        raise InvalidEmailHost(
            "connection_from_dsn() takes a DSN; get_connection() takes the key of a host"
        )
    allowed = [schemes] if isinstance(schemes, str) else sorted(schemes)
    for scheme in allowed:
        if scheme not in SMTP_SCHEMES and scheme not in LOCAL_SCHEMES:
            raise InvalidEmailHost(
                f"scheme '{scheme}' cannot be allowed in a DSN from elsewhere: it may use the "
                "credentials of this project; allow schemes of SMTP, console, locmem, dummy "
                "or file"
            )
    host = parse(dsn, from_elsewhere=True)
    if host.scheme not in allowed:
        more = "; pass schemes= to allow it" if host.scheme in LOCAL_SCHEMES else ""
        raise InvalidEmailHost(
            f"scheme '{host.scheme}' is not allowed here; allowed: {', '.join(allowed)}{more}"
        )
    return host


def parse_conf(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return Django's email settings as options of an SMTP backend.

    ``config`` is what ``speckenv_django.django_email_url`` returns.
    """
    return {option: config.get(setting) for option, setting in DJANGO_SETTINGS.items()}


Made = tuple[str, dict[str, Any]]  # a backend and its options


class _Parts(NamedTuple):
    """The parts of a URI, as RFC 3986 names them, still percent-encoded."""

    scheme: str
    authority: str
    path: str
    query: str
    from_elsewhere: bool


@lru_cache(maxsize=256)
def _parse(dsn: str, from_elsewhere: bool) -> Host:
    _refuse_control_characters("the DSN", dsn)
    # One at the end may be that of a value in JSON.
    if dsn[:1] in QUOTATION_MARKS or (dsn[-1:] in QUOTATION_MARKS and "?" not in dsn):
        raise InvalidEmailHost("the DSN is in quotation marks; remove them")
    scheme = _scheme_of(dsn)
    if "#" in dsn:
        raise InvalidEmailHost(f"the DSN has a fragment, after a hash; {PERCENT_ENCODE}")
    rest, _, query = dsn.partition(":")[2].partition("?")
    _refuse_lost_separator("?", rest)
    authority, slash, path = (
        rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
    )
    parts = _Parts(scheme, authority, slash + path, query, from_elsewhere)
    if scheme in SMTP_SCHEMES:
        backend, options = _smtp(parts)
    elif scheme in SEVERAL_SCHEMES:
        backend, options = _several(parts)
    else:
        backend, options = _file(parts) if scheme == "file" else _backend(parts)
    return checked_together(Host(None, backend, options, scheme=scheme))


def _scheme_of(dsn: str) -> str:
    scheme, colon, _ = dsn.lower().partition(":")
    if colon and (scheme in SCHEMES or re.fullmatch(r"anymail\+[a-z][a-z0-9_-]*", scheme)):
        return scheme
    if re.fullmatch(LOOKS_UNSET, dsn):
        raise InvalidEmailHost("the DSN is the name of a variable that is not set")
    known = f"known schemes are {', '.join(SCHEMES)}, {ANYMAIL}mailgun and the like"
    match = re.match("[A-Za-z][A-Za-z0-9+.-]*(?=://)", dsn)
    here = OTHER_SCHEMES.get(scheme) or OTHER_SCHEMES.get(scheme.partition("+")[0])
    if not match:  # text before the first colon may be a user name
        hint = did_you_mean(here or scheme, SCHEMES, cutoff=0.8)
        if scheme in SCHEMES:
            hint = f"; write {scheme}: with a colon"
        elif not colon:
            hint = hint or "; to use another host, write failover: and its key"
        raise InvalidEmailHost(f"the DSN must start with a scheme{hint}; {EXAMPLE}; {known}")
    others = [*SCHEMES, *(ANYMAIL + provider for provider in PROVIDERS)]
    hint = f"; write '{here}' instead" if here else did_you_mean(scheme, others, cutoff=0.7)
    raise InvalidEmailHost(f"unknown scheme '{match[0]}'{hint or f'; {EXAMPLE}'}; {known}")


def _smtp(parts: _Parts) -> Made:
    if parts.authority.endswith(":") and parts.path.startswith("//"):
        raise InvalidEmailHost(f"the DSN has two schemes; remove one; {PERCENT_ENCODE}")
    if parts.authority and parts.path not in {"", "/"}:
        raise InvalidEmailHost(f"the DSN has a path after its host; {PERCENT_ENCODE}")
    if parts.path[:1] not in {"", "/"}:
        raise InvalidEmailHost(f"the DSN names no host; write it after {parts.scheme}://")
    options = _options_of(parts, SMTP_OPTIONS)
    userinfo, at, address = parts.authority.rpartition("@")
    address = address.replace("%25", "%")  # a zone, RFC 6874: [fe80::1%25eth0]
    username, _, password = userinfo.partition(":")
    _decoded("the user name", username)
    _decoded("the password", password)
    _check_address(address)
    # RFC 3986 has neither brackets nor other scripts in user information, and speckenv may
    # refuse them.
    userinfo = quote(userinfo, safe="%:!$&'()*+,;=~")
    found = parse_conf(django_email_url(f"smtp://{userinfo}{at}{address}"))
    found["host"] = SMTP_OPTIONS["host"].of(found["host"])
    if re.search(r":[0-9]+$", address):
        options["port"] = found["port"]
    transport = SMTP_SCHEMES[parts.scheme]
    of_scheme = {**found, **transport, "port": default_port(transport)}
    return SMTP_BACKEND, {**of_scheme, **with_transport(options, of_scheme)}


def _refuse_lost_separator(mark: str, text: str) -> None:
    """Refuse an option in the middle of something else.

    Without the question mark, the at sign of a sender would end the login, and the domain of
    the sender would get it.
    """
    advice = f"write {SEPARATORS[mark]}: {mark}"
    for name in by_name_in_dsn({**SMTP_OPTIONS, **SEVERAL_OPTIONS}) if "=" in text else ():
        begin = HEADER if name.startswith(HEADER) else f"{name}="
        if f"&{begin}" in text or (name.startswith("_") and begin in text):
            raise InvalidEmailHost(f"{advice}{name}=...; {PERCENT_ENCODE}")
    if re.search("&_[a-z_-]+=", text):  # a misspelt one, or a part of a password
        raise InvalidEmailHost(f"{advice}option=...; {PERCENT_ENCODE}")


def _file(parts: _Parts) -> Made:
    path = _decoded("the path", parts.path)
    if path.lstrip("/").startswith("~"):
        raise InvalidEmailHost(
            "a tilde does not stand for a home folder; write its whole path"
        )
    if parts.authority or not path.strip("/"):
        examples = "file:///var/mail/out is absolute, file:mail/out relative"
        raise InvalidEmailHost(f"a file host must name a folder: {examples}")
    return FILE_BACKEND, {"file_path": path, **_options_of(parts, HOST_OPTIONS)}


def _several(parts: _Parts) -> Made:
    """Parse the keys of other hosts: ``failover:shop,spare``"""
    names = (parts.authority + parts.path).split(",")
    keys = keys_in_python([_decoded("a host", name) for name in names])
    options = _options_of(parts, SEVERAL_OPTIONS)
    return FAILOVER_BACKEND, {"hosts": keys, **SEVERAL_SCHEMES[parts.scheme], **options}


def _backend(parts: _Parts) -> Made:
    """Parse ``backend://dotted.path.Class``, or a scheme that stands for a class."""
    scheme = parts.scheme
    path = parts.authority + parts.path
    if scheme != "backend":
        if path:
            example = f"write {scheme}:// or {scheme}://?option=value"
            raise InvalidEmailHost(f"'{scheme}' takes nothing but options; {example}")
        provider = scheme.removeprefix(ANYMAIL).replace("-", "_")
        package = DJANGO_BACKENDS if scheme in BUILTIN_SCHEMES else "anymail.backends"
        path = f"{package}.{provider}.EmailBackend"
    elif not re.fullmatch(r"\w+(\.\w+)+", path):
        example = "backend://dotted.path.Class?option=value"
        raise InvalidEmailHost(f"'backend' must name a class; write {example}")
    if path in (SMTP_BACKEND, DJANGO_SMTP_BACKEND):
        raise InvalidEmailHost("write smtp://, submission:// or submissions:// instead")
    if path == FAILOVER_BACKEND:
        raise InvalidEmailHost("write failover:shop,spare or roundrobin:shop,spare instead")
    has_options_of_its_own = path not in TABLES and scheme not in BUILTIN_SCHEMES
    return path, _options_of(parts, HOST_OPTIONS, others=has_options_of_its_own)


def _check_address(address: str) -> None:
    if is_ipv6(address):
        raise InvalidEmailHost("write an IPv6 address in brackets, like [2001:db8::1]")
    match = re.fullmatch(r"(\[[^]]*\]|[^:]*)(?::(.*))?", address, re.DOTALL)
    host, port = match.groups() if match else (address, None)
    if not host:
        raise InvalidEmailHost(
            "the DSN names no host; write one after the two slashes or the at sign"
        )
    no_host_yet = "if it is part of a password, the at sign and the host are missing after it"
    both = ("host", host, PERCENT_ENCODE), ("port", port or "25", no_host_yet)
    for name, text, advice in both:
        try:
            SMTP_OPTIONS[name].convert(text)
        except ValueError as error:
            raise InvalidEmailHost(f"the {name} {error}; {advice}") from None


def _options_of(parts: _Parts, table: Table, *, others: bool = False) -> dict[str, Any]:
    """Return the options in the query, by their names in Python.

    ``others`` allows options that are not in the table: those of a backend that is not ours.
    """
    options: dict[str, Any] = {}
    known = by_name_in_dsn(table)
    _refuse_other_separators(parts.query, known)
    given = [part.partition("=") for part in parts.query.split("&") if part]
    secrets = tuple(name for name, option in known.items() if option.is_secret)
    has_secret = any(name.startswith(secrets) for name, _, _ in given)
    for name, equals, value in given:
        is_header = name.startswith(HEADER)
        _refuse_lost_separator("&", value)
        option = known.get(f"{HEADER}NAME" if is_header else name)
        if option is None and others:
            option = _foreign_option(name if equals else "")  # it may be the end of an API key
        elif option is None:
            may_be_secret = f"_{name}" not in known and (
                has_secret or _may_be_password(parts, name)
            )
            raise InvalidEmailHost(_unknown_option(name, table, may_be_secret=may_be_secret))
        if option.name in options and not is_header:
            hint = INSTEAD.get(name, "")
            raise InvalidEmailHost(f"option '{name}' is given twice{hint}")
        if not equals and option.convert is boolean:
            value = "true"
        try:
            converted = _converted(option, name, value, parts)
            if is_header:
                headers = options.setdefault(option.name, {})
                add_header(headers, name.removeprefix(HEADER), converted)
            else:
                options[option.name] = converted
        except ValueError as error:
            raise InvalidEmailHost(f"option '{name}' {error}") from None
    return options


def _converted(option: Option, name: str, text: str, parts: _Parts) -> Any:
    """Return the value. Raises ``ValueError``, also for what a stranger must not use."""
    if parts.from_elsewhere and not option.for_strangers:
        raise ValueError(
            f"is not allowed in a DSN from elsewhere; if you trust its server, pass "
            f"{option.name}= to connection_from_dsn()"
        )
    value = option.convert(_decoded(f"option '{name}'", text))
    if parts.from_elsewhere and option.limit and value > option.limit:
        raise ValueError(f"must be at most {option.limit:g} in a DSN from elsewhere")
    return value


def _refuse_other_separators(query: str, known: Iterable[str]) -> None:
    for part in re.split("[;?]", query)[1:]:
        name = re.split("[=&]", part)[0]
        if name in known or name.startswith(HEADER):
            raise InvalidEmailHost(
                "options are separated by ampersands; percent-encode a semicolon or a "
                "question mark that belongs to a password or a value"
            )


def _unknown_option(name: str, table: Table, *, may_be_secret: bool) -> str:
    hint = instead_of(name.lower(), table, in_dsn=True)
    if may_be_secret or not re.fullmatch("[A-Za-z0-9_-]+", name):
        return f"{NO_OPTION}{hint}; {PERCENT_ENCODE}"
    return f"unknown option {name!r}{hint or known_options(by_name_in_dsn(table))}"


def _may_be_password(parts: _Parts, name: str) -> bool:
    """Whether what looks like an option may be the rest of a password, which an at sign ends.

    Such a sign is in the values of some options, whose names begin with an underscore. Only
    DSNs of SMTP have a password, but one may stand in another by mistake.
    """
    may_be_one = parts.scheme in SMTP_SCHEMES or not re.fullmatch("[a-z_-]+", name)
    return may_be_one and any(
        "@" in part and not re.match("_[a-z_-]+=", part) for part in parts.query.split("&")
    )


def _foreign_option(name: str) -> Option:
    """Return an option of a backend that is not ours.

    Only the options of hosts begin with an underscore. A misspelt ``_redirect_to`` must not
    reach a backend that ignores unknown options.
    """
    if name.isidentifier() and name not in RESERVED_OPTIONS and not name.startswith("_"):
        return Option(name, name, partial(as_given, name))
    if not re.fullmatch("[a-z_-]+", name):  # it may be the end of an API key
        raise InvalidEmailHost(f"{NO_OPTION}; {PERCENT_ENCODE}")
    hint = did_you_mean(name, by_name_in_dsn(HOST_OPTIONS))
    if name[0] != "_" and "-" in name:
        hint = f"; did you mean '{name.replace('-', '_')}'?"
    raise InvalidEmailHost(f"{name!r} cannot be the name of an option{hint}")


def _decoded(part: str, text: str) -> str:
    """Return the percent-decoded text. A '+' stays a '+', as in RFC 3986."""
    if re.search("%(?![0-9A-Fa-f]{2})", text):
        raise InvalidEmailHost(
            f"{part} has a percent sign without two hexadecimal digits after it; "
            "percent-encode it, too"
        )
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidEmailHost(f"{part} is percent-encoded, but not in UTF-8") from None
    _refuse_control_characters(part, decoded)
    return decoded


def _refuse_control_characters(part: str, text: str) -> None:
    """Raise ``InvalidEmailHost`` for a text with a line break or another control character."""
    try:
        without_control_characters(text)
    except ValueError as error:
        raise InvalidEmailHost(f"{part} {error}") from None
