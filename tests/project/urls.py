"""One view, which sends mail through a host."""

from django.core.mail import EmailMessage
from django.http import HttpRequest, HttpResponse
from django.urls import path

from email_hosts.backends import get_connection


def welcome(request: HttpRequest, host: str) -> HttpResponse:
    """Send a message that names no sender."""
    message = EmailMessage("Welcome", "Hello", to=["someone@example.net"])
    sent = get_connection(host).send_messages([message])
    return HttpResponse(str(sent))


urlpatterns = [path("welcome/<host>/", welcome)]
