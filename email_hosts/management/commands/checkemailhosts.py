"""``manage.py checkemailhosts [--connect] [HOST...]``"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import Any, NamedTuple

from django.core.checks import ERROR
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ... import conf, hosts
from ...checks import check_host
from ...dsn import SMTP_BACKEND, backend_of, is_empty, members, parse, scheme_of
from ...exceptions import InvalidEmailHost, named, printable, shown
from ...oauth2.rules import origin
from ...tracebacks import clear_frames
from ..explain import explain, no_such_host
from ..side_by_side import side_by_side

HEADER = ("HOST", "SCHEME", "SERVER", "SECURITY", "USER", "SENDER")
NONE = "-"

# Django's styles, from good to bad.
WORKS, WARNS, FAILS = "SUCCESS", "WARNING", "ERROR"

OVERWRITTEN = " \r"  # ends a line that the next one is written over


class Status(NamedTuple):
    """The result of one host."""

    style: str
    text: str


class Command(BaseCommand):
    """Shows the hosts, and whether they can be reached."""

    help = (
        "Shows the hosts in EMAIL_HOSTS, and what 'check' says about each. Sends nothing, and "
        "shows neither user names nor passwords. The exit code is 1 if a host failed."
    )
    requires_system_checks = ()  # the command shows which hosts are not valid

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the hosts and ``--connect``."""
        parser.add_argument(
            "keys",
            nargs="*",
            metavar="HOST",
            help="Key in EMAIL_HOSTS. If you give none, all are shown.",
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
            configured = conf.email_hosts()
        except InvalidEmailHost as error:
            raise CommandError(str(error)) from None
        for key in keys:
            if key not in configured:
                raise no_such_host(key, map(str, configured))
        if not configured:
            self.stdout.write("EMAIL_HOSTS names no host.")
            return
        keys = keys or list(configured)
        checked = _check(keys)
        rows = _aligned([HEADER, *(_cells(key, configured[key]) for key in keys)])
        heading, row_of = rows[0], dict(zip(keys, rows[1:], strict=True))
        self.stdout.write(self.style.MIGRATE_HEADING(heading + "STATUS"))
        is_watched = connect and self.stdout.isatty()
        pending, failed = len(keys), []
        try:
            for key, status in side_by_side(
                lambda key: _connect(key, checked) if connect else checked[key],
                keys,
                as_they_finish=is_watched,
            ):
                text = getattr(self.style, status.style)(status.text)
                self.stdout.write(row_of[key] + text)
                for line in _details(key, configured[key]):
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


def _cells(key: Any, dsn: Any) -> tuple[str, ...]:
    name = shown(str(key))
    try:
        mailer = parse(dsn, alias=key)
    except InvalidEmailHost:
        return name, NONE, NONE, NONE, NONE, NONE
    options = mailer["OPTIONS"]
    sender = printable(options.get("default_from_email", NONE))
    if backend_of(mailer) != SMTP_BACKEND or "host" not in options:
        path = printable(options.get("file_path", NONE))
        server = ", ".join(map(shown, members(mailer))) or path
        return name, scheme_of(dsn), server, NONE, NONE, sender
    host = f"[{options['host']}]" if ":" in options["host"] else options["host"]
    security = "TLS" if options["use_ssl"] else "STARTTLS" if options["use_tls"] else "none"
    user = "*****" if options["username"] else NONE
    if "oauth2" in options:
        user += f" (oauth2: {origin(options)})"
    return name, scheme_of(dsn), f"{host}:{options['port']}", security, user, sender


def _details(key: Any, dsn: Any) -> list[str]:
    """Return what a host does to messages, besides their sender, and to whom it sends them.

    The values of headers are not shown: a provider's token may be one.
    """
    try:
        options = parse(dsn, alias=key)["OPTIONS"]
    except InvalidEmailHost:
        return []
    found = {
        "reply-to": options.get("reply_to"),
        "envelope from": options.get("envelope_from"),
        "headers": ", ".join(options.get("headers", ())),
        "redirects to": options.get("redirect_to"),
        "except for": ", ".join(options.get("allowed_recipients", ())),
    }
    return [f"{name}: {printable(value)}" for name, value in found.items() if value]


def _check(keys: Iterable[str]) -> dict[str, Status]:
    """Return what the system checks say about each host."""
    configured = conf.email_hosts()
    known, acyclic = set(hosts.known_keys()), set[str]()
    statuses = {}
    for key in keys:
        # Errors first, because one status is shown.
        found = sorted(
            check_host(key, configured[key], known, acyclic), key=lambda each: -each.level
        )
        if found:
            style = FAILS if found[0].level >= ERROR else WARNS
            text = found[0].msg.removeprefix(named(str(key))).lstrip(": ")
            statuses[key] = Status(style, printable(text))
        else:
            statuses[key] = Status(WORKS, "valid")
    return statuses


def _connect(key: str, checked: dict[str, Status]) -> Status:
    """Return whether the host can be reached, if the checks have nothing against it."""
    status = checked[key] if key in checked else _check([key])[key]
    dsn = conf.email_hosts()[key]
    if status.style == FAILS or is_empty(dsn):
        return status
    host = parse(dsn, alias=key)
    if hosts.is_shadowed(key, host):  # pragma: mailers-only
        return status
    if members(host):
        return _connect_members(members(host), checked)
    try:
        connection = hosts.get_connection(key)
        if backend_of(host) != SMTP_BACKEND:
            return Status(WORKS, "OK, no server to connect to")
        start = perf_counter()
        connection.open()
        milliseconds = (perf_counter() - start) * 1000
    except Exception as error:  # the other hosts are still checked
        return Status(FAILS, explain(error))
    connection.close()
    return Status(WORKS, f"OK {milliseconds:.0f} ms")


def _connect_members(keys: tuple[str, ...], checked: dict[str, Status]) -> Status:
    """Return the statuses of the members. One that works is enough for the whole."""
    statuses = {
        key: _connect(key, checked)
        if not is_empty(conf.email_hosts().get(key))
        else Status(WARNS, "not tried, it is in MAILERS only")
        for key in keys
    }
    text = "; ".join(f"{shown(key)}: {status.text}" for key, status in statuses.items())
    failures = [key for key, status in statuses.items() if status.style == FAILS]
    if not failures:
        return Status(WORKS, text)
    return Status(FAILS if len(failures) == len(statuses) else WARNS, text)
