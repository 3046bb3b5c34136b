"""Servers from npm: Haraka, and one that is made with nodemailer's smtp-server."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import trustme
from scripted import Accepted

from . import INSTALLED, PASSWORD, ProcessServer, run

HERE = Path(__file__).parent
MODULES = Path("node", "node_modules")

HARAKA = {
    "me": "mta.example.com",
    "smtp.ini": "listen=127.0.0.1:{port}\nnodes=0",
    "plugins": "tls\nauth/flat_file\nmessages",
    "auth_flat_file.ini": (
        "[core]\nmethods=PLAIN,LOGIN\nconstrain_sender=false\n[users]\n{username}={password}"
    ),
    # ffdhe2048 of RFC 7919. Haraka would compute for half a minute to get one of its own.
    "dhparams.pem": """-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----""",
}


class NodeServer(ProcessServer):
    """Runs on Node.js, takes any recipient, and keeps the messages, one a line of JSON."""

    _read = 0  # bytes

    @classmethod
    def why_not(cls) -> str:
        return super().why_not() if shutil.which("node") else "not found: node"

    def is_relaying(self) -> bool:
        return False

    def delivered(self) -> list[Accepted]:
        path = self.folder / "messages"
        path.touch()
        with path.open("rb") as file:
            file.seek(self._read)
            lines = file.readlines()
            self._read = file.tell()
        return [
            Accepted(
                sender=message["sender"],
                recipients=tuple(message["recipients"]),
                content=base64.b64decode(message["content"]),
            )
            for message in map(json.loads, lines)
        ]


class Haraka(NodeServer):
    program = MODULES / "Haraka" / "bin" / "haraka"

    def __init__(self, certificate: trustme.LeafCert) -> None:
        super().__init__(certificate)
        run("node", INSTALLED / self.program, "--install", self.folder)
        shutil.copy(HERE / "haraka-plugin.js", self.folder / "plugins" / "messages.js")
        values = {"port": self.port, "username": self.username, "password": PASSWORD}
        for name, content in HARAKA.items():
            self.write(f"config/{name}", content.format(**values))
        self.write_certificate("config/tls_cert.pem", "config/tls_key.pem")

    def command(self) -> Sequence[str | Path]:
        return ["node", INSTALLED / self.program, "--configs", self.folder]


class SMTPServer(NodeServer):
    program = MODULES / "smtp-server" / "package.json"

    def __init__(self, certificate: trustme.LeafCert) -> None:
        super().__init__(certificate)
        self.environment = {"NODE_PATH": str(INSTALLED / MODULES)}

    def command(self) -> Sequence[str | Path]:
        return ["node", HERE / "smtp-server.cjs", str(self.port), self.username, PASSWORD]
