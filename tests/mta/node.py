"""Servers from npm: Haraka, and one that is made with nodemailer's smtp-server."""

import base64
import json
import shutil
from pathlib import Path

from scripted import Accepted

from . import INSTALLED, MailServer, run

HERE = Path(__file__).parent
MODULES = Path("node", "node_modules")

HARAKA = {
    "me": "mta.example.com",
    "smtp.ini": "listen=127.0.0.1:{0.port}\nnodes=0",
    "plugins": "tls\nauth/flat_file\nmessages",
    "auth_flat_file.ini": (
        "[core]\nmethods=PLAIN,LOGIN\nconstrain_sender=false\n[users]\n{0.username}={0.password}"
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


class NodeServer(MailServer):
    """Runs on Node.js, takes any recipient, and keeps the messages, one a line of JSON."""

    @classmethod
    def why_not(cls):
        return super().why_not() if shutil.which("node") else "not found: node"

    def delivered(self):
        path = self.folder / "messages"
        if not path.exists():
            return []
        lines = path.read_text().splitlines()
        path.unlink()
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

    def configure(self):
        run("node", INSTALLED / self.program, "--install", self.folder)
        shutil.copy(HERE / "haraka-plugin.js", self.folder / "plugins" / "messages.js")
        for name, content in HARAKA.items():
            self.write(f"config/{name}", content)
        for name in ("tls_cert.pem", "tls_key.pem"):
            self.write(f"config/{name}", self.certificate)

    def command(self):
        return ["node", INSTALLED / self.program, "--configs", self.folder]


class SMTPServer(NodeServer):
    program = MODULES / "smtp-server" / "package.json"
    environment = {"NODE_PATH": str(INSTALLED / MODULES)}

    def command(self):
        return ["node", HERE / "smtp-server.cjs", str(self.port), self.username, self.password]
