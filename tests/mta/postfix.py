"""Postfix, from Debian's package: it needs users of its own, and so has to be installed."""

import os
import shutil
import subprocess
from pathlib import Path

from . import MailServer, run

MAIN = """
compatibility_level = 3.6
queue_directory = {0.folder}/queue
data_directory = {0.folder}/data
maillog_file = {0.folder}/log
maillog_file_prefixes = /
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mta.example.com
mydestination =
mynetworks =
alias_maps =
local_recipient_maps =
relayhost = [127.0.0.1]:{0.behind.port}
in_flow_delay = 0

smtpd_tls_security_level = encrypt
smtpd_tls_cert_file = {0.folder}/certificate.pem
smtpd_tls_key_file = {0.folder}/certificate.pem
smtpd_sasl_auth_enable = yes
smtpd_sasl_local_domain = mta.example.com
cyrus_sasl_config_path = {0.folder}/sasl
smtpd_relay_restrictions = permit_sasl_authenticated, reject
"""
MASTER = """
127.0.0.1:{0.port} inet n - n - - smtpd
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
sasldb_path: {0.folder}/sasldb
mech_list: PLAIN LOGIN
"""


class Postfix(MailServer):
    """Requires STARTTLS and login, as most relays do, and then takes any recipient."""

    def configure(self):
        for name in ("queue", "data"):
            Path(self.folder, name).mkdir()
        self.write("main.cf", MAIN)
        self.write("master.cf", MASTER)
        self.write("sasl/smtpd.conf", SASL)  # where Debian's looks for it
        command = ["saslpasswd2", "-p", "-c", "-f", f"{self.folder}/sasldb"]
        command += ["-u", "mta.example.com", self.username]
        subprocess.run(command, input=self.password, text=True, check=True)
        for name in ("data", "sasldb"):
            shutil.chown(self.folder / name, "postfix")

    @classmethod
    def why_not(cls):
        missing = [name for name in ("postfix", "saslpasswd2") if not shutil.which(name)]
        if missing:
            return f"not found: {', '.join(missing)} (Debian's postfix, sasl2-bin)"
        return "" if os.geteuid() == 0 else "only root can start Postfix"

    def start(self):
        self.control("start")

    def stop(self):
        self.control("stop")

    def set(self, name, value):
        """Change a parameter while it runs."""
        run("postconf", "-c", self.folder, "-e", f"{name}={value}")
        self.control("reload")

    def is_relaying(self):
        # In the order in which a message goes from one to the other.
        queues = [self.folder / "queue" / name for name in ("deferred", "incoming", "active")]
        return any(path.is_file() for queue in queues for path in queue.rglob("*"))

    def control(self, command):
        run("postfix", "-c", self.folder, command)
