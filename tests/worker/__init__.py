"""A project whose mail is sent by task workers and views, run by ``test_workers.py``."""

import os

from django.core.mail import EmailMessage

from email_hosts.backends import get_connection

PARENT = "parent@example.net"


def send(address: str) -> int | None:
    """Send a message that says which process it is from."""
    message = EmailMessage("Hello", "World", f"{os.getpid()}@example.com", [address])
    return get_connection("shop").send_messages([message])
