"""A Postfix on loopback, which relays all mail to one server of the tests.

It has a configuration and a queue of its own, below a temporary folder; the mail system of
the machine is not touched. STARTTLS and login are required, as by most relays.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import trustme

USERNAME, PASSWORD, REALM = "postfix-user", "postfix-password", "mta.example.com"

MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = /
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = {realm}
mydestination =
mynetworks =
alias_maps =
local_recipient_maps =
relayhost = [127.0.0.1]:{relay_port}
in_flow_delay = 0

smtpd_tls_security_level = encrypt
smtpd_tls_cert_file = {folder}/certificate.pem
smtpd_tls_key_file = {folder}/certificate.pem
smtpd_sasl_auth_enable = yes
smtpd_sasl_local_domain = {realm}
cyrus_sasl_config_path = {folder}/sasl
smtpd_relay_restrictions = permit_sasl_authenticated, reject
"""
MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
SASL = """
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {folder}/sasldb
mech_list: PLAIN LOGIN
"""


def why_not() -> str:
    """Return what keeps Postfix from running here, or nothing."""
    missing = [name for name in ("postfix", "saslpasswd2") if not shutil.which(name)]
    if missing:
        return f"not found: {', '.join(missing)} (Debian's postfix, sasl2-bin)"
    return "" if os.geteuid() == 0 else "only root can start Postfix"


class Postfix:
    """Runs while its ``with`` block does. What it accepts goes to ``relay_port``."""

    def __init__(self, certificate: trustme.LeafCert, relay_port: int) -> None:
        # Not pytest's folder: Postfix's own users have to get at it.
        self._temporary = tempfile.TemporaryDirectory(prefix="postfix-")
        self.folder = Path(self._temporary.name)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        values = {
            "folder": self.folder,
            "port": self.port,
            "relay_port": relay_port,
            "realm": REALM,
        }
        self.folder.chmod(0o755)
        for name in ("queue", "data", "sasl"):  # Debian's looks for the last one there
            Path(self.folder, name).mkdir()
        for name, content in (
            ("main.cf", MAIN),
            ("master.cf", MASTER),
            ("sasl/smtpd.conf", SASL),
        ):
            Path(self.folder, name).write_text(content.format(**values))
        certificate.private_key_and_cert_chain_pem.write_to_path(
            str(self.folder / "certificate.pem")
        )
        shutil.chown(self.folder / "data", "postfix")
        subprocess.run(
            ["saslpasswd2", "-p", "-c", "-f", self.folder / "sasldb", "-u", REALM, USERNAME],
            input=PASSWORD,
            text=True,
            check=True,
        )
        shutil.chown(self.folder / "sasldb", "postfix")

    def __enter__(self) -> Postfix:
        self.control("start")
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.control("stop")
        finally:
            self._temporary.cleanup()

    def restart(self) -> None:
        """Stop and start again. Open connections break."""
        self.control("stop")
        self.control("start")

    def set(self, name: str, value: str) -> None:
        """Change a parameter while it runs."""
        subprocess.run(["postconf", "-c", self.folder, "-e", f"{name}={value}"], check=True)
        self.control("reload")

    def deliver(self, seconds: float = 60) -> None:
        """Wait until it has relayed all that it has accepted."""
        end = time.monotonic() + seconds
        while self._queued():
            assert time.monotonic() < end, self.log()

    def _queued(self) -> bool:
        # In the order in which a message goes from one to the other.
        queues = [self.folder / "queue" / name for name in ("deferred", "incoming", "active")]
        return any(path.is_file() for queue in queues for path in queue.rglob("*"))

    def control(self, command: str) -> None:
        """Run ``postfix`` with this command."""
        done = subprocess.run(
            ["postfix", "-c", self.folder, command],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.log()

    def log(self) -> str:
        """Return what it has logged."""
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""
