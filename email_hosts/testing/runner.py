"""A test runner that captures ``using="shop"`` as it captures the host ``shop``."""

from __future__ import annotations

from typing import Any

from django.test.runner import DiscoverRunner, ParallelTestSuite

from . import capture_mailers


def init_worker(*args: Any, **options: Any) -> None:
    """Start a process of ``--parallel``, which sets up its own test environment."""
    begin: Any = ParallelTestSuite.init_worker
    begin(*args, **options)
    capture_mailers()


class EmailHostsTestSuite(ParallelTestSuite):
    """The tests of ``--parallel``."""

    init_worker = init_worker


class EmailHostsRunner(DiscoverRunner):
    """Set it as ``TEST_RUNNER``, or let your own runner inherit from it.

    Before Django 6.1 it is Django's runner, and nothing more.
    """

    parallel_test_suite = EmailHostsTestSuite

    def setup_test_environment(self, **options: Any) -> None:
        """Set up Django's test environment, and let mailers deliver as hosts do."""
        super().setup_test_environment(**options)
        capture_mailers()
