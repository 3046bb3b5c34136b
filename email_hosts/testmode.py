"""Which hosts deliver to ``mail.outbox`` while tests run."""

from __future__ import annotations

from . import conf
from .host import Host, Mailer, bare_host
from .schemes import DJANGO_BACKENDS

LOCMEM_BACKEND = f"{DJANGO_BACKENDS}.locmem.EmailBackend"


class TestMode:
    """Which hosts are real while tests run. ``email_hosts.testing`` changes it."""

    __test__ = False  # for pytest: it is no test
    real_blocks = 0  # how many ``with real_hosts()`` are open

    def captures(self, host: Host) -> bool:
        """Whether the mail of a host is delivered to ``mail.outbox`` instead.

        A host is real if a test has set or changed it, or uses ``real_hosts()``.
        """
        if self.real_blocks or host.setting == "MAILERS" or not conf.tests_are_running():
            return False
        if host.key is None:
            return True
        of_file = conf.email_hosts_of_file()
        return host.key in of_file and of_file[host.key] == conf.email_hosts().get(host.key)

    def has_replaced(self, mailer: Mailer) -> bool:
        """Whether Django's test environment may have put it in the place of the project's."""
        return conf.tests_are_running() and bare_host(mailer).is_a(LOCMEM_BACKEND)


test_mode = TestMode()
