"""Mail servers as others run them, on loopback, for ``test_mta.py``.

Each has a configuration and a queue of its own, below a temporary folder; the mail system
of the machine is not touched. ``install`` gets the programs, all but Postfix's.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import ClassVar

import trustme
from scripted import Accepted, ScriptedServer

PASSWORD = "mta-password"

# Where `install` puts them.
INSTALLED = Path(
    os.environ.get("MAIL_SERVERS") or Path.home() / ".cache" / "django-email-hosts"
)


class MailServer(ABC):
    """Runs while its ``with`` block does, on a port of its own choice.

    It offers STARTTLS and login. What it accepts, it relays to ``behind``, a server of the
    tests, unless it can tell by itself what it has accepted.
    """

    username = "mta-user"

    def __init__(self, certificate: trustme.LeafCert) -> None:
        # Not pytest's folder: the servers' own users have to get at it.
        self._temporary = tempfile.TemporaryDirectory(prefix="mta-")
        self.folder = Path(self._temporary.name)
        self.folder.chmod(0o755)
        self.certificate = certificate
        certificate.private_key_and_cert_chain_pem.write_to_path(
            str(self.folder / "certificate.pem")
        )
        self.behind = ScriptedServer()
        # Bound, and never listening: nobody else gets the port while the server starts anew.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port = self._reserved.getsockname()[1]

    @classmethod
    @abstractmethod
    def why_not(cls) -> str:
        """Return what keeps it from running here, or nothing."""

    @abstractmethod
    def start(self) -> None:
        """Start it, and wait until it accepts connections."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it. Open connections break."""

    @abstractmethod
    def is_relaying(self) -> bool:
        """Whether it has mail that it has accepted, and not relayed yet."""

    def log(self) -> str:
        log = self.folder / "log"
        return log.read_text(errors="replace") if log.exists() else ""

    def __enter__(self) -> MailServer:
        with ExitStack() as stack:
            stack.enter_context(self._temporary)
            stack.enter_context(self._reserved)
            stack.enter_context(self.behind)
            stack.callback(self.stop)
            self.start()
            self._running = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._running.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def relay(self) -> None:
        """Wait until it has relayed all that it has accepted."""
        self.wait_until(lambda: not self.is_relaying(), seconds=60)

    def wait_until(self, condition: Callable[[], bool], *, seconds: float) -> None:
        """Wait for something that it does not tell; fail with its log."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)

    def delivered(self) -> list[Accepted]:
        """Return what it has delivered since the last time, once nothing is on its way."""
        self.relay()
        delivered = list(self.behind.accepted)
        self.behind.accepted.clear()
        return delivered

    def write_certificate(self, chain: str, key: str) -> None:
        chain_pems = [pem.bytes().decode() for pem in self.certificate.cert_chain_pems]
        self.write(chain, "".join(chain_pems))
        self.write(key, self.certificate.private_key_pem.bytes().decode())

    def write(self, name: str, content: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


class ProcessServer(MailServer):
    """A server that is one command, and what that starts in turn."""

    program: ClassVar[Path]  # below INSTALLED
    environment: Mapping[str, str] = {}
    _process: subprocess.Popen[bytes] | None = None

    @classmethod
    def why_not(cls) -> str:
        program = INSTALLED / cls.program
        return "" if program.exists() else f"not found: {program} (tests/mta/install)"

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Return the command, for the folder above."""

    def start(self) -> None:
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
        self.wait_until(self._accepts, seconds=30)

    def stop(self) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(30)
            # What it has started may end a moment later, and still listen.
            self.wait_until(self._port_is_free, seconds=30)

    def _accepts(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self.log()
        address = ("127.0.0.1", self.port)
        with suppress(OSError), socket.create_connection(address, timeout=5) as client:
            return client.recv(4).startswith(b"220")
        return False

    def _port_is_free(self) -> bool:
        with suppress(OSError), socket.create_server(("127.0.0.1", self.port)):
            return True
        return False


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
