"""Start the servers, run the project, and say who got what."""

import os
import sys
import tempfile
from typing import Any

import django
import trustme
from django.core.management import call_command
from django.test import Client
from servers import SMTPServer, server_context

# Server, login, sender, recipient, subject of a message.
SHOP = ("shop", "shop-user", "The Shop <shop@example.com>")
CLUB = ("club", "club-user", "club@example.org")
EXPECTED = [
    (*SHOP, "customer@example.net", "Your order"),
    *((*CLUB, f"{name}@example.net", "Club news") for name in ("ann", "bob")),
    *[(*CLUB, "qa@example.org", "Club news")] * 2,
    (*CLUB, "customer@example.net", "Your order"),
]


def main():
    """Run the demo. Return 0 if each message came as it should, else 1."""
    stdout: Any = sys.stdout
    stdout.reconfigure(line_buffering=True)  # in step with what is logged
    ca = trustme.CA()
    context = server_context(ca.issue_cert("localhost"))
    shop = SMTPServer(context=context, login=("shop-user", "shop-password"))
    club = SMTPServer(context=context, login=("club-user", "club-password"), implicit=True)
    servers = {"shop": shop, "club": club}
    with tempfile.TemporaryDirectory() as folder, club:
        with shop:
            cafile = f"{folder}/ca.pem"
            ca.cert_pem.write_to_path(cafile)
            for (name, user, sender), scheme in ((SHOP, "submission"), (CLUB, "submissions")):
                os.environ[f"{name.upper()}_EMAIL_HOST"] = (
                    f"{scheme}://{user}:{name}-password@localhost:{servers[name].port}"
                    f"?ssl_cafile={cafile}&_default_from_email={sender}"
                )
            os.environ["DJANGO_SETTINGS_MODULE"] = "tools.demo.settings"
            django.setup()
            print("TWO MAIL SERVERS run on this machine, with TLS and login.")
            print("\n$ python manage.py checkemailhosts --connect")
            call_command("checkemailhosts", "--connect")

            print("\nEACH HOST HAS ITS SENDER. The messages name none.")
            visit("/order/")
            visit("/news/club/")
            arrived = collect(servers)

            print("\nA HOST FOR STAGING redirects its mail, so that no customer gets any.")
            visit("/news/staging/")
            arrived += collect(servers)

        print("\nTHE SERVER OF THE SHOP IS DOWN, and the next host takes over.")
        visit("/order/")
        arrived += collect(servers)
    if sorted(arrived) != sorted(EXPECTED):
        print("\nNot as it should be. Expected:", *EXPECTED, sep="\n")
        return 1
    print("\nEach message came through its host, from its host's sender.")
    return 0


def visit(path):
    print(f"\n$ curl http://localhost:8000{path}")
    print(Client().get(path).content.decode())


def collect(servers):
    """Take what the servers have got, print it and return it."""
    arrived = []
    for name, server in servers.items():
        for user, *_, recipients, message in server.received:
            sender, subject = message["From"], message["Subject"]
            arrived.append((name, user, sender, ", ".join(recipients), subject))
        server.received.clear()
    print()
    for row in (("SERVER", "LOGIN", "FROM", "TO", "SUBJECT"), *arrived):
        print("{:6}  {:9}  {:27}  {:20}  {}".format(*row))
    return arrived


if __name__ == "__main__":
    sys.exit(main())
