"""One DSN string becomes one entry of Django's ``MAILERS``: the whole grammar, in tables.

Reads no settings and imports nothing that does, so that a settings file can use it.
No error here repeats a piece of the DSN that could belong to its user information.
"""

from __future__ import annotations

import difflib
import encodings.idna  # noqa: F401 (imported later, it could be half imported at a fork)
import ipaddress
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from email import policy
from functools import lru_cache
from typing import Any, NamedTuple, TypedDict
from urllib.parse import quote, unquote

from speckenv_django import django_email_url

from .exceptions import InvalidEmailHost


class Mailer(TypedDict):
    """The shape of an entry of Django's ``MAILERS``."""

    BACKEND: str
    OPTIONS: dict[str, Any]


# Returns what an option means; a ValueError says what it has to be.
Converter = Callable[[str], Any]


class Scheme(NamedTuple):
    """What the scheme of an SMTP host says about its transport."""

    ssl: bool
    tls: bool
    port: int


# RFC 6409 (submission), RFC 8314 (submissions, implicit TLS on port 465).
IMPLICIT_TLS_PORT = 465
STARTTLS = Scheme(ssl=False, tls=True, port=587)
IMPLICIT_TLS = Scheme(ssl=True, tls=False, port=IMPLICIT_TLS_PORT)
SMTP_SCHEMES = {
    "smtp": Scheme(ssl=False, tls=False, port=25),
    "submission": STARTTLS,
    "smtp+tls": STARTTLS,
    "smtps": IMPLICIT_TLS,
    "submissions": IMPLICIT_TLS,
    "smtp+ssl": IMPLICIT_TLS,
}
BUILTIN_SCHEMES = ("console", "locmem", "dummy")
SEVERAL_SCHEMES = {"failover": {}, "roundrobin": {"rotate": True}}
ANYMAIL = "anymail+"  # and the name of the provider
SCHEMES = (*SMTP_SCHEMES, *BUILTIN_SCHEMES, "file", *SEVERAL_SCHEMES, "backend")

SMTP_BACKEND = "email_hosts.backends.EmailHostsBackend"
HOST_BACKEND = "email_hosts.backends.HostBackend"
FAILOVER_BACKEND = "email_hosts.backends.FailoverBackend"
ROUTING_BACKEND = "email_hosts.backends.RoutingBackend"
FILE_BACKEND = "django.core.mail.backends.filebased.EmailBackend"

DJANGO_SETTINGS = {
    "host": "EMAIL_HOST",
    "port": "EMAIL_PORT",
    "username": "EMAIL_HOST_USER",
    "password": "EMAIL_HOST_PASSWORD",
    "use_tls": "EMAIL_USE_TLS",
    "use_ssl": "EMAIL_USE_SSL",
    "timeout": "EMAIL_TIMEOUT",
}

# What a connection calls the senders of its host.
SENDERS = ("default_from_email", "server_email")

# Names that have another meaning on the way to the backend.
RESERVED_OPTIONS = {"alias", "backend", "fail_silently", *SENDERS}

# In words: a raw '%2F' or '/' could be a piece of a password, too.
PERCENT_ENCODE = (
    "percent-encode each slash, question mark, hash, ampersand, at sign and percent sign that "
    "belongs to a user name, a password or a value"
)


def parse_hosts(hosts: Mapping[str, str | None]) -> dict[str, Mailer]:
    """Return a mailer for each host of ``EMAIL_HOSTS`` that is not empty.

    Raises ``InvalidEmailHost`` with the key of the first one that is not valid.
    """
    return {
        key: parse_host(key, dsn)
        for key, dsn in dict_of_hosts(hosts).items()
        if not is_empty(dsn)
    }


def dict_of_hosts(hosts: Any) -> Mapping[str, Any]:
    """Return the value of ``EMAIL_HOSTS``, or raise ``InvalidEmailHost`` if it is no dict."""
    if isinstance(hosts, Mapping):
        return hosts
    raise InvalidEmailHost(f"EMAIL_HOSTS is a dict of DSN strings, not {type(hosts).__name__}")


def members(mailer: Mailer) -> tuple[str, ...]:
    """Return the keys of the hosts that a failover or round robin consists of."""
    is_several = backend_of(mailer) == FAILOVER_BACKEND
    return keys_of(mailer["OPTIONS"].get("hosts", ())) if is_several else ()


def keys_of(hosts: str | Iterable[str]) -> tuple[str, ...]:
    """Return the keys in ``"shop,spare"``, or in what has them apart already."""
    if isinstance(hosts, str):
        return tuple(filter(None, map(str.strip, hosts.split(","))))
    return tuple(hosts)


def backend_of(mailer: Mailer) -> str:
    """Return the path of the backend that sends, below one that only applies a sender."""
    path: str = mailer["BACKEND"]
    return str(mailer["OPTIONS"]["backend"]) if path == HOST_BACKEND else path


def is_empty(dsn: object) -> bool:
    """Whether a host counts as not configured, as if its key were missing."""
    return dsn is None or dsn == ""


def looks_like_a_dsn(key: str) -> bool:
    """Whether a key may be a DSN by mistake, with a login that nobody should see."""
    return "://" in key or re.search(":.*[?@]", key) is not None


def parse_host(key: str, dsn: object) -> Mailer:
    """Return ``parse(dsn)``; an ``InvalidEmailHost`` names the host's key."""
    try:
        return parse(dsn)
    except InvalidEmailHost as error:
        reason = error.reason
    # Outside of the except block: the new error carries no trace of the parser's frames.
    raise InvalidEmailHost(reason, alias=key)


def parse(dsn: object) -> Mailer:
    """Return the ``BACKEND`` and ``OPTIONS`` that a DSN stands for.

    The result is the caller's to change. Raises ``InvalidEmailHost``.
    """
    if not isinstance(dsn, str):
        raise InvalidEmailHost(f"a host is a DSN string, not {type(dsn).__name__}")
    mailer = _parse(dsn)
    return {"BACKEND": mailer["BACKEND"], "OPTIONS": dict(mailer["OPTIONS"])}


def parse_conf(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of an SMTP backend for Django's settings of the same meaning.

    ``config`` is what ``speckenv_django.django_email_url`` returns.
    """
    return {option: config.get(setting) for option, setting in DJANGO_SETTINGS.items()}


def scheme_of(dsn: str) -> str:
    """Return the scheme of a DSN, in lower case. Raises ``InvalidEmailHost``."""
    scheme, colon, _ = dsn.lower().partition(":")
    is_known = scheme in SCHEMES or re.fullmatch(r"anymail\+[a-z][a-z0-9_-]*", scheme)
    if not colon or not is_known:
        raise InvalidEmailHost(_unknown_scheme(dsn))
    return scheme


def redacted(dsn: object) -> str:
    """Return a DSN for people to read, without user name, password and keys."""
    try:
        parse(dsn)
    except InvalidEmailHost:
        return "*****"  # no telling where its secrets are
    address, question_mark, query = str(dsn).partition("?")
    options = (
        part if name in _HARMLESS_OPTIONS or not equals else f"{name}=*****"
        for part in query.split("&")
        for name, equals, _ in [part.partition("=")]
    )
    address = re.sub(r"(?<=://)[^/?#]*@", "*****:*****@", address)
    return f"{address}{question_mark}{'&'.join(options)}"


def did_you_mean(word: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """Return ``; did you mean 'timeout'?``, or nothing where no known word is near."""
    nearest = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""


class _Parts(NamedTuple):
    """The parts of a URI, as RFC 3986 names them, still percent-encoded."""

    scheme: str
    authority: str
    path: str
    query: str


@lru_cache(maxsize=256)
def _parse(dsn: str) -> Mailer:
    _refuse_control_characters("the DSN", dsn)
    if dsn != dsn.strip():
        raise InvalidEmailHost("the DSN starts or ends with white space; remove it")
    scheme = scheme_of(dsn)
    if "#" in dsn:
        raise InvalidEmailHost(f"the DSN has a fragment, after a hash; {PERCENT_ENCODE}")
    rest, _, query = dsn.partition(":")[2].partition("?")
    authority, slash, path = (
        rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
    )
    parts = _Parts(scheme, authority, slash + path, query)
    if scheme in SMTP_SCHEMES:
        return _smtp(parts)
    if scheme in SEVERAL_SCHEMES:
        return _several(parts)
    if scheme in BUILTIN_SCHEMES:
        return _builtin(parts)
    return _file(parts) if scheme == "file" else _backend(parts)


def _smtp(parts: _Parts) -> Mailer:
    _refuse_stray_at(parts.query)
    if parts.authority and parts.path:
        raise InvalidEmailHost(f"the DSN has a path after its host; {PERCENT_ENCODE}")
    userinfo, _, address = parts.authority.rpartition("@")
    username, password = _credentials(userinfo)
    host, port = _address(address)
    options = _options(parts.query, {**_SMTP_OPTIONS, **_SENDER_OPTIONS})
    scheme = SMTP_SCHEMES[parts.scheme]
    use_ssl, use_tls = options.pop("ssl", None), options.pop("tls", None)
    if use_ssl and use_tls:
        raise InvalidEmailHost(
            "options 'ssl' and 'tls' exclude each other: ssl is TLS from the first byte, "
            "tls is STARTTLS"
        )
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise InvalidEmailHost("option 'ssl_keyfile' needs 'ssl_certfile' beside it")
    # An option outranks the scheme, and one that is switched on switches off the other.
    if use_ssl is None:
        use_ssl = scheme.ssl and not use_tls
    if use_tls is None:
        use_tls = scheme.tls and not use_ssl
    port = port or (IMPLICIT_TLS_PORT if use_ssl else scheme.port)
    # speckenv gets a DSN that it can only read in one way.
    login = f"{quote(username, safe='')}:{quote(password, safe='')}@" if username else ""
    flag = "?ssl=1" if use_ssl else "?tls=1" if use_tls else ""
    conf = parse_conf(django_email_url(f"smtp://{login}{host}:{port}{flag}"))
    return {"BACKEND": SMTP_BACKEND, "OPTIONS": {**conf, **options}}


def _builtin(parts: _Parts) -> Mailer:
    _refuse_address(parts)
    options = _options(parts.query, _SENDER_OPTIONS)
    conf = django_email_url(f"{parts.scheme}://")
    return _with_sender(conf["EMAIL_BACKEND"], options)


def _file(parts: _Parts) -> Mailer:
    options = _options(parts.query, _SENDER_OPTIONS)
    path = _decoded("the path", parts.path)
    if parts.authority or not path.strip("/"):
        raise InvalidEmailHost(
            "a file host names a folder: file:///var/mail/out is absolute, "
            "file:mail/out relative"
        )
    return _with_sender(FILE_BACKEND, {"file_path": path, **options})


def _several(parts: _Parts) -> Mailer:
    """Other hosts by their keys: ``failover:shop,spare``"""
    names = (parts.authority + parts.path).split(",")
    keys = [_decoded("a host", name).strip() for name in names]
    if not all(keys) or len(set(keys)) < len(keys):
        raise InvalidEmailHost(
            f"'{parts.scheme}' names hosts, each once; write {parts.scheme}:shop,spare"
        )
    options = _options(parts.query, {"retry": _seconds, **_SENDER_OPTIONS})
    several = {"hosts": keys, **SEVERAL_SCHEMES[parts.scheme], **options}
    return _with_sender(FAILOVER_BACKEND, several)


def _backend(parts: _Parts) -> Mailer:
    """Any backend: ``backend://dotted.path.Class``, or one of Anymail's"""
    if parts.scheme == "backend":
        path = parts.authority + parts.path
        if not re.fullmatch(r"\w+(\.\w+)+", path):
            raise InvalidEmailHost(
                "'backend' names a class; write backend://dotted.path.Class?option=value"
            )
    else:
        _refuse_address(parts)
        provider = parts.scheme.removeprefix(ANYMAIL).replace("-", "_")
        path = f"anymail.backends.{provider}.EmailBackend"
    for name, _, _ in _split(parts.query):
        if name not in _SENDER_OPTIONS and (
            not name.isidentifier() or name in RESERVED_OPTIONS
        ):
            if not re.fullmatch("[a-z_-]+", name):  # it may be the end of a key
                raise InvalidEmailHost(
                    f"what follows an ampersand is no option; {PERCENT_ENCODE}"
                )
            hint = did_you_mean(name, _SENDER_OPTIONS)
            raise InvalidEmailHost(f"{name!r} cannot be the name of an option{hint}")
    options = _options(parts.query, _SENDER_OPTIONS, others=_as_given)
    return _with_sender(path, options)


def _refuse_address(parts: _Parts) -> None:
    if parts.authority or parts.path:
        raise InvalidEmailHost(
            f"'{parts.scheme}' takes nothing but options; write {parts.scheme}://"
        )


def _with_sender(backend: str, options: dict[str, Any]) -> Mailer:
    """Return the mailer of a backend that knows nothing of senders."""
    if not options.keys().isdisjoint(SENDERS):
        return {"BACKEND": HOST_BACKEND, "OPTIONS": {"backend": backend, **options}}
    return {"BACKEND": backend, "OPTIONS": options}


def _credentials(userinfo: str) -> tuple[str, str]:
    username, _, password = userinfo.partition(":")
    if bool(username) != bool(password):
        given, missing = ("user name", "password") if username else ("password", "user name")
        raise InvalidEmailHost(f"the DSN has a {given} and no {missing}; write both or none")
    return _decoded("the user name", username), _decoded("the password", password)


_ADDRESS = re.compile(r"(\[[^]]*\]|[^:]*)(?::(.*))?", re.DOTALL)


def _address(address: str) -> tuple[str, int | None]:
    match = _ADDRESS.fullmatch(address)
    host, port = match.groups() if match else (address, None)
    if not host:
        raise InvalidEmailHost("the DSN names no host; write one after the two slashes")
    if host.startswith("["):
        host = host.replace("%25", "%")  # a zone, RFC 6874: [fe80::1%25eth0]
    if not (_is_ipv6(host[1:-1]) if host.startswith("[") else _is_host_name(host)):
        raise InvalidEmailHost(
            f"the host is neither a host name nor an IP address (IPv6 in brackets); "
            f"{PERCENT_ENCODE}"
        )
    if not port:
        return host, None
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise InvalidEmailHost(
            f"the port is not a number from 1 to 65535; if that is part of a password, the "
            f"at sign and the host are missing after it, or {PERCENT_ENCODE}"
        )
    return host, int(port)


def _is_ipv6(text: str) -> bool:
    try:
        zone = ipaddress.IPv6Address(text).scope_id
    except ValueError:
        return False
    return zone is None or bool(re.fullmatch("[A-Za-z0-9._~-]+", zone))


def _is_host_name(text: str) -> bool:
    """Whether ``socket`` can look it up: letters, digits and '-' or '_', in any script."""
    try:
        ascii_name = text.encode("idna").decode("ascii")
    except UnicodeError:
        return False
    return bool(re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", ascii_name))


def _options(
    query: str, converters: Mapping[str, Converter], others: Converter | None = None
) -> dict[str, Any]:
    """Return the values of the options in a query, by the name that a backend takes."""
    options: dict[str, Any] = {}
    for name, equals, value in _split(query):
        converter = converters.get(name, others)
        if converter is None:
            raise InvalidEmailHost(_unknown_option(name, converters))
        option = name.removeprefix("_") if name in _SENDER_OPTIONS else name
        if option in options:
            raise InvalidEmailHost(f"option '{name}' is given twice")
        if not equals and converter is _boolean:
            value = "true"
        try:
            options[option] = converter(_decoded(f"option '{name}'", value))
        except ValueError as error:
            problem = str(error)
        else:
            continue
        raise InvalidEmailHost(f"option '{name}' {problem}")
    return options


def _split(query: str) -> list[tuple[str, str, str]]:
    return [part.partition("=") for part in query.split("&") if part]


def _refuse_stray_at(query: str) -> None:
    """Refuse what looks like options and is in truth the rest of a password.

    An '@' belongs in a sender alone, or in what was meant to be one.
    """
    for name, _, value in _split(query):
        is_sender = difflib.get_close_matches(name, _SENDER_OPTIONS)
        if "@" in name or ("@" in value and not is_sender):
            raise InvalidEmailHost(
                f"the DSN has an at sign among its options; {PERCENT_ENCODE}"
            )


def _as_given(value: str) -> bool | str:
    return {"true": True, "false": False}.get(value, value)


def _boolean(value: str) -> bool:
    if value.lower() in {"1", "true", "yes", "on"}:
        return True
    if value.lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError("is a boolean: write 1, true, yes or on, or 0, false, no or off")


def _seconds(value: str) -> float:
    # TIMEOUT_MAX: what a socket takes at the most.
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) and 0 < float(value) <= threading.TIMEOUT_MAX:
        return int(value) if value.isdigit() else float(value)
    raise ValueError("is a number of seconds above 0, like 10 or 2.5")


def _count(value: str) -> int:
    if re.fullmatch("0*[1-9][0-9]{0,8}", value):
        return int(value)
    raise ValueError("is a whole number above 0, like 100")


def _text(value: str) -> str:
    if not value:
        raise ValueError("needs a value")
    return value


def _host_name(value: str) -> str:
    if not _is_host_name(value) and not re.fullmatch(r"\[[0-9A-Za-z.:]+\]", value):
        raise ValueError("is a host name, or an IP address in brackets (RFC 5321, 4.1.1.1)")
    return value.encode("idna").decode("ascii")


def _email_address(value: str) -> str:
    problem = (
        "is one email address, ASCII before the '@', like shop@example.com or "
        "Shop <shop@example.com>"
    )
    unquoted = re.fullmatch(r'([^"<>]*\.[^"<>]*?)\s*(<[^<>]*>)', value)
    if unquoted:  # Dr. Shop <shop@example.com>: Django 6.0 and later refuse the period
        value = '"{}" {}'.format(*unquoted.groups())
    try:
        header: Any = policy.default.header_factory("From", value)
    except Exception:  # on bad input, the standard library's parser fails in many ways
        raise ValueError(problem) from None
    one = len(header.groups) == 1 and header.groups[0].display_name is None
    if header.defects or not one or value.strip().strip(",") != value.strip():
        raise ValueError(problem)
    address = header.addresses[0]
    if not _is_host_name(address.domain) and not address.domain.startswith("["):
        raise ValueError(problem)
    return value


_SMTP_OPTIONS: dict[str, Converter] = {
    "ssl": _boolean,
    "tls": _boolean,
    "timeout": _seconds,
    "ssl_certfile": _text,
    "ssl_keyfile": _text,
    "ssl_cafile": _text,
    "local_hostname": _host_name,
    "conn_max_age": _seconds,
    "conn_max_messages": _count,
}
_SENDER_OPTIONS: dict[str, Converter] = {
    "_default_from_email": _email_address,
    "_server_email": _email_address,
}
_HARMLESS_OPTIONS = {*_SMTP_OPTIONS, *_SENDER_OPTIONS, "retry"}


def _unknown_scheme(dsn: str) -> str:
    known = f"known schemes are {', '.join(SCHEMES)}, {ANYMAIL}mailgun and the like"
    match = re.match("[A-Za-z][A-Za-z0-9+.-]*(?=://)", dsn)
    if not match:  # what stands before the first colon may be a user name
        return f"the DSN starts with no scheme; {known}"
    return f"unknown scheme '{match[0]}'; {known}{did_you_mean(match[0], SCHEMES)}"


def _unknown_option(name: str, converters: Mapping[str, Any]) -> str:
    hint = did_you_mean(name, converters) or f"; known options: {', '.join(converters)}"
    return f"unknown option {name!r}{hint}"


def _decoded(part: str, text: str) -> str:
    """Return the text with its percent-encoding undone. RFC 3986: a '+' is a '+'."""
    if re.search("%(?![0-9A-Fa-f]{2})", text):
        raise InvalidEmailHost(
            f"{part} has a percent sign that encodes nothing; percent-encode it, too"
        )
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        decoded = None
    if decoded is None:
        raise InvalidEmailHost(f"{part} is percent-encoded, but not in UTF-8")
    _refuse_control_characters(part, decoded)
    return decoded


def _refuse_control_characters(part: str, text: str) -> None:
    # Cc: control characters, line breaks among them, as Zl and Zp are; Cs: surrogates.
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text):
        raise InvalidEmailHost(f"{part} has a control character; remove it (a line break?)")
