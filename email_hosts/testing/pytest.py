"""A pytest plugin that captures ``using="shop"`` as it captures the host ``shop``.

Use it with pytest-django: ``addopts = "-p email_hosts.testing.pytest"``.
"""

from __future__ import annotations

import pytest

from . import capture_mailers


@pytest.fixture(scope="session", autouse=True)
def email_hosts_in_mailers(django_test_environment: None) -> None:
    """Capture the mailers of the project. Before Django 6.1 there are none."""
    capture_mailers()
