"""Views that send a message for each request."""

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.urls import path

import worker


def send(request: HttpRequest) -> HttpResponse:
    return HttpResponse(worker.send(request.GET["to"]))


# In one thread of many.
send_async = sync_to_async(send, thread_sensitive=False)

urlpatterns = [path("send", send), path("send_async", send_async)]
