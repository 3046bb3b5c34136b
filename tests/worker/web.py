"""What a server runs. Whoever loads it sends a message."""

import os

from django.core.asgi import get_asgi_application
from django.core.mail import EmailMessage
from django.core.wsgi import get_wsgi_application

from email_hosts.backends import get_connection

wsgi = get_wsgi_application()
asgi = get_asgi_application()

# Where the server loads this before it forks, it leaves an open connection in the parent.
get_connection("shop").send_messages(
    [EmailMessage("Hello", "World", f"{os.getpid()}@example.com", ["parent@example.net"])]
)
