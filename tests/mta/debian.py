"""Servers from packages of Debian that need not be installed: chasquid and Exim."""

import os
import shutil
from pathlib import Path

from . import INSTALLED, MailServer, run

CHASQUID = """
hostname: "mta.example.com"
smtp_address: "127.0.0.1:{0.port}"
data_dir: "{0.folder}/data"
mail_log_path: "<stderr>"
mail_delivery_agent_bin: "{0.programs}/mda-lmtp"
"""


class Chasquid(MailServer):
    """Takes mail for its mailboxes, and relays it by LMTP, to one recipient at a time."""

    program = Path("chasquid", "usr", "bin", "chasquid")
    username = "someone@example.net"

    def configure(self):
        self.programs = (INSTALLED / self.program).parent
        arguments = ["-addr_network", "tcp", "-addr", f"127.0.0.1:{self.behind.port}"]
        arguments += ["-to_puny", "-f", "%from%", "-d", "%to%"]
        lines = [f'mail_delivery_agent_args: "{argument}"\n' for argument in arguments]
        self.write("chasquid.conf", CHASQUID + "".join(lines))
        for name in ("fullchain.pem", "privkey.pem"):
            self.write(f"certs/x/{name}", self.certificate)
        tool = self.programs / "chasquid-util"
        for mailbox in (self.username, "other@example.net", "b@müller.example"):
            domain = self.folder / "domains" / mailbox.partition("@")[2]
            domain.mkdir(parents=True, exist_ok=True)
            options = (f"--configdir={self.folder}", f"--password={self.password}")
            run(tool, "user-add", mailbox, *options)

    def command(self):
        return [INSTALLED / self.program, "-config_dir", self.folder]

    def is_relaying(self):
        return any(Path(self.folder, "data").glob("queue/*"))


EXIM = """
exim_path = {0.folder}/{0.program}
keep_environment = LD_LIBRARY_PATH : LD_PRELOAD : NSS_WRAPPER_PASSWD : NSS_WRAPPER_GROUP
deliver_drop_privilege
primary_hostname = mta.example.com
spool_directory = {0.folder}/spool
log_file_path = {0.folder}/spool/%slog
pid_file_path = {0.folder}/spool/pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {0.port}
# By default, it delivers ten messages of a connection, and the others an hour later.
smtp_accept_queue_per_connection = 0
tls_advertise_hosts = *
tls_certificate = {0.folder}/certificate.pem
acl_smtp_rcpt = accept
acl_smtp_data = accept

begin routers
behind:
  driver = manualroute
  route_list = * 127.0.0.1
  self = send
  transport = behind

begin transports
behind:
  driver = smtp
  port = {0.behind.port}

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if eq{{$auth2:$auth3}}{{{0.username}:{0.password}}}}}
"""


class Exim(MailServer):
    """Takes any recipient."""

    program = Path("exim", "usr", "sbin", "exim4")

    def configure(self):
        # A copy: Exim's own user has to get at it, and may not at our home.
        shutil.copytree(INSTALLED / "exim", self.folder / "exim", symlinks=True)
        # Debian's does not start without a user of this name, who must not be root.
        self.uid, self.gid = (os.getuid(), os.getgid()) if os.getuid() else (65534, 65534)
        self.write("exim.conf", EXIM)
        self.write("passwd", "root:x:0:0::/:\nDebian-exim:x:{0.uid}:{0.gid}::/:\n")
        self.write("group", "root:x:0:\nDebian-exim:x:{0.gid}:\n")
        spool = self.folder / "spool"
        spool.mkdir()
        os.chown(spool, self.uid, self.gid)
        (wrapper,) = (self.folder / "exim").rglob("libnss_wrapper.so")
        self.environment = {
            "LD_LIBRARY_PATH": str(wrapper.parent),
            "LD_PRELOAD": str(wrapper),
            "NSS_WRAPPER_PASSWD": str(self.folder / "passwd"),
            "NSS_WRAPPER_GROUP": str(self.folder / "group"),
        }

    def command(self):
        program = self.folder / self.program
        return [program, "-C", self.folder / "exim.conf", "-bdf", "-q5s"]

    def is_relaying(self):
        return any(Path(self.folder, "spool").glob("input/*"))
