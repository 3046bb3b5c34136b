"""Tests that must fail are unittest's expected failures. They must show what is expected."""

from __future__ import annotations

import os
import re
import traceback
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .expected import EXPECTED, Difference

WAY = os.environ.get("DJANGO_SUITE_WAY", "")
# The names of the tests that fail without us, too: the fault of this machine.
BROKEN = Path(os.environ.get("DJANGO_SUITE_BROKEN", os.devnull))


class Result(unittest.TextTestResult):
    """A failure with another error than the expected one is a failure."""

    def addExpectedFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        difference = expected(test)
        assert difference
        if re.search(difference.error, "".join(traceback.format_exception(*err))):
            super().addExpectedFailure(test, err)
        else:
            self.addFailure(test, err)


def expected(test: Any) -> Difference | None:
    """Return why a test must fail in this way, if it must."""
    return next((each for each in EXPECTED.get(WAY, []) if each.is_of(name_of(test))), None)


def prepared(suite: unittest.TestSuite) -> unittest.TestSuite:
    """Return the suite that is run: without what fails without us, too."""
    broken = BROKEN.read_text().split() if BROKEN.exists() else []
    chosen = [test for test in cases(suite) if name_of(test) not in broken]
    for test in chosen:
        test.__unittest_expecting_failure__ = expected(test) is not None
    return unittest.TestSuite(chosen)


def note_broken(result: unittest.TestResult) -> None:
    """Write down what fails without us."""
    if WAY not in EXPECTED:
        failed = [name_of(test) for test, _ in (*result.failures, *result.errors)]
        BROKEN.write_text("\n".join(dict.fromkeys(failed)))


def cases(suite: Any) -> Iterator[Any]:
    for each in suite:
        yield from cases(each) if isinstance(each, unittest.TestSuite) else [each]


def name_of(test: Any) -> str:
    """Return ``Class.test``."""
    whole = getattr(test, "test_case", test)  # of which a subTest() is a part
    return ".".join(whole.id().split(".")[-2:])
