"""Sends mail in the workers of Django's own tasks."""

from django.tasks import task

import worker


@task
def send(address: str) -> None:
    worker.send(address)
