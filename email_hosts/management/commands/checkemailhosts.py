"""``manage.py checkemailhosts [--connect] [HOST...]``"""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter
from typing import Any, NamedTuple

from django.core.checks import ERROR, CheckMessage
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ... import conf, hosts
from ...checks import check_host, check_mailer
from ...dsn import (
    SMTP_BACKEND,
    Mailer,
    default_port,
    is_empty,
    parse,
    scheme_of,
)
from ...exceptions import InvalidEmailHost, named, printable, shown
from ...mailer import backend_of, is_router, members
from ...oauth2.validation import origin
from ...options import checked_host_options
from ...tracebacks import clear_frames
from ..concurrently import concurrently
from ..explain_errors import explain, no_such_host

HEADER = ("HOST", "SCHEME", "SERVER", "SECURITY", "USER", "SENDER")
NONE = "-"

# Django's styles, from good to bad.
WORKS, WARNS, FAILS = "SUCCESS", "WARNING", "ERROR"

OVERWRITTEN = " \r"  # ends a line that the next one overwrites


class Status(NamedTuple):
    """The result of one host."""

    style: str
    text: str


class Host(NamedTuple):
    """A host as it is shown. It has no mailer if it is empty or not valid."""

    key: Any
    scheme: str
    mailer: Mailer | None
    status: Status  # what the system checks say


class Hosts(dict[Any, Host]):
    """The hosts by their keys. Each one is checked when it is first needed."""

    def __init__(self) -> None:
        super().__init__()
        mailers = hosts.own_mailers().items()
        self._mailers = {key: mailer for key, mailer in mailers if not is_router(mailer)}
        self.configured: dict[Any, Any] = {**conf.email_hosts(), **self._mailers}
        self._known = set(hosts.known_keys())
        self._acyclic: set[str] = set()

    def __missing__(self, key: Any) -> Host:
        """Check a host."""
        source = self.configured[key]
        if entry := self._mailers.get(key):  # pragma: mailers-only
            messages = list(check_mailer(key, entry, self._known, self._acyclic))
            status = _status(messages, named(str(key), "MAILERS"))
            is_valid = status.style != FAILS
            scheme, mailer = ("MAILERS", entry) if is_valid else (NONE, None)
        else:
            messages = list(check_host(key, source, self._known, self._acyclic))
            status = _status(messages, named(str(key)))
            scheme, mailer = NONE, None
            if not is_empty(source):
                with suppress(InvalidEmailHost):
                    mailer = parse(source, alias=key)
                    scheme = scheme_of(source)
        self[key] = Host(key, scheme, mailer, status)
        return self[key]


def _status(messages: list[CheckMessage], name: str) -> Status:
    """Return what the system checks say: the first error, or else the first warning."""
    if not messages:
        return Status(WORKS, "valid")
    worst = max(messages, key=lambda each: each.level)
    text = printable(worst.msg.removeprefix(name).lstrip(": "))
    return Status(FAILS if worst.level >= ERROR else WARNS, text)


class Command(BaseCommand):
    """Shows the hosts, and whether they can be reached."""

    help = (
        "Shows the hosts of EMAIL_HOSTS and MAILERS, and what 'check' says about each. Sends "
        "nothing, and shows neither user names nor passwords. The exit code is 1 if a host "
        "failed."
    )
    requires_system_checks = ()  # the command shows which hosts are not valid

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the hosts and ``--connect``."""
        parser.add_argument(
            "keys",
            nargs="*",
            metavar="HOST",
            help="Key of a host. If you give none, all are shown.",
        )
        parser.add_argument(
            "--connect",
            action="store_true",
            help="Connect to each, with TLS and login, and show how long that took.",
        )

    @clear_frames
    def handle(self, *, keys: list[str], connect: bool, **options: Any) -> None:
        """Print a line for each host. Raises ``CommandError`` if one of them failed."""
        try:
            found = Hosts()
        except InvalidEmailHost as error:
            raise CommandError(str(error)) from None
        for key in keys:
            if key not in found.configured:
                raise no_such_host(key, map(str, found.configured))
        if not found.configured:
            self.stdout.write("EMAIL_HOSTS names no host.")
            return
        keys = keys or list(found.configured)
        rows = _aligned([HEADER, *(_cells(found[key]) for key in keys)])
        heading, row_of = rows[0], dict(zip(keys, rows[1:], strict=True))
        self.stdout.write(self.style.MIGRATE_HEADING(heading + "STATUS"))
        is_watched = connect and self.stdout.isatty()
        pending, failed = len(keys), []
        try:
            for key, status in concurrently(
                lambda key: _connect(key, found) if connect else found[key].status,
                keys,
                as_they_finish=is_watched,
            ):
                text = getattr(self.style, status.style)(status.text)
                self.stdout.write(row_of[key] + text)
                for line in _details(found[key]):
                    self.stdout.write(f"    {line}")
                if status.style == FAILS:
                    failed.append(shown(str(key)))
                pending -= 1
                if is_watched and pending:
                    self.stdout.write(f"{pending} pending", ending=OVERWRITTEN)
        except KeyboardInterrupt:
            raise CommandError(f"Interrupted. {pending} pending.", returncode=130) from None
        if failed:
            raise CommandError(f"{len(failed)} of {len(keys)} failed: {', '.join(failed)}")


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Return a line for each row, with each column as wide as its widest cell."""
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    return ["".join(map(str.ljust, cells, widths)) for cells in rows]


def _cells(host: Host) -> tuple[str, ...]:
    name = shown(str(host.key))
    if host.mailer is None:
        return name, NONE, NONE, NONE, NONE, NONE
    options = host.mailer.get("OPTIONS", {})
    sender = printable(str(options.get("default_from_email", NONE)))
    if backend_of(host.mailer) != SMTP_BACKEND or "host" not in options:
        path = printable(str(options.get("file_path", NONE)))
        server = ", ".join(map(shown, members(host.mailer))) or path
        return name, host.scheme, server, NONE, NONE, sender
    address = f"[{options['host']}]" if ":" in options["host"] else options["host"]
    use_ssl, use_tls = options.get("use_ssl"), options.get("use_tls")
    port = options.get("port") or default_port(use_ssl, use_tls)
    security = "TLS" if use_ssl else "STARTTLS" if use_tls else "none"
    user = "*****" if options.get("username") else NONE
    if options.get("oauth2"):
        user += f" (oauth2: {origin(options)})"
    return name, host.scheme, f"{address}:{port}", security, user, sender


def _details(host: Host) -> list[str]:
    """Return what a host does to messages, besides their sender, and to whom it sends them.

    The values of headers are not shown: a provider's token may be one.
    """
    options = checked_host_options(host.mailer.get("OPTIONS", {}) if host.mailer else {})
    found = {
        "reply-to": options.get("reply_to"),
        "envelope from": options.get("envelope_from"),
        "headers": ", ".join(options.get("headers", ())),
        "redirects to": options.get("redirect_to"),
        "except for": ", ".join(options.get("allowed_recipients", ())),
    }
    return [f"{name}: {printable(value)}" for name, value in found.items() if value]


def _connect(key: str, found: Hosts) -> Status:
    """Return whether the host can be reached, if the checks find no error."""
    host = found[key]
    if host.status.style == FAILS or host.mailer is None:
        return host.status
    if hosts.is_shadowed(key, host.mailer):  # pragma: mailers-only
        return host.status
    if members(host.mailer):
        return _connect_members(members(host.mailer), found)
    try:
        connection = hosts.get_connection(key)
        if backend_of(host.mailer) != SMTP_BACKEND:
            return Status(WORKS, "OK, no server to connect to")
        start = perf_counter()
        connection.open()
        milliseconds = (perf_counter() - start) * 1000
    except Exception as error:  # the other hosts are still checked
        return Status(FAILS, explain(error))
    connection.close()
    return Status(WORKS, f"OK {milliseconds:.0f} ms")


def _connect_members(keys: tuple[str, ...], found: Hosts) -> Status:
    """Return the statuses of the members. One that works is enough for the whole."""
    statuses = {
        key: _connect(key, found)
        if key in found.configured
        else Status(WARNS, "not tried, it is in MAILERS only")
        for key in keys
    }
    text = "; ".join(f"{shown(key)}: {status.text}" for key, status in statuses.items())
    failures = [key for key, status in statuses.items() if status.style == FAILS]
    if not failures:
        return Status(WORKS, text)
    return Status(FAILS if len(failures) == len(statuses) else WARNS, text)
