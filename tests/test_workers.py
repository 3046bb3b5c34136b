"""Workers of task queues and servers of views send each message once."""

import importlib.util
import re
import shutil
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.request import urlopen

import django
import pytest
from conftest import TESTS, start_worker
from scripted import any_of, at, to
from worker import PARENT

pytestmark = pytest.mark.slow


def tries(server):
    """Return which process has tried to send a message, each time."""
    return re.findall(r"MAIL FROM:<(\d+)@", "\n".join(server.commands))


def recipients(server):
    found = sorted(recipient for one in server.accepted for recipient in one.recipients)
    return [each for each in found if each != PARENT]


ADDRESSES = sorted(f"{number}@example.net" for number in range(20))
ENQUEUE = f"""
import django
django.setup()
from worker.%s import send
for address in {ADDRESSES}:
    send.%s(address)
"""
# Alone: it asks nobody for company, which takes a second.
CELERY = [
    *(sys.executable, "-m", "celery", "-A", "worker.celeryapp", "worker", "-c", "4"),
    *("--without-gossip", "--without-heartbeat", "--without-mingle"),
]


def run(server, folder, *arguments):
    """Run Python in the project of ``worker/``."""
    with start_worker(server, folder, [sys.executable, *arguments]) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_celerys_workers_send_each_message_once(pool, serve, tmp_path):
    refused, *others = ADDRESSES
    # The parent's recipient is accepted. Over a connection that was kept, a new one is tried.
    later = at("RCPT", None, "451 later", "451 later")
    server = serve(any_of(later, to(f"<{refused}>", "550 no")))
    run(server, tmp_path, "-c", ENQUEUE % ("celeryapp", "delay"))
    with start_worker(server, tmp_path, [*CELERY, "-P", pool]) as process:
        has_all = server.wait_for(len([PARENT, *others]))
        process.terminate()  # it finishes what it has begun
        output, _ = process.communicate(timeout=60)
    assert has_all, output
    assert recipients(server) == others
    assert len(tries(server)) == len([PARENT, *ADDRESSES, "again", "again"])
    processes = len({*tries(server)})
    assert processes > 1 if pool == "prefork" else processes == 1
    # Those over which the server has said "later" are not kept.
    assert server.connections <= 4 + 1 + 2


@pytest.mark.skipif(
    django.VERSION < (6, 0) or not importlib.util.find_spec("django_tasks_db"),
    reason="needs Django 6.0 and django-tasks-db",
)
def test_worker_of_djangos_tasks_sends_each_mail_once(serve, tmp_path):  # pragma: tasks-only
    server = serve()
    run(server, tmp_path, "-m", "django", "migrate")
    run(server, tmp_path, "-c", ENQUEUE % ("djangotasks", "enqueue"))
    assert server.accepted == []
    run(server, tmp_path, "-m", "django", "db_worker", "--batch", "--no-startup-delay")
    assert recipients(server) == ADDRESSES
    assert server.connections == len({*tries(server)}) == 1


# Where the server is told to listen: the socket is there before it, and nobody has to wait.
LISTENER = "fd://{fd}"

GUNICORN = [
    *(sys.executable, "-m", "gunicorn", "worker.web:wsgi", "--bind", LISTENER),
    *("--workers=2", "--no-control-socket"),  # that would be in the home directory
]
UVICORN = [sys.executable, "-m", "uvicorn", "worker.web:asgi", "--fd={fd}"]
UWSGI = [
    *("uwsgi", "--http-socket", LISTENER, "--module", "worker.web:wsgi", "--need-app"),
    *("--master", "--processes=2", "--threads=4", "--die-on-term", "--disable-logging"),
    *("--pythonpath", str(TESTS)),
]
# It has no wheel, and so nothing installs it for the tests.
needs_uwsgi = pytest.mark.skipif(not shutil.which("uwsgi"), reason="uwsgi is not installed")


# For each of two processes: one for each request at a time, and one when it is loaded.
TWO = ("send", 8, 2, 2 * (8 + 1))
# One for each thread of the event loop's pool, which has 32 at most.
ONE = ("send_async", 500, 1, 32 + 1)


@pytest.mark.parametrize(
    ("command", "view", "at_a_time", "processes", "connections"),
    [
        pytest.param([*GUNICORN, "--threads=4"], *TWO, id="gunicorn"),
        pytest.param([*GUNICORN, "--threads=4", "--preload"], *TWO, id="preloaded"),
        pytest.param([*GUNICORN, "--worker-class=gevent"], *TWO, id="gevent"),
        pytest.param(UWSGI, *TWO, id="uwsgi", marks=needs_uwsgi),
        pytest.param(UVICORN, *ONE, id="uvicorn"),
    ],
)
def test_each_request_sends_its_message_once(
    command, view, at_a_time, processes, connections, serve, tmp_path
):
    server = serve()
    addresses = sorted(f"{number}@example.net" for number in range(max(200, at_a_time)))
    ask = partial(urlopen, timeout=120)
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        listener.set_inheritable(True)
        fd, port = listener.fileno(), listener.getsockname()[1]
        urls = [f"http://127.0.0.1:{port}/{view}?to={address}" for address in addresses]
        parts = [part.format(fd=fd) for part in command]
        process = start_worker(server, tmp_path, parts, pass_fds=[fd])
        try:
            with ThreadPoolExecutor(at_a_time) as clients:
                answers = {answer.read() for answer in clients.map(ask, urls)}
        finally:
            # It finishes what it has begun.
            process.send_signal(signal.SIGINT if command is UVICORN else signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
            print(output)
    assert answers == {b"1"}
    assert recipients(server) == addresses
    senders = {one.sender for one in server.accepted if one.recipients != (PARENT,)}
    assert 1 <= len(senders) <= processes
    assert server.connections <= connections
