"""A site that sends a message for each request: its views, and what a server runs."""

import os

from asgiref.sync import sync_to_async
from django.core.asgi import get_asgi_application
from django.core.mail import EmailMessage
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from email_hosts.backends import get_connection


def send(request: HttpRequest) -> HttpResponse:
    """Send a message from this process."""
    address = request.GET["to"]
    message = EmailMessage("Hello", "World", f"{os.getpid()}@example.com", [address])
    return HttpResponse(get_connection("shop").send_messages([message]))


async def send_async(request: HttpRequest) -> HttpResponse:
    """The same, in one thread of many."""
    return await sync_to_async(send, thread_sensitive=False)(request)


urlpatterns = [path("send", send), path("send_async", send_async)]

wsgi = get_wsgi_application()
asgi = get_asgi_application()

# Where the server loads this before it forks, it leaves an open connection in the parent.
get_connection("shop").send_messages(
    [EmailMessage("Hello", "World", f"{os.getpid()}@example.com", ["parent@example.net"])]
)
