"""``manage.py checkemailhosts [--connect] [HOST...]``"""

from __future__ import annotations

from time import perf_counter
from typing import Any, NamedTuple
from unicodedata import category, east_asian_width

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...dsn import SMTP_BACKEND, backend_of, is_empty, members, parse_host, scheme_of
from ...exceptions import InvalidEmailHost
from ...hosts import email_hosts, get_connection, is_hidden, is_strict, known_keys
from ..failure import no_such_host, reason
from ..side_by_side import side_by_side

HEADER = ("HOST", "SCHEME", "SERVER", "SECURITY", "USER", "SENDER")
NONE = "-"

SUCCESS, WARNING, ERROR = "SUCCESS", "WARNING", "ERROR"  # Django's styles


class Status(NamedTuple):
    """What came of one host."""

    style: str
    text: str


class Command(BaseCommand):
    """Shows the hosts, and whether they can be reached."""

    help = (
        "Shows the hosts in EMAIL_HOSTS, and whether each is valid. Sends nothing, and shows "
        "no user name and no password. The exit code is 1 if a host failed."
    )
    requires_system_checks = ()  # it shows itself which host is not valid

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the hosts and ``--connect``."""
        parser.add_argument(
            "keys",
            nargs="*",
            metavar="HOST",
            help="Key in EMAIL_HOSTS; if none is given, all.",
        )
        parser.add_argument(
            "--connect",
            action="store_true",
            help="Connect to each, through TLS and login, and show how long that took.",
        )

    def handle(self, *, keys: list[str], connect: bool, **options: Any) -> None:
        """Print a line for each host. Raises ``CommandError`` if one of them failed."""
        try:
            hosts = email_hosts()
        except InvalidEmailHost as error:
            raise CommandError(str(error)) from None
        for key in keys:
            if key not in hosts:
                raise no_such_host(key, map(str, hosts))
        if not hosts:
            self.stdout.write("EMAIL_HOSTS names no host.")
            return
        rows = {key: _cells(key, hosts[key]) for key in keys or hosts}
        columns = zip(HEADER, *rows.values(), strict=True)
        widths = [max(map(_width, column)) for column in columns]

        def line(cells: tuple[str, ...], status: str) -> str:
            padded = (
                cell + " " * (width - _width(cell))
                for cell, width in zip(cells, widths, strict=True)
            )
            return f"{'  '.join(padded)}  {status}"

        self.stdout.write(self.style.MIGRATE_HEADING(line(HEADER, "STATUS")))
        failed = []
        for key, status in side_by_side(
            lambda key: _status(key, hosts[key], connect),
            rows,
            as_they_finish=connect and self.stdout.isatty(),
        ):
            style = getattr(self.style, status.style)
            self.stdout.write(line(rows[key], style(status.text)))
            if status.style == ERROR:
                failed.append(str(key))
        if failed:
            raise CommandError(f"{len(failed)} of {len(rows)} failed: {', '.join(failed)}")


def _width(text: str) -> int:
    """Return how many columns of a terminal it takes. Unicode Standard Annex 11."""
    visible = [each for each in text if category(each) not in {"Mn", "Me", "Cf"}]
    return len(visible) + sum(east_asian_width(each) in "WF" for each in visible)


def _cells(key: str, dsn: Any) -> tuple[str, ...]:
    try:
        mailer = parse_host(key, dsn)
    except InvalidEmailHost:
        return str(key), NONE, NONE, NONE, NONE, NONE
    options = mailer["OPTIONS"]
    sender = options.get("default_from_email", NONE)
    if backend_of(mailer) != SMTP_BACKEND:
        server = ", ".join(members(mailer)) or str(options.get("file_path", NONE))
        return str(key), scheme_of(dsn), server, NONE, NONE, sender
    host = f"[{options['host']}]" if ":" in options["host"] else options["host"]
    security = "TLS" if options["use_ssl"] else "STARTTLS" if options["use_tls"] else "none"
    user = "*****" if options["username"] else NONE
    return str(key), scheme_of(dsn), f"{host}:{options['port']}", security, user, sender


def _status(key: str, dsn: Any, connect: bool, way: tuple[str, ...] = ()) -> Status:
    if is_empty(dsn):
        return Status(ERROR if is_strict() else WARNING, "empty: not configured")
    try:
        host = parse_host(key, dsn)
        if is_hidden(key, host):  # pragma: mailers-only
            return Status(WARNING, f'not used: MAILERS["{key}"] comes first')
        if not connect:
            return Status(SUCCESS, "valid")
        if members(host):
            return _status_of_several((*way, key), members(host))
        connection = get_connection(key)
        if backend_of(host) != SMTP_BACKEND:
            return Status(SUCCESS, "OK, no server to connect to")
        start = perf_counter()
        connection.open()
        milliseconds = (perf_counter() - start) * 1000
    except Exception as error:  # one host's failure is not the end of the others
        is_told_elsewhere = way and isinstance(error, InvalidEmailHost)
        return Status(ERROR, "not valid" if is_told_elsewhere else reason(error))
    connection.close()
    return Status(SUCCESS, f"OK {milliseconds:.0f} ms")


def _status_of_several(way: tuple[str, ...], keys: tuple[str, ...]) -> Status:
    """Return the statuses of the members. If one fails, the whole does."""
    hosts = email_hosts()
    statuses = {}
    for key in keys:
        if key in way:
            statuses[key] = Status(ERROR, "is on the way to itself")
        elif key not in known_keys():
            statuses[key] = Status(ERROR, "there is no such host")
        elif is_empty(hosts.get(key)):  # pragma: mailers-only
            statuses[key] = Status(WARNING, "not tried, it is of MAILERS alone")
        else:
            statuses[key] = _status(key, hosts[key], connect=True, way=way)
    text = "; ".join(f"{key}: {status.text}" for key, status in statuses.items())
    is_failure = any(status.style == ERROR for status in statuses.values())
    return Status(ERROR if is_failure else SUCCESS, text)
