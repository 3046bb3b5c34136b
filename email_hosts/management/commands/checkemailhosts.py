"""``manage.py checkemailhosts [--connect | --from-settings] [HOST...]``"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.core.checks import ERROR, CheckMessage
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ... import hosts
from ...boundary import boundary
from ...checks.host import check_entry, entries, host_in_use
from ...exceptions import InvalidEmailHost, named, printable, shown
from ...host import SMTP_BACKEND, Host, default_port
from ...options import HOST_OPTIONS
from ...rate import usage
from ...values import OAUTH2_GRANTS, Limit, begins_with_module
from ..concurrently import concurrently
from ..explain_errors import explain
from ..from_settings import dsn_of_settings

HEADER = ("HOST", "SCHEME", "SERVER", "SECURITY", "USER", "SENDER")
NONE, HIDDEN = "-", "*****"

# The option that has a column of its own.
SENDER = "default_from_email"

# Django's styles, from good to bad.
WORKS, WARNS, FAILS = "SUCCESS", "WARNING", "ERROR"

OVERWRITTEN = " \r"  # ends a line that the next one overwrites


class Status(NamedTuple):
    """The result of one host."""

    style: str
    text: str


class Row(NamedTuple):
    """An entry as it is shown. Without a host it is empty or not valid."""

    host: Host | None
    status: Status  # what the system checks say


Rows = Mapping[Any, Row]


class Command(BaseCommand):
    """Shows the hosts, and whether they can be reached."""

    help = (
        "Shows the hosts of EMAIL_HOSTS and MAILERS, and what 'check' says about each. Sends "
        "nothing, and shows neither user names nor passwords. The exit code is 1 if a host "
        "failed."
    )
    requires_system_checks = ()  # the command shows which hosts are not valid

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the hosts and the options."""
        add = parser.add_argument
        add(
            "keys",
            nargs="*",
            metavar="HOST",
            help="Key of a host. Without any, all are shown.",
        )
        add("--connect", action="store_true", help="Connect to each, with TLS and login.")
        add(
            "--from-settings",
            action="store_true",
            help="Show only the DSN that stands for EMAIL_HOST, EMAIL_PORT and the like.",
        )
        add(
            "--show-password",
            action="store_true",
            help="With --from-settings: show the user name and the password in it, too.",
        )

    @boundary
    def handle(self, *, keys: list[str], connect: bool, **options: Any) -> None:
        """Print a line for each host. Raises ``CommandError`` if one of them failed."""
        try:
            if options["from_settings"] and (keys or connect):
                raise CommandError("--from-settings takes neither hosts nor --connect.")
            if options["from_settings"]:
                dsn = dsn_of_settings(show_login=options["show_password"])
                self.stdout.write(dsn)
                return
            if options["show_password"]:
                raise CommandError("--show-password is only for --from-settings.")
            known = entries()
        except InvalidEmailHost as error:
            raise CommandError(str(error)) from None
        # System checks run here. Only connections are made in other threads.
        rows = {key: _row(key, found) for key, found in known.items() if not _routes(found)}
        for key in keys:
            if key not in rows:
                listed = hosts.listed(map(shown, rows)) or "none"
                more = " Write spaces between keys, and no commas." if "," in key else ""
                problem = f"There is no host '{shown(key)}'. Known hosts: {listed}.{more}"
                raise CommandError(problem)
        if not rows:
            self.stdout.write("EMAIL_HOSTS names no host.")
            return
        self._show(keys or list(rows), rows, connect=connect)

    def _show(self, keys: list[Any], rows: Rows, *, connect: bool) -> None:
        cells = [HEADER, *(_cells(key, rows[key].host) for key in keys)]
        heading, *lines = _aligned(cells)
        line_of = dict(zip(keys, lines, strict=True))
        self.stdout.write(self.style.MIGRATE_HEADING(heading + "STATUS"))
        is_watched = connect and self.stdout.isatty()
        pending, failed = len(keys), []
        statuses: Iterator[tuple[Any, Status]] = ((key, rows[key].status) for key in keys)
        if connect:
            statuses = concurrently(
                lambda key: _connect(key, rows), keys, as_they_finish=is_watched
            )
        try:
            for key, status in statuses:
                text = getattr(self.style, status.style)(status.text)
                self.stdout.write(line_of[key] + text)
                for line in _details(key, rows[key].host):
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


def _routes(found: Host | CheckMessage) -> bool:
    """Whether it is a mailer that asks the router, and no host."""
    return isinstance(found, Host) and found.setting == "MAILERS" and found.routes


def _row(key: Any, found: Host | CheckMessage) -> Row:
    """Return an entry with the first error of the system checks, or else the first warning."""
    host = found if isinstance(found, Host) else None
    messages = check_entry(found)
    if not messages:
        return Row(host, Status(WORKS, "valid"))
    worst = max(messages, key=lambda each: each.level)
    text = worst.msg
    for setting in ("EMAIL_HOSTS", "MAILERS"):
        text = text.removeprefix(named(key, setting)).lstrip(": ")
    return Row(host, Status(FAILS if worst.level >= ERROR else WARNS, printable(text)))


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Return a line for each row, with each column as wide as its widest cell."""
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    return ["".join(map(str.ljust, cells, widths)) for cells in rows]


def _cells(key: Any, host: Host | None) -> tuple[str, ...]:
    name = shown(key)
    if host is None:
        return name, NONE, NONE, NONE, NONE, NONE
    scheme = host.scheme or host.setting
    sender = printable(str(host.options.get(SENDER, NONE)))
    if host.is_smtp:
        return name, scheme, *_server(host.options), sender
    path = printable(str(host.options.get("file_path", NONE)))
    return name, scheme, ", ".join(map(shown, host.members)) or path, NONE, NONE, sender


def _server(options: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return address, security and user. The user has no name here."""
    host = options["host"]
    address = f"[{host}]" if ":" in host else host
    port = options.get("port") or default_port(options)
    use_ssl, use_tls = options.get("use_ssl"), options.get("use_tls")
    user = HIDDEN if options.get("username") else NONE
    if source := options.get("oauth2"):
        if callable(source):  # pragma: mailers-only (its repr() may hold a secret)
            source = "a callable"
        elif source in OAUTH2_GRANTS:
            source = urlsplit(options["oauth2_token_url"]).hostname
        elif not begins_with_module(source):  # it may be a token
            source = HIDDEN
        user += f" (oauth2: {source})"
    return f"{address}:{port}", "TLS" if use_ssl else "STARTTLS" if use_tls else "none", user


def _details(key: Any, host: Host | None) -> Iterator[str]:
    """Yield what a host does to messages, besides their sender, in the order of the table.

    Only the names of headers are shown, because the value of one may be a token.
    """
    given = host.options if host else {}
    for name in HOST_OPTIONS:
        value = given.get(name)
        if value and name != SENDER:
            if name == "rate":
                value = list(map(_use, value, usage(str(key), value)))
            several = value if isinstance(value, (list, dict)) else [value]
            text = ", ".join(map(str, several))
            yield f"{name.replace('_', ' ')}: {printable(text)}"


def _use(limit: Limit, used: int | None) -> str:
    """Return a limit, and how much of it is used where a cache of all processes knows."""
    return str(limit) if used is None else f"{limit} ({used} used)"


def _connect(key: str, rows: Rows) -> Status:
    """Return whether the host can be reached, if the checks find no error."""
    if key not in rows:  # pragma: mailers-only
        return Status(WARNS, "not tried, because it is only in MAILERS")
    host, status = rows[key]
    if host is None or status.style == FAILS or host_in_use(host) is not host:
        return status
    if host.members:
        return _connect_members(host.members, rows)
    try:
        connection: Any = hosts.get_connection(key)
        if not host.is_a(SMTP_BACKEND):
            return Status(WORKS, "valid, but only SMTP hosts are tried")
        start = perf_counter()
        with connection:
            if session := getattr(connection, "connection", None):  # an outbox has none
                session.ehlo_or_helo_if_needed()  # TLS and login have done so
            milliseconds = 1000 * (perf_counter() - start)
    except Exception as error:  # the other hosts are still checked
        return Status(FAILS, explain(error))
    return Status(WORKS, f"OK {milliseconds:.0f} ms")


def _connect_members(keys: tuple[str, ...], rows: Rows) -> Status:
    """Return the statuses of the members. One that works is enough for the whole."""
    statuses = {key: _connect(key, rows) for key in keys}
    text = "; ".join(f"{shown(key)}: {status.text}" for key, status in statuses.items())
    styles = {status.style for status in statuses.values()}
    return Status(styles.pop() if len(styles) == 1 else WARNS, text)
