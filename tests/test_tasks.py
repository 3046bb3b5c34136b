"""Mail from task workers: only keys travel, and each process has its own connections."""

import importlib.util
import re
import sys

import django
import pytest
from conftest import start_worker
from scripted import any_of, at, to

pytestmark = pytest.mark.slow

PARENT = "parent@example.net"
ADDRESSES = [f"{number}@example.net" for number in range(20)]
ENQUEUE = f"""
import django
django.setup()
from worker.%s import send
for address in {ADDRESSES}:
    send.%s("shop", address)
"""
# Alone: it asks nobody for company, which takes a second.
CELERY = [
    *(sys.executable, "-m", "celery", "-A", "worker.celeryapp", "worker", "-c", "4"),
    *("--without-gossip", "--without-heartbeat", "--without-mingle"),
]


@pytest.fixture
def run(tmp_path):
    """Run Python in the project of ``worker/``, and return what it prints."""

    def run(server, *arguments):
        with start_worker(server, tmp_path, [sys.executable, *arguments]) as process:
            output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        return output

    return run


def senders(server):
    """Return who has tried to send a message, each time: the processes."""
    return re.findall(r"MAIL FROM:<(\d+)@", "\n".join(server.commands))


def recipients(server):
    return sorted(one.recipients[0] for one in server.accepted)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_celerys_workers_send_each_message_once(pool, serve, run, tmp_path):
    refused, *others = ADDRESSES
    # The parent's recipient is accepted. Over a connection that was kept, a new one is tried.
    later = at("RCPT", None, "451 later", "451 later")
    server = serve(any_of(later, to(f"<{refused}>", "550 no")))
    run(server, "-c", ENQUEUE % ("celeryapp", "delay"))
    with start_worker(server, tmp_path, [*CELERY, "-P", pool]) as process:
        has_all = server.wait_for(len([PARENT, *others]))
        process.terminate()  # it finishes what it has begun
        output, _ = process.communicate(timeout=60)
    assert has_all, output
    assert recipients(server) == sorted([PARENT, *others])
    assert len(senders(server)) == len([PARENT, *ADDRESSES, "again", "again"])
    processes = len(set(senders(server)))
    # Those over which the server has said "later" are not kept.
    if pool == "prefork":
        assert 1 < processes <= server.connections <= processes + 2
    else:
        assert server.connections <= 4 + 2
        assert processes == 1


@pytest.mark.skipif(
    django.VERSION < (6, 0) or not importlib.util.find_spec("django_tasks_db"),
    reason="needs Django 6.0 and django-tasks-db",
)
def test_worker_of_djangos_tasks_sends_each_message_once(serve, run):  # pragma: tasks-only
    server = serve()
    run(server, "-m", "django", "migrate")
    run(server, "-c", ENQUEUE % ("djangotasks", "enqueue"))
    assert server.accepted == []
    run(server, "-m", "django", "db_worker", "--batch", "--no-startup-delay")
    assert recipients(server) == sorted(ADDRESSES)
    assert server.connections == len(set(senders(server))) == 1
