"""Mail servers as others run them, on loopback, for ``test_mta.py``.

Each has a configuration and a queue of its own, below a temporary folder; the mail system
of the machine is not touched. ``install`` gets the programs, all but Postfix's.
"""

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scripted import ScriptedServer

# Where `install` puts them.
INSTALLED = Path(os.environ.get("MAIL_SERVERS") or Path.home() / ".cache/django-email-hosts")


@contextmanager
def running(kind, certificate):
    """Run a server of this kind, on a port of its own choice."""
    with (
        # Not pytest's folder: the servers' own users have to get at it.
        TemporaryDirectory(prefix="mta-") as folder,
        ScriptedServer() as behind,
        # Bound, and never listening: nobody else gets the port while the server starts anew.
        socket.socket() as reserved,
    ):
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        server = kind(Path(folder), certificate, behind, reserved.getsockname()[1])
        server.configure()
        try:
            server.start()
            yield server
        finally:
            server.stop()


class MailServer:
    """Offers STARTTLS and login.

    What it accepts, it relays to ``behind``, a server of the tests, unless it can tell by
    itself what it has accepted. It is one command, and what that starts in turn.
    """

    username = "mta-user"
    password = "mta-password"
    program: Path  # below INSTALLED
    environment: dict[str, str] = {}
    _process: Any = None

    def __init__(self, folder, certificate, behind, port):
        self.folder = folder
        self.folder.chmod(0o755)
        self.behind = behind
        self.port = port
        self.certificate = certificate.private_key_and_cert_chain_pem.bytes().decode()
        self.write("certificate.pem", self.certificate)

    @classmethod
    def why_not(cls) -> str:
        """Return what keeps it from running here, or nothing."""
        program = INSTALLED / cls.program
        return "" if program.exists() else f"not found: {program} (tests/mta/install)"

    def configure(self) -> None: ...

    def command(self) -> Any:
        """Return the command that starts it."""

    def is_relaying(self) -> bool:
        """Whether it has mail that it has accepted, and not relayed yet."""
        return False

    def start(self):
        """Start it, and wait until it accepts connections."""
        with Path(self.folder, "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait_until(self._accepts)

    def stop(self):
        """Stop it. Open connections break."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(30)
            # What it has started may end a moment later, and still listen.
            self.wait_until(self._port_is_free)

    def _accepts(self):
        assert self._process.poll() is None, self.log()
        address = ("127.0.0.1", self.port)
        with suppress(OSError), socket.create_connection(address, timeout=5) as client:
            return client.recv(4).startswith(b"220")

    def _port_is_free(self):
        with suppress(OSError), socket.create_server(("127.0.0.1", self.port)):
            return True

    def restart(self):
        self.stop()
        self.start()

    def log(self):
        return Path(self.folder, "log").read_text(errors="replace")

    def wait_until(self, condition):
        """Wait for something that it does not tell; fail with its log."""
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)

    def relay(self):
        """Wait until it has relayed all that it has accepted."""
        self.wait_until(lambda: not self.is_relaying())

    def delivered(self):
        """Return what it has delivered since the last time, once nothing is on its way."""
        self.relay()
        delivered = list(self.behind.accepted)
        self.behind.accepted.clear()
        return delivered

    def write(self, name: str, content: str) -> None:
        """Write a file, which is a template with ``{0}`` for this server."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content.format(self))


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
