"""Mail from views, where users run them: each message once, over connections that are kept."""

import asyncio
import shutil
import signal
import socket
import sys
from contextlib import contextmanager

import pytest
from conftest import TESTS, start_worker

pytestmark = pytest.mark.slow

# Where the server is told to listen: the socket is there before it, and so nobody has to wait
# until it is.
LISTENER = "fd://{fd}"

GUNICORN = [
    *(sys.executable, "-m", "gunicorn", "worker.web:wsgi", "--bind", LISTENER),
    "--no-control-socket",  # which would be in the home directory
]
UWSGI = [
    *("uwsgi", "--http-socket", LISTENER, "--module", "worker.web:wsgi", "--need-app"),
    *("--master", "--processes=2", "--threads=4", "--die-on-term", "--disable-logging"),
    *("--pythonpath", str(TESTS)),
]
# It has no wheel, and so nothing installs it for the tests.
needs_uwsgi = pytest.mark.skipif(not shutil.which("uwsgi"), reason="uwsgi is not installed")
SERVERS = [
    pytest.param([*GUNICORN, "--workers=2", "--threads=4"], id="gunicorn"),
    pytest.param([*GUNICORN, "--workers=2", "--threads=4", "--preload"], id="preloaded"),
    pytest.param([*GUNICORN, "--workers=2", "--worker-class=gevent"], id="gevent"),
    pytest.param(UWSGI, id="uwsgi", marks=needs_uwsgi),
]


async def get(port, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.partition(b"\r\n\r\n")[2].decode()


async def get_all(port, paths, at_a_time):
    limit = asyncio.Semaphore(at_a_time)

    async def one(path):
        async with limit:
            return await asyncio.wait_for(get(port, path), timeout=120)

    return await asyncio.gather(*map(one, paths))


@contextmanager
def serving(command, mail_server, folder, end=signal.SIGTERM):
    """Run a server of the site in ``worker/``. Give its port, and end it with this signal."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        listener.set_inheritable(True)
        fd = listener.fileno()
        command = [part.format(fd=fd) for part in command]
        process = start_worker(mail_server, folder, command, pass_fds=[fd])
        try:
            yield listener.getsockname()[1]
        finally:
            process.send_signal(end)  # it finishes what it has begun
            output, _ = process.communicate(timeout=60)
            print(output)


def senders(server):
    """Return which processes have sent something to others than the parent's address."""
    return {one.sender.partition("@")[0] for one in of_requests(server)}


def recipients(server):
    return sorted(recipient for one in of_requests(server) for recipient in one.recipients)


def of_requests(server):
    return [one for one in server.accepted if one.recipients != ("parent@example.net",)]


@pytest.mark.parametrize("command", SERVERS)
def test_each_request_sends_its_message_once(command, serve, tmp_path):
    server = serve()
    addresses = sorted(f"{number}@example.net" for number in range(200))
    with serving(command, server, tmp_path) as port:
        paths = [f"/send?to={address}" for address in addresses]
        answers = asyncio.run(get_all(port, paths, at_a_time=8))
    assert answers == ["1"] * 200
    assert recipients(server) == addresses
    assert 1 <= len(senders(server)) <= 2
    # For each of two processes: one for each request at a time, and one when it is loaded.
    assert server.connections <= 2 * (8 + 1)


def test_five_hundred_requests_at_a_time_send_each_message_once(serve, tmp_path):
    server = serve()
    addresses = sorted(f"{number}@example.net" for number in range(500))
    command = [sys.executable, "-m", "uvicorn", "worker.web:asgi", "--fd={fd}"]
    command += ["--log-level=warning"]
    with serving(command, server, tmp_path, end=signal.SIGINT) as port:
        paths = [f"/send_async?to={address}" for address in addresses]
        answers = asyncio.run(get_all(port, paths, at_a_time=500))
    assert answers == ["1"] * 500
    assert recipients(server) == addresses
    assert len(senders(server)) == 1
    # One for each thread of the event loop's pool, which has 32 at most.
    assert server.connections <= 32 + 1
