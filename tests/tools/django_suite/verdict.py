"""Tests that must fail are unittest's expected failures. They must show what is expected."""

from __future__ import annotations

import os
import re
import traceback
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django

from .expected import EXPECTED, Difference

WAY = os.environ.get("DJANGO_SUITE_WAY", "")
# The names of the tests that fail without us, too: the fault of this machine.
BROKEN = Path(os.environ.get("DJANGO_SUITE_BROKEN", os.devnull))


class Result(unittest.TextTestResult):
    """A failure with another error than the expected one is a failure."""

    def addExpectedFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        shown = "".join(traceback.format_exception(*err))
        if re.search(expected_of_way()[name_of(test)].error, shown):
            super().addExpectedFailure(test, err)
        else:
            self.addFailure(test, err)


def expected_of_way() -> dict[str, Difference]:
    """Return what must fail in this way, with this Django."""
    return {
        test: difference
        for difference in EXPECTED.get(WAY, [])
        if difference.since <= django.VERSION[:2]
        for test in difference.tests
    }


def prepared(suite: unittest.TestSuite) -> unittest.TestSuite:
    """Return the suite that is run: without what fails without us, too."""
    broken = BROKEN.read_text().split() if BROKEN.exists() else []
    expected = expected_of_way()
    chosen = unittest.TestSuite()
    for test in cases(suite):
        test.__unittest_expecting_failure__ = name_of(test) in expected
        if name_of(test) not in broken:
            chosen.addTest(test)
    return chosen


def note_broken(result: unittest.TestResult) -> None:
    """Write down what fails without us."""
    if WAY not in EXPECTED:
        failed = [name_of(test) for test, _ in (*result.failures, *result.errors)]
        BROKEN.write_text("\n".join(dict.fromkeys(failed)))


def cases(suite: Any) -> Iterator[Any]:
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from cases(each)
        else:
            yield each


def name_of(test: Any) -> str:
    """Return ``Class.test``."""
    whole = getattr(test, "test_case", test)  # of which a subTest() is a part
    return ".".join(whole.id().split(".")[-2:])
