"""Sends mail in the workers of Django's own tasks."""

import os

from django.core.mail import EmailMessage
from django.tasks import task

from email_hosts.backends import get_connection


@task
def send(host: str, address: str) -> None:
    """Send a message from this process."""
    message = EmailMessage("Hello", "World", f"{os.getpid()}@example.com", [address])
    get_connection(host).send_messages([message])
