"""Views that send a message for each request."""

import os

from asgiref.sync import sync_to_async
from django.core.mail import EmailMessage
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
