"""A view that confirms an order, through the first host of two that works."""

from django.core.mail import EmailMessage
from django.http import HttpResponse
from django.urls import path

from email_hosts.backends import get_connection


def order(request):
    message = EmailMessage("Your order", "Thank you!", to=["customer@example.net"])
    get_connection("orders").send_messages([message])
    return HttpResponse("ordered")


urlpatterns = [path("order/", order)]
