"""Django's own test runner, with our backends in the place of Django's.

Tests that must fail are unittest's expected failures. They must show what is expected.
"""

import os
import re
import traceback
import unittest

import aiosmtpd  # noqa: F401 (Django skips its tests of SMTP without it)
from django.test.runner import DiscoverRunner
from django.test.utils import iter_test_cases  # type: ignore[attr-defined]

from . import shims
from .expected import EXPECTED

WAY = os.environ["DJANGO_SUITE_WAY"]

# Before the tests are imported: they keep the classes that they find.
shims.install(WAY)


def expected(test):
    """Return why a test must fail in this way, if it must."""
    whole = getattr(test, "test_case", test)  # of which a subTest() is a part
    name = ".".join(whole.id().split(".")[-2:])
    return next((each for each in EXPECTED[WAY] if each.is_of(name)), None)


class Result(unittest.TextTestResult):
    """A failure with another error than the expected one is a failure."""

    def addExpectedFailure(self, test, err):  # noqa: N802
        if re.search(expected(test).error, "".join(traceback.format_exception(*err))):
            super().addExpectedFailure(test, err)
        else:
            self.addFailure(test, err)


class Runner(DiscoverRunner):
    """Knows which tests must fail."""

    def get_resultclass(self):
        return Result

    def run_suite(self, suite, **options):
        for test in iter_test_cases(suite):
            test.__unittest_expecting_failure__ = expected(test) is not None
        return super().run_suite(suite, **options)
