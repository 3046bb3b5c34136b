"""Sends mail in Celery's workers."""

import os
from typing import Any

import celery
import celery.signals

import worker
from email_hosts.backends import can_be_retried

FOLDER = os.environ["WORKER_FOLDER"]

app = celery.Celery(
    "worker",
    broker="filesystem://",
    broker_transport_options={
        "data_folder_in": FOLDER,
        "data_folder_out": FOLDER,
        "control_folder": f"{FOLDER}/control",
        "polling_interval": 0.01,  # seconds
    },
    worker_prefetch_multiplier=1,  # a turn for each process
)


@app.task(bind=True, max_retries=3)  # type: ignore[untyped-decorator]
def send(self: Any, address: str) -> None:
    try:
        worker.send(address)
    except OSError as error:
        if can_be_retried(error):
            raise self.retry(exc=error, countdown=0) from error
        raise


@celery.signals.worker_init.connect  # type: ignore[untyped-decorator]
def send_before_the_fork(**signal: Any) -> None:
    """Leave an open connection in the process whose children the workers will be."""
    worker.send(worker.PARENT)
