"""Start the servers, run the project, and say who got what."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import django
import trustme
from servers import SMTPServer, server_context

# Server, login, sender, recipient, subject of a message.
Row = tuple[str | None, ...]
SHOP = ("shop", "shop-user", "The Shop <shop@example.com>")
CLUB = ("club", "club-user", "club@example.org")
EXPECTED: list[Row] = [
    (*SHOP, "customer@example.net", "Your order"),
    *((*CLUB, f"{name}@example.net", "Club news") for name in ("ann", "bob")),
    *[(*CLUB, "qa@example.org", "Club news")] * 2,
    (*CLUB, "customer@example.net", "Your order"),
]


def main() -> int:
    """Run the demo. Return 0 if each message came as it should, else 1."""
    ca = trustme.CA()
    context = server_context(ca.issue_cert("localhost"))
    shop = SMTPServer(context=context, login=("shop-user", "shop-password"))
    club = SMTPServer(context=context, login=("club-user", "club-password"), implicit=True)
    servers = {"shop": shop, "club": club}
    with tempfile.TemporaryDirectory() as folder, club:
        with shop:
            cafile = Path(folder, "ca.pem")
            ca.cert_pem.write_to_path(str(cafile))
            set_up_django(cafile, shop.port, club.port)
            print("TWO MAIL SERVERS run on this machine, with TLS and login.")
            manage("checkemailhosts", "--connect")

            print("\nEACH HOST HAS ITS SENDER. The messages name none.")
            order()
            manage("sendnews", "club")
            arrived = collect(servers)

            print("\nA HOST FOR STAGING redirects its mail, so that no customer gets any.")
            manage("sendnews", "staging")
            arrived += collect(servers)

        print("\nTHE SERVER OF THE SHOP IS DOWN, and the next host takes over.")
        order()
        arrived += collect(servers)
    return report(arrived)


def set_up_django(cafile: Path, shop_port: int, club_port: int) -> None:
    for name, scheme, port, sender in (
        ("shop", "submission", shop_port, SHOP[-1]),
        ("club", "submissions", club_port, CLUB[-1]),
    ):
        os.environ[f"{name.upper()}_EMAIL_HOST"] = (
            f"{scheme}://{name}-user:{name}-password@localhost:{port}?ssl_cafile={cafile}"
            f"&_default_from_email={sender}"
        )
    os.environ["DJANGO_SETTINGS_MODULE"] = "tools.demo.settings"
    django.setup()


def manage(*words: str) -> None:
    """Run a management command."""
    from django.core.management import call_command

    print(f"\n$ python manage.py {' '.join(words)}", flush=True)
    call_command(*words)


def order() -> None:
    """Get the page that confirms an order."""
    from django.test import Client

    print("\n$ curl http://localhost:8000/order/", flush=True)
    print(Client().get("/order/").content.decode())


def collect(servers: dict[str, SMTPServer]) -> list[Row]:
    """Take what the servers have got, print it and return it."""
    arrived: list[Row] = []
    for name, server in servers.items():
        for user, *_, recipients, message in server.received:
            sender, subject = message["From"], message["Subject"]
            arrived.append((name, user, sender, ", ".join(recipients), subject))
        server.received.clear()
    print()
    for row in (("SERVER", "LOGIN", "FROM", "TO", "SUBJECT"), *arrived):
        print("{:6}  {:9}  {:27}  {:20}  {}".format(*row))
    return arrived


def report(arrived: list[Row]) -> int:
    """Say whether all is well. Return the exit code."""
    missing, wrong = Counter(EXPECTED) - Counter(arrived), Counter(arrived) - Counter(EXPECTED)
    if missing or wrong:
        print(f"\nMissing: {[*missing]}\nNot as it should be: {[*wrong]}")
        return 1
    print("\nEach message came through its host, from its host's sender.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
