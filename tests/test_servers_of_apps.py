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
def serving(command, mail_server, folder):
    """Run a server of the site in ``worker/``. Give its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        listener.set_inheritable(True)
        fd = listener.fileno()
        command = [part.format(fd=fd) for part in command]
        process = start_worker(mail_server, folder, command, pass_fds=[fd])
        try:
            yield listener.getsockname()[1]
        finally:
            # It finishes what it has begun.
            process.send_signal(signal.SIGINT if "uvicorn" in command else signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
            print(output)


# Each request has a connection at most, and so has each of the two processes when it is loaded.
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
    with serving(command, server, tmp_path) as port:
        paths = [f"/{view}?to={address}" for address in addresses]
        answers = asyncio.run(get_all(port, paths, at_a_time))
    assert answers == ["1"] * len(addresses)
    of_requests = [one for one in server.accepted if one.recipients != ("parent@example.net",)]
    assert (
        sorted(recipient for one in of_requests for recipient in one.recipients) == addresses
    )
    assert 1 <= len({one.sender for one in of_requests}) <= processes
    assert server.connections <= connections
