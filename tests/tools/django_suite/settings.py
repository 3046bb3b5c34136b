"""The settings that Django itself runs its tests with, and our runner."""

from test_sqlite import *  # noqa: F403

TEST_RUNNER = "tools.django_suite.runner.Runner"
