"""Django's own test runner, with our backends in the place of Django's.

Tests that must fail are unittest's expected failures. They must show what is expected.
"""

import os
import re
import traceback
import unittest
from configparser import ConfigParser
from pathlib import Path

import aiosmtpd  # noqa: F401 (Django skips its tests of SMTP without it)
import django
from django.test.runner import DiscoverRunner
from django.test.utils import iter_test_cases  # type: ignore[attr-defined]

from . import shims

WAY = os.environ["DJANGO_SUITE_WAY"]
EXPECTED = ConfigParser(interpolation=None, delimiters="=")
EXPECTED["DEFAULT"] = {"since": "0.0", "user": str(os.geteuid())}
EXPECTED.read(Path(__file__).with_name("expected.ini"))

# Before the tests are imported: they keep the classes that they find.
shims.install(WAY)


def expected_error(test):
    """Return how a test must fail in this way, with this Django, if it must."""
    whole = getattr(test, "test_case", test)  # of which a subTest() is a part
    name = ".".join(whole.id().split(".")[-2:])
    for each in map(EXPECTED.__getitem__, EXPECTED.sections()):
        applies = WAY in each["ways"].split() and each["user"] == str(os.geteuid())
        is_named = any(re.fullmatch(test, name) for test in each["tests"].split())
        since = tuple(map(int, each["since"].split(".")))
        if applies and is_named and django.VERSION[:2] >= since:
            return "|".join(each["error"].strip().splitlines())
    return None


class Result(unittest.TextTestResult):
    """A failure with another error than the expected one is a failure."""

    def addExpectedFailure(self, test, err):  # noqa: N802
        if re.search(expected_error(test), "".join(traceback.format_exception(*err))):
            super().addExpectedFailure(test, err)
        else:
            self.addFailure(test, err)


class Runner(DiscoverRunner):
    """Knows which tests must fail."""

    def get_resultclass(self):
        return Result

    def run_suite(self, suite, **options):
        for test in iter_test_cases(suite):
            test.__unittest_expecting_failure__ = expected_error(test) is not None
        return super().run_suite(suite, **options)
