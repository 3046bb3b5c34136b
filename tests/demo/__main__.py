"""Start the servers, run the project, and say who got what."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import django
import trustme
from servers import Received, SMTPServer, server_context


class Mail(NamedTuple):
    """What the demo shows of a message."""

    host: str
    user: str | None
    envelope_sender: str
    header_from: str
    subject: str


EXPECTED = [
    Mail("shop", "shop-user", "shop@example.com", "The Shop <shop@example.com>", "Your order"),
    Mail("club", "club-user", "club@example.org", "club@example.org", "Club news"),
    Mail("club", "club-user", "club@example.org", "club@example.org", "Club news"),
]
SENDERS = {"shop": "The%20Shop%20<shop@example.com>", "club": "club@example.org"}


def main() -> int:
    """Run the demo. Return 0 if each message came as it should, else 1."""
    ca = trustme.CA()
    context = server_context(ca.issue_cert("localhost"))
    with tempfile.TemporaryDirectory() as folder:
        cafile = Path(folder, "ca.pem")
        ca.cert_pem.write_to_path(str(cafile))
        shop = SMTPServer(context=context, login=("shop-user", "shop-password"))
        club = SMTPServer(context=context, login=("club-user", "club-password"), implicit=True)
        with shop, club:
            for scheme, key, server in (
                ("submission", "shop", shop),
                ("submissions", "club", club),
            ):
                os.environ[f"{key.upper()}_EMAIL_HOST"] = (
                    f"{scheme}://{key}-user:{key}-password@localhost:{server.port}"
                    f"?ssl_cafile={cafile}&_default_from_email={SENDERS[key]}"
                )
            run_project()
    received = [mail("shop", message) for message in shop.received]
    received += [mail("club", message) for message in club.received]
    show(received)
    return report(received, EXPECTED)


def run_project() -> None:
    """Send mail from a view and from a management command."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "demo.settings"
    django.setup()
    # These need the settings.
    from django.core.management import call_command
    from django.test import Client

    print("Two mail servers run on this machine, with TLS and login.\n")
    print("$ python manage.py checkemailhosts --connect")
    call_command("checkemailhosts", connect=True)
    print("\n$ curl http://localhost:8000/order/")
    print(Client().get("/order/").content.decode())
    print("\n$ python manage.py sendnews")
    call_command("sendnews")


def mail(host: str, received: Received) -> Mail:
    """Return what the demo shows of a message that the server of this host got."""
    message: Any = received.message
    return Mail(host, received.user, received.sender, message["From"], message["Subject"])


def show(received: list[Mail]) -> None:
    print("\nThe servers received:\n")
    header = ("HOST", "USER", "ENVELOPE SENDER", "FROM", "SUBJECT")
    table = [header, *(tuple(map(str, mail)) for mail in received)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def report(received: list[Mail], expected: list[Mail]) -> int:
    """Say whether all is well. Return the exit code."""
    missing = [mail for mail in expected if received.count(mail) < expected.count(mail)]
    wrong = [mail for mail in received if mail not in expected]
    for mail in missing:
        print(f"\nMissing: {mail}")
    for mail in wrong:
        print(f"\nNot as it should be: {mail}")
    if missing or wrong:
        return 1
    print("\nEach message came through its host, from its host's sender.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
