"""``manage.py checkemailhosts [--connect] [HOST...]``"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from time import perf_counter
from typing import Any, NamedTuple

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...dsn import SMTP_BACKEND, backend_of, is_empty, members, parse_host, scheme_of
from ...exceptions import InvalidEmailHost
from ...hosts import email_hosts, get_connection, is_hidden, is_strict, known_keys
from ..failure import FAILURES, no_such_host, reason

HEADER = ("HOST", "SCHEME", "SERVER", "SECURITY", "USER", "SENDER")
NONE = "-"


class Status(NamedTuple):
    """What came of one host."""

    is_failure: bool
    text: str


class Command(BaseCommand):
    """Shows the hosts, and whether they can be reached."""

    help = "Shows the hosts in EMAIL_HOSTS. Sends nothing and shows no secret."
    requires_system_checks = ()  # it shows itself which host is not valid

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the hosts and ``--connect``."""
        parser.add_argument(
            "keys", nargs="*", metavar="HOST", help="Key in EMAIL_HOSTS. Default: all."
        )
        parser.add_argument(
            "--connect",
            action="store_true",
            help="Connect to each host, through TLS and login, and show how long it took.",
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
        widths = [max(map(len, column)) for column in zip(HEADER, *rows.values(), strict=True)]

        def line(cells: tuple[str, ...], status: str) -> None:
            padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            self.stdout.write(f"{'  '.join(padded)}  {status}")

        line(HEADER, "STATUS")
        failed = []
        for key, status in self._statuses({key: hosts[key] for key in rows}, connect):
            style = self.style.ERROR if status.is_failure else self.style.SUCCESS
            line(rows[key], style(status.text))
            if status.is_failure:
                failed.append(str(key))
        if failed:
            raise CommandError(f"{len(failed)} of {len(rows)} failed: {', '.join(failed)}")

    def _statuses(self, hosts: dict[str, Any], connect: bool) -> Iterator[tuple[str, Status]]:
        # All at once: a host that does not answer holds up no other.
        with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
            tasks = {pool.submit(_status, key, hosts[key], connect): key for key in hosts}
            for task in as_completed(tasks) if self.stdout.isatty() else tasks:
                yield tasks[task], task.result()


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
        return Status(is_strict(), "empty: not configured")
    try:
        host = parse_host(key, dsn)
        if is_hidden(key, host):  # pragma: mailers-only
            return Status(False, f'not used: MAILERS["{key}"] comes first')
        if not connect:
            return Status(False, "valid")
        if members(host):
            return _status_of_several((*way, key), members(host))
        connection = get_connection(key)
        if backend_of(host) != SMTP_BACKEND:
            return Status(False, "OK, no server to connect to")
        start = perf_counter()
        connection.open()
        milliseconds = (perf_counter() - start) * 1000
    except FAILURES as error:
        return Status(True, reason(error))
    connection.close()
    return Status(False, f"OK {milliseconds:.0f} ms")


def _status_of_several(way: tuple[str, ...], keys: tuple[str, ...]) -> Status:
    """Return the statuses of the members. If one fails, the whole does."""
    hosts = email_hosts()
    statuses = {}
    for key in keys:
        if key in way:
            statuses[key] = Status(True, "is on the way to itself")
        elif key not in known_keys():
            statuses[key] = Status(True, "there is no such host")
        elif is_empty(hosts.get(key)):  # pragma: mailers-only
            statuses[key] = Status(False, "not tried, it is of MAILERS alone")
        else:
            statuses[key] = _status(key, hosts[key], connect=True, way=way)
    text = "; ".join(f"{key}: {status.text}" for key, status in statuses.items())
    return Status(any(status.is_failure for status in statuses.values()), text)
