"""Parses DSN strings into entries of Django's ``MAILERS``.

Reads no settings and imports nothing that does, so that a settings file can use it. No error
repeats a part of the DSN that may belong to a login or an API key.
"""

from __future__ import annotations

import copy
import encodings.idna  # noqa: F401 (a fork could interrupt a later import)
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypedDict
from urllib.parse import quote

from speckenv_django import django_email_url

from .dsn_query import PERCENT_ENCODE, decoded, options_of, refuse_control_characters
from .exceptions import InvalidEmailHost, looks_like_a_dsn
from .oauth2.validation import problem_with
from .options import (
    HOST_OPTION_NAMES,
    HOST_OPTIONS,
    SMTP_OPTIONS,
    as_given,
    did_you_mean,
    is_host_name,
    is_ipv6,
    seconds,
)
from .tracebacks import clear_frames


class Mailer(TypedDict):
    """The shape of an entry of Django's ``MAILERS``."""

    BACKEND: str
    OPTIONS: dict[str, Any]


class Scheme(NamedTuple):
    """The transport that the scheme of an SMTP host stands for."""

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


def default_port(use_ssl: Any, use_tls: Any) -> int:
    """Return the port for a transport, or raise ``InvalidEmailHost`` if both are on."""
    if use_ssl and use_tls:
        raise InvalidEmailHost("options 'use_ssl' and 'use_tls' exclude each other")
    scheme = "submissions" if use_ssl else "submission" if use_tls else "smtp"
    return SMTP_SCHEMES[scheme].port


BUILTIN_SCHEMES = ("console", "locmem", "dummy")
LOCAL_SCHEMES = (*BUILTIN_SCHEMES, "file")  # nothing leaves the machine
SEVERAL_SCHEMES = {"failover": {}, "roundrobin": {"rotate": True}}
ANYMAIL = "anymail+"  # the name of the provider follows
PROVIDERS = (  # of django-anymail 15
    *("amazon-ses", "brevo", "mailersend", "mailgun", "mailjet", "mailtrap", "mandrill"),
    *("postal", "postmark", "resend", "scaleway", "sendgrid", "sparkpost", "unisender-go"),
)
SCHEMES = (*SMTP_SCHEMES, *LOCAL_SCHEMES, *SEVERAL_SCHEMES, "backend")

# Our schemes for those of Symfony, dj-email-url and django-environ.
OTHER_SCHEMES = {
    **{provider: ANYMAIL + provider for provider in PROVIDERS},
    **dict.fromkeys(("ses", "amazonses"), "anymail+amazon-ses"),
    **dict.fromkeys(("submit", "starttls", "smtptls", "gmail"), "submission"),
    **dict.fromkeys(("sendmail", "native"), "smtp"),
    **dict.fromkeys(("null", "dummymail"), "dummy"),
    **dict.fromkeys(("memory", "memorymail"), "locmem"),
    "sendinblue": "anymail+brevo",
    "consolemail": "console",
    "filemail": "file",
}

SMTP_BACKEND = "email_hosts.backends.EmailHostsBackend"
HOST_BACKEND = "email_hosts.backends.HostBackend"
FAILOVER_BACKEND = "email_hosts.backends.FailoverBackend"
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


def parse_hosts(hosts: Mapping[str, str | None]) -> dict[str, Mailer]:
    """Return a mailer for each host of ``EMAIL_HOSTS`` that is not empty.

    Raises ``InvalidEmailHost`` with the key of the first one that is not valid.
    """
    return {
        checked_key(key): parse(dsn, alias=key)
        for key, dsn in dict_of_hosts(hosts).items()
        if not is_empty(dsn)
    }


def dict_of_hosts(hosts: Any) -> Mapping[str, Any]:
    """Return these hosts, or raise ``InvalidEmailHost`` if they are not a dict."""
    if isinstance(hosts, Mapping):
        return hosts
    raise InvalidEmailHost(
        f"EMAIL_HOSTS must be a dict of DSN strings, not {type(hosts).__name__}"
    )


def keys_of(hosts: str | Iterable[str]) -> tuple[str, ...]:
    """Return the keys in ``"shop,spare"``, or in a list. Raises ``InvalidEmailHost``."""
    names = hosts.split(",") if isinstance(hosts, str) else hosts
    return tuple(checked_key(name.strip()) for name in names if name.strip())


@clear_frames
def checked_key(key: str) -> str:
    """Return the key. For a DSN, raise ``InvalidEmailHost`` without repeating it."""
    if looks_like_a_dsn(str(key)):
        raise InvalidEmailHost(
            "a DSN stands where the key of a host must stand; give the DSN a key in "
            "EMAIL_HOSTS, or pass it to connection_from_dsn()"
        )
    return key


def is_empty(dsn: object) -> bool:
    """Whether a host counts as not configured, as if its key were missing."""
    return dsn is None or dsn == ""


def parse(dsn: object, *, alias: str | None = None) -> Mailer:
    """Return the ``BACKEND`` and ``OPTIONS`` that a DSN stands for.

    You may change the result. Raises ``InvalidEmailHost``, with the host's key as ``alias``.
    """
    try:
        if not isinstance(dsn, str):
            raise InvalidEmailHost(f"a host must be a DSN string, not {type(dsn).__name__}")
        mailer = _parse(dsn.strip())
    except InvalidEmailHost as error:
        reason = error.reason
    else:
        options = {
            name: value if isinstance(value, str) else copy.deepcopy(value)
            for name, value in mailer["OPTIONS"].items()
        }
        return {"BACKEND": mailer["BACKEND"], "OPTIONS": options}
    # Raised outside of the except block: __context__ may hold a part of the DSN.
    raise InvalidEmailHost(reason, alias=alias)


def parse_conf(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return Django's email settings as options of an SMTP backend.

    ``config`` is what ``speckenv_django.django_email_url`` returns.
    """
    return {option: config.get(setting) for option, setting in DJANGO_SETTINGS.items()}


def scheme_of(dsn: str) -> str:
    """Return the scheme of a DSN, in lower case, or raise ``InvalidEmailHost``."""
    scheme, colon, _ = dsn.strip().lower().partition(":")
    is_known = scheme in SCHEMES or re.fullmatch(r"anymail\+[a-z][a-z0-9_-]*", scheme)
    if not colon or not is_known:
        raise InvalidEmailHost(_unknown_scheme(dsn))
    return scheme


class _Parts(NamedTuple):
    """The parts of a URI, as RFC 3986 names them, still percent-encoded."""

    scheme: str
    authority: str
    path: str
    query: str


@lru_cache(maxsize=256)
def _parse(dsn: str) -> Mailer:
    refuse_control_characters("the DSN", dsn)
    if dsn[:1] in {"'", '"'}:
        raise InvalidEmailHost("the DSN is in quotation marks; remove them")
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
    options = options_of(parts.query, {**SMTP_OPTIONS, **HOST_OPTIONS}, is_smtp=True)
    if parts.authority and parts.path not in {"", "/"}:
        raise InvalidEmailHost(f"the DSN has a path after its host; {PERCENT_ENCODE}")
    userinfo, _, address = parts.authority.rpartition("@")
    username, password = _credentials(userinfo, has_token="oauth2" in options)
    host, port = _address(address)
    scheme = SMTP_SCHEMES[parts.scheme]
    use_ssl, use_tls = options.pop("ssl", None), options.pop("tls", None)
    if use_ssl and use_tls:
        raise InvalidEmailHost(
            "options 'ssl' and 'tls' exclude each other: ssl is TLS from the first byte, "
            "tls is STARTTLS"
        )
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise InvalidEmailHost("option 'ssl_keyfile' needs 'ssl_certfile' beside it")
    # An option overrides the scheme. Switching on ssl or tls switches off the other.
    if use_ssl is None:
        use_ssl = scheme.ssl and not use_tls
    if use_tls is None:
        use_tls = scheme.tls and not use_ssl
    port = port or (IMPLICIT_TLS_PORT if use_ssl else scheme.port)
    login = {"username": username, "password": password}
    transport = {"use_ssl": use_ssl, "use_tls": use_tls}
    if problem := problem_with({**login, **transport, **options}):
        raise InvalidEmailHost(problem)
    # speckenv gets only what it parses in the same way as we do.
    userinfo = f"{quote(username, safe='')}:{quote(password, safe='')}@" if username else ""
    flag = "?ssl=1" if use_ssl else "?tls=1" if use_tls else ""
    conf = parse_conf(django_email_url(f"smtp://{userinfo}{host}:{port}{flag}"))
    return {"BACKEND": SMTP_BACKEND, "OPTIONS": {**conf, **options}}


def _builtin(parts: _Parts) -> Mailer:
    _refuse_address(parts)
    conf = django_email_url(f"{parts.scheme}://")
    return _mailer(conf["EMAIL_BACKEND"], options_of(parts.query, HOST_OPTIONS))


def _file(parts: _Parts) -> Mailer:
    path = decoded("the path", parts.path)
    if parts.authority or not path.strip("/"):
        examples = "file:///var/mail/out is absolute, file:mail/out relative"
        raise InvalidEmailHost(f"a file host must name a folder: {examples}")
    return _mailer(FILE_BACKEND, {"file_path": path, **options_of(parts.query, HOST_OPTIONS)})


def _several(parts: _Parts) -> Mailer:
    """Parse the keys of other hosts: ``failover:shop,spare``"""
    names = (parts.authority + parts.path).split(",")
    keys = [checked_key(decoded("a host", name).strip()) for name in names]
    if not all(keys) or len(set(keys)) < len(keys):
        reason = f"must name hosts, each once; write {parts.scheme}:shop,spare"
        raise InvalidEmailHost(f"'{parts.scheme}' {reason}")
    options = options_of(parts.query, {"retry": seconds, **HOST_OPTIONS})
    several = {"hosts": keys, **SEVERAL_SCHEMES[parts.scheme], **options}
    return _mailer(FAILOVER_BACKEND, several)


def _backend(parts: _Parts) -> Mailer:
    """Parse ``backend://dotted.path.Class`` for any backend, or a scheme of Anymail."""
    if parts.scheme == "backend":
        path = parts.authority + parts.path
        if not re.fullmatch(r"\w+(\.\w+)+", path):
            example = "backend://dotted.path.Class?option=value"
            raise InvalidEmailHost(f"'backend' must name a class; write {example}")
    else:
        _refuse_address(parts)
        provider = parts.scheme.removeprefix(ANYMAIL).replace("-", "_")
        path = f"anymail.backends.{provider}.EmailBackend"
    options = options_of(parts.query, HOST_OPTIONS, others=as_given)
    if path == FAILOVER_BACKEND:
        keys_of(options.get("hosts", ""))  # raises if one is a DSN
    if path == SMTP_BACKEND:
        raise InvalidEmailHost("write smtp://, submission:// or submissions:// for it")
    return _mailer(path, options)


def _refuse_address(parts: _Parts) -> None:
    if parts.authority or parts.path:
        reason = f"'{parts.scheme}' takes nothing but options; write {parts.scheme}://"
        raise InvalidEmailHost(reason)


def _mailer(backend: str, options: dict[str, Any]) -> Mailer:
    """Return the mailer of a backend, wrapped if it has host options."""
    if not options.keys().isdisjoint(HOST_OPTION_NAMES):
        return {"BACKEND": HOST_BACKEND, "OPTIONS": {"backend": backend, **options}}
    return {"BACKEND": backend, "OPTIONS": options}


def _credentials(userinfo: str, *, has_token: bool) -> tuple[str, str]:
    username, _, password = userinfo.partition(":")
    if bool(username) != bool(password) and not has_token:
        given, missing = ("user name", "password") if username else ("password", "user name")
        raise InvalidEmailHost(
            f"the DSN has a {given} and no {missing}; write both or none, or 'oauth2' in "
            "the place of a password"
        )
    return decoded("the user name", username), decoded("the password", password)


_ADDRESS = re.compile(r"(\[[^]]*\]|[^:]*)(?::(.*))?", re.DOTALL)


def _address(address: str) -> tuple[str, int | None]:
    match = _ADDRESS.fullmatch(address)
    host, port = match.groups() if match else (address, None)
    if not host:
        raise InvalidEmailHost("the DSN names no host; write one after the two slashes")
    if host.startswith("["):
        host = host.replace("%25", "%")  # a zone, RFC 6874: [fe80::1%25eth0]
    if not (is_ipv6(host[1:-1]) if host.startswith("[") else is_host_name(host)):
        problem = "the host must be a host name or an IP address (IPv6 in brackets)"
        raise InvalidEmailHost(f"{problem}; {PERCENT_ENCODE}")
    if not port:
        return host, None
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise InvalidEmailHost(
            "the port must be a number from 1 to 65535; if that is part of a password, the "
            f"at sign and the host are missing after it, or {PERCENT_ENCODE}"
        )
    return host, int(port)


def _unknown_scheme(dsn: str) -> str:
    known = f"known schemes are {', '.join(SCHEMES)}, {ANYMAIL}mailgun and the like"
    match = re.match("[A-Za-z][A-Za-z0-9+.-]*(?=://)", dsn)
    if not match:  # text before the first colon may be a user name
        return f"the DSN starts with no scheme; {known}"
    scheme = match[0].lower()
    here = OTHER_SCHEMES.get(scheme) or OTHER_SCHEMES.get(scheme.partition("+")[0])
    hint = f"; '{here}' does that here" if here else did_you_mean(scheme, SCHEMES)
    return f"unknown scheme '{match[0]}'; {known}{hint}"
