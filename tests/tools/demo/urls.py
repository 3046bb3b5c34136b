"""The views of a shop and of a club: both send mail."""

from django.core.mail import EmailMessage
from django.http import HttpResponse
from django.urls import path

from email_hosts.backends import get_connection


def order(request):
    """Confirm an order, through the first host of two that works."""
    message = EmailMessage("Your order", "Thank you!", to=["customer@example.net"])
    get_connection("orders").send_messages([message])
    return HttpResponse("ordered")


def news(request, host):
    """Send one message to each member, over one connection."""
    members = ["ann@example.net", "bob@example.net"]
    messages = [EmailMessage("Club news", "We won!", to=[member]) for member in members]
    get_connection(host).send_messages(messages)
    return HttpResponse("sent")


urlpatterns = [path("order/", order), path("news/<host>/", news)]
