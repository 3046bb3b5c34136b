"""What is wrong with one host: a check is a function in one of the tuples below."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from django.conf import global_settings
from django.core import checks
from django.core.checks import CheckMessage

from .. import conf, hosts
from ..addresses import is_loopback
from ..exceptions import InvalidEmailHost, checked_key, named, shown
from ..host import SMTP_BACKEND, Host, bare_host, class_at
from ..options import NOT_GIVEN, SMTP_OPTIONS, did_you_mean
from ..registry import BASE, find_cycle, needs_check, registry
from ..schemes import (
    BUILTIN_SCHEMES,
    DJANGO_BACKENDS,
    DJANGO_SMTP_BACKEND,
    FILE_BACKEND,
    IMPLICIT_TLS_PORT,
    SMTP_PORT,
    SMTP_SCHEMES,
    SUBMISSION_PORT,
)
from ..smtp.login import refuse_what_cannot_be_sent
from ..values import LOOKS_UNSET

TAG = "email_hosts"

Found = Iterator[CheckMessage]

MAILERS_HINT = (
    "Write MAILERS = {**mailers(EMAIL_HOSTS)}, and add your other mailers to it. Import "
    "mailers from email_hosts."
)
WHERE_DSN = "Look where the DSN is set: in the environment, or in an .env file."
HOSTS_HINT = 'Write EMAIL_HOSTS = {"shop": "smtp://mail.example.com"}.'

# How the errors about the class of a backend begin.
NO_BACKEND = "backend '"

# A part of an error, and its hint. The first one that fits is shown. It is empty if the error
# itself says what to write.
HINTS = (
    ("MAILERS must be a dict", MAILERS_HINT),
    ("EMAIL_HOSTS must be a dict", HOSTS_HINT),
    ("the key of a host must", HOSTS_HINT),
    (
        "DSN string, not dict",
        "Write a DSN: submission://user:password@smtp.example.com. A dict with BACKEND "
        "belongs in MAILERS, since Django 6.1.",
    ),
    ("DSN string, not tuple", "A comma after the DSN makes it a tuple. Remove the comma."),
    ("percent-encode", 'In Python, urllib.parse.quote(password, safe="") does that.'),
    ("did you mean", ""),
    ("in a DSN, write ?", "The documentation of Anymail has the options of each provider."),
    ("name of a variable", WHERE_DSN),
    ("quotation marks", WHERE_DSN),
    ("write the DSN in EMAIL_HOSTS", MAILERS_HINT),
    ("dotted path of a class", "A path is like django.core.mail.backends.smtp.EmailBackend."),
    (NO_BACKEND, "Install the package that has this backend, or correct its name."),
    ("; write ", ""),
    ("; remove ", ""),
    ("option 'oauth2'", "Name a callable, token(username, *, renew). The README has recipes."),
    (
        "",
        "The README of django-email-hosts has a table of DSNs and options. Those of another "
        "backend are in its own documentation.",
    ),
)

# Servers of Microsoft 365 and Outlook.
MICROSOFT = {"smtp.office365.com", "smtp-legacy.office365.com", "smtp-mail.outlook.com"}

SCHEME_FOR = {
    "use_tls": "submission:// (STARTTLS)",
    "use_ssl": "submissions:// (TLS from the first byte)",
}

# What they are called in messages.
SENDS_NOTHING = {
    **{f"{DJANGO_BACKENDS}.{name}.EmailBackend": name for name in BUILTIN_SCHEMES},
    FILE_BACKEND: "file",
}


def message(number: str, problem: str, hint: str) -> CheckMessage:
    """Return an error, such as ``E001``, or a warning. ``hint`` says what to write instead."""
    kind = checks.Error if number.startswith("E") else checks.Warning
    return kind(problem, hint=hint, id=f"{TAG}.{number}")


def invalid(problem: InvalidEmailHost, number: str = "E002") -> CheckMessage:
    """Return an error for a host or a setting that is not valid, with the hint that fits."""
    hint = next(hint for part, hint in HINTS if part in str(problem))
    return message(number, str(problem), hint)


def entries() -> dict[Any, Host | CheckMessage]:
    """Return the host of each entry, or the message that says why it is none.

    Entries are those of ``EMAIL_HOSTS``, and those of ``MAILERS`` with a backend of this app.
    Raises ``InvalidEmailHost`` if a setting or a mailer is no dict.
    """
    known = registry()
    mailers: Any = known.mailers
    if not isinstance(mailers, Mapping):  # pragma: mailers-only
        raise InvalidEmailHost(f"MAILERS must be a dict, not {type(mailers).__name__}")
    found = {key: _host_of(key, "EMAIL_HOSTS", known.of_dsn) for key in known.dsns}
    for key, mailer in mailers.items():  # pragma: mailers-only
        if needs_check(mailer, key) and known.dsns.get(key) in NOT_GIVEN:
            found[key] = _host_of(key, "MAILERS", known.of_mailer)
    return found


def check_entry(found: Host | CheckMessage) -> list[CheckMessage]:
    """Return what is wrong with one of these entries."""
    if not isinstance(found, Host):
        return [found]
    of_smtp = OF_SMTP_HOST if found.is_a(SMTP_BACKEND) else ()
    return [each for check in (*OF_HOST, *of_smtp) for each in check(found)]


def _host_of(
    key: Any, setting: str, find: Callable[[str], Host | None]
) -> Host | CheckMessage:
    try:
        if checked_key(key) != key.strip():
            raise InvalidEmailHost("the key of a host must not begin or end with a space")
    except InvalidEmailHost as refusal:
        refusal.name(str(key), setting)
        return invalid(refusal, "E001")
    try:
        host = find(key)
    except InvalidEmailHost as refusal:
        return invalid(refusal)
    problem = f"{named(key, setting)} is empty, as if there were no such host."
    return host or message("W001", problem, "Give it a DSN, or remove the key.")


def host_in_use(found: Host | CheckMessage) -> Host | None:
    """Return the valid host that is used for an entry: its own, or that of ``MAILERS``."""
    with suppress(InvalidEmailHost):
        host = registry().find(str(found.key)) if isinstance(found, Host) else None
        if host and (host is found or needs_check(registry().mailers[str(host.key)])):
            return host
    return None


def default_routes() -> bool:
    """Whether mail of Django and other apps asks the router."""
    return bare_host(conf.default_mailer()).routes


def _backend(host: Host) -> Found:
    if host.is_a(FILE_BACKEND):
        return  # it would create its folder
    try:
        backend = hosts.build_real(host)
    except InvalidEmailHost as refusal:
        yield invalid(refusal, "E003" if refusal.reason.startswith(NO_BACKEND) else "E002")
    except Exception as failure:  # a backend that is not ours may raise anything
        reason = f"the backend raised {type(failure).__name__}: {failure}"
        yield invalid(InvalidEmailHost(reason, alias=host.key, setting=host.setting))
    else:
        yield from _files(host, backend)


def _files(host: Host, backend: Any) -> Found:
    """Load the files of TLS. No error: only the machine that sends needs them."""
    if host.is_a(SMTP_BACKEND) and _uses_tls(host) and _options_of_tls(host):
        try:
            backend.ssl_context  # noqa: B018
        except Exception as refusal:  # a class of the project may have its own
            reason = getattr(refusal, "reason", f"cannot load its files: {refusal}")
            hint = "Each must be a PEM file that can be read, and a key have no passphrase."
            yield message("W021", f"{host.name} {reason}.", hint)


def _members(host: Host) -> Found:
    missing = [f'"{shown(member)}"' for member in host.members if not can_be_member(member)]
    cycle = find_cycle(str(host.key)) if host.members else ()
    if host.routes and host.setting == "EMAIL_HOSTS":
        problem = "sends through the router, so no other host can use it."
    elif cycle and cycle[0] == host.key:
        problem = f"leads back to itself: {' -> '.join(map(shown, cycle))}."
    elif missing:
        problem = f"names hosts that do not exist: {', '.join(missing)}"
        others = [str(key) for key in registry().dsns if f'"{shown(key)}"' not in missing]
        problem += did_you_mean(missing[0].strip('"'), others) or "."
    else:
        return
    hint = (
        "Name other hosts, with commas between them. None may lead back here or to the router."
    )
    yield message("E004", f"{host.name} {problem}", hint)


def can_be_member(key: str) -> bool:
    """Whether a host may name this one as a member."""
    try:
        host = registry().find(key)
    except InvalidEmailHost:  # it is reported itself
        return True
    return host is not None and not (host.routes and host.setting == "MAILERS")


def _uses_tls(host: Host) -> bool:
    return bool(host.options.get("use_tls") or host.options.get("use_ssl"))


def _options_of_tls(host: Host) -> list[str]:
    """Return which options name files for TLS."""
    return [name for name in host.options if name.startswith("ssl_")]


def _write(host: Host, option: str) -> str:
    """Return what to write for STARTTLS (``use_tls``), or for TLS from the first byte."""
    if host.setting == "MAILERS":  # pragma: mailers-only
        return f"Write {option!r}: True in OPTIONS"
    if option in SMTP_SCHEMES.get(host.scheme, {}):
        return "Remove the options 'tls' and 'ssl', which override its scheme"
    return f"Write {SCHEME_FOR[option]}"


def _port(host: Host) -> Found:
    port, is_implicit = host.options.get("port"), host.options.get("use_ssl")
    if port == IMPLICIT_TLS_PORT and not is_implicit:
        expects, instead = "expects", _write(host, "use_ssl")
    elif port in (SUBMISSION_PORT, SMTP_PORT) and is_implicit:
        expects, instead = "does not expect", _write(host, "use_tls")
    else:
        return
    problem = f"has port {port}, where a server {expects} TLS from the first byte (RFC 8314)."
    yield message("W007", f"{host.name} {problem}", f"{instead}, or use another port.")


def _password(host: Host) -> Found:
    server = str(host.options.get("host", "")).lower()
    if server in MICROSOFT and host.options.get("password"):
        yield message(
            "W008",
            f"{host.name} has a password for {server}. Microsoft ends password logins for "
            "SMTP. Existing tenants lose them by default at the end of December 2026.",
            "Log in with OAuth 2.0. The README of django-email-hosts says how.",
        )


def _login(host: Host) -> Found:
    login = tuple(str(host.options.get(name) or "") for name in ("username", "password"))
    try:
        refuse_what_cannot_be_sent(*login)
    except InvalidEmailHost as refusal:
        refusal.name(str(host.key), host.setting)
        yield invalid(refusal)
    if any(each != each.strip(" '\"") for each in login):
        yield message(
            "W018",
            f"{host.name} has a user name or a password that begins or ends with a space or a "
            "quotation mark.",
            "If it does not belong there, remove it.",
        )


def _without_effect(host: Host) -> Found:
    options = host.options
    of_kept = [
        name for name, each in SMTP_OPTIONS.items() if each.only_with and name in options
    ]
    is_kept = all(options.get(SMTP_OPTIONS[name].only_with) for name in of_kept)
    for names, has_effect, why, instead in (
        (_options_of_tls(host), _uses_tls(host), "does not use TLS", _write(host, "use_tls")),
        (of_kept, is_kept, "keeps no connection", "Add conn_max_age=60"),
    ):
        if names and not has_effect:
            problem = f"so these options have no effect: {', '.join(sorted(names))}."
            yield message(
                "W017", f"{host.name} {why}, {problem}", f"{instead}, or remove them."
            )


def _own_way_to_send(host: Host) -> Found:
    if not host.is_a(BASE):
        return
    if class_at(host.backend).send_messages != class_at(BASE).send_messages:
        yield message(
            "W017",
            f"{host.name} has a send_messages() of its own, which a host of several and the "
            "router do not call.",
            "Override apply_host() instead, which returns the message as it is sent.",
        )


def _not_set(host: Host) -> Found:
    texts = {name: each for name, each in host.options.items() if isinstance(each, str)}
    unset = [
        name
        for name, each in texts.items()
        if re.fullmatch(LOOKS_UNSET, each) or (not each and name not in host.table)
    ]
    if texts.get("host") == "none":  # the server of a DSN is in lower case
        unset.append("host")
    if host.setting == "EMAIL_HOSTS" and "//:@" in registry().dsns[str(host.key)]:
        unset += ["username", "password"]
    if host.setting == "MAILERS":  # pragma: mailers-only
        given = registry().mailers[str(host.key)].get("OPTIONS", {})
        if "redirect_to" in given and not texts.get("redirect_to"):
            unset.append("redirect_to")
    if unset:
        yield message(
            "W018",
            f"{host.name} has no real value for {', '.join(unset)}: probably, an environment "
            "variable is not set.",
            'Set it. With os.environ["NAME"], a variable that is not set is an error.',
        )


def _shadowed(host: Host) -> Found:
    used = host_in_use(host)
    if used is not host:  # pragma: mailers-only
        redirects = [bool(each and each.options.get("redirect_to")) for each in (host, used)]
        number, more = "W005", ""
        if redirects == [True, False] and not (used and used.members):  # these may redirect
            number, more = "E008", " So its mail is NOT redirected."
        yield message(
            number,
            f"{host.name} is not used: {named(host.key, 'MAILERS')} comes first.{more}",
            "Rename one of them, or write MAILERS = mailers(EMAIL_HOSTS) below the last host.",
        )
        if needs_check(registry().mailers[str(host.key)]):
            yield from check_entry(_host_of(host.key, "MAILERS", registry().of_mailer))


Check = Callable[[Host], Found]
OF_HOST: tuple[Check, ...] = (_backend, _members, _own_way_to_send, _not_set, _shadowed)
OF_SMTP_HOST: tuple[Check, ...] = (_port, _password, _login, _without_effect)


# Whether it is fit for production


def _redirected(host: Host) -> Found:
    if host.options.get("redirect_to"):
        yield message(
            "W009",
            f"{host.name} redirects its mail, so the recipients do not get it.",
            "In production, remove that option.",
        )


def _login_without_tls(host: Host) -> Found:
    is_local = is_loopback(str(host.options.get("host", "")))
    if host.options.get("username") and not _uses_tls(host) and not is_local:
        yield message(
            "W002",
            f"{host.name} sends its user name and password without TLS.",
            f"{_write(host, 'use_tls')}.",
        )


def _sends_nothing(host: Host) -> Found:
    if scheme := SENDS_NOTHING.get(host.backend):
        yield message(
            "W004",
            f"{host.name} sends nothing: it is a {scheme} host.",
            "In production, give it the DSN of a mail server.",
        )


def _sender(host: Host) -> Found:
    sender = conf.project_senders()[0]
    has_own = host.options.get("default_from_email")
    is_set = sender not in (global_settings.DEFAULT_FROM_EMAIL, *NOT_GIVEN)
    if has_server(host) and not has_own and not is_set:
        yield message(
            "W019",
            f"{host.name} has no sender, and DEFAULT_FROM_EMAIL is {sender}.",
            "Add _default_from_email=shop@example.com to the DSN, or set DEFAULT_FROM_EMAIL.",
        )


def has_server(host: Host) -> bool:
    """Whether a host has a server of its own. A failover has none."""
    return host.is_a(DJANGO_SMTP_BACKEND) or str(host.backend).startswith("anymail.")


OF_DEPLOYED_HOST = (_redirected, _login_without_tls, _sends_nothing, _sender)
