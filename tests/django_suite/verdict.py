"""What a run of tests has shown, beside what is expected of it."""

from __future__ import annotations

import json
import re
import unittest
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Difference:
    """Tests (``Class.test``) that must fail, for this reason.

    ``error`` is a regular expression for what they show. In a Django older than ``since``, or
    not older than ``before``, they must pass; those that it does not have are passed over.
    """

    reason: str
    error: str
    tests: Iterable[str]
    since: tuple[int, int] = (0, 0)
    before: tuple[int, int] = (99, 0)


@dataclass(frozen=True)
class Outcome:
    """What became of the tests of one run. Those that failed have what they showed."""

    passed: list[str]
    failed: dict[str, list[str]]

    @classmethod
    def read(cls, file: Path) -> Outcome:
        return cls(**json.loads(file.read_text()))

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))


class Result(unittest.TextTestResult):
    """A result that also knows what has passed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.passed: list[str] = []

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().addSuccess(test)
        self.passed.append(name_of(test))

    @property
    def outcome(self) -> Outcome:
        """What became of the tests. One that was skipped has neither passed nor failed."""
        failed: dict[str, list[str]] = {}
        for test, shown in [*self.failures, *self.errors]:
            failed.setdefault(name_of(test), []).append(shown)
        return Outcome(self.passed, failed)


@dataclass(frozen=True)
class Verdict:
    """How many tests passed, how many differ as expected, and a text for each failure."""

    passed: int
    differ: int
    failures: list[str]


def compare(outcome, without_us, differences, django):
    """Compare a run with the same one ``without_us``, and with the differences expected.

    What fails without us, too, is the fault of this machine, and tells nothing.
    """
    expected = {
        test: difference
        for difference in differences
        if difference.since <= django < difference.before
        for test in difference.tests
    }
    passed, differ = 0, 0
    failures = []
    # Also what is no test, and appears only if it fails: setUpClass() say.
    for test in {*without_us.passed, *outcome.failed} - without_us.failed.keys():
        difference = expected.get(test)
        shown = outcome.failed.get(test, [])
        if shown and difference and all(re.search(difference.error, text) for text in shown):
            differ += 1
        elif shown:
            but = f", but not with {difference.error!r}" if difference else ""
            failures.append("\n".join([f"{test} fails{but}:", *shown]))
        elif test not in outcome.passed:
            failures.append(f"{test} was not run")
        elif difference:
            failures.append(f"{test} passes, and is expected to fail: {difference.reason}")
        else:
            passed += 1
    return Verdict(passed, differ, sorted(failures))


def name_of(test: Any) -> str:
    """Return ``Class.test``; what is no test has a name with a blank, and keeps it."""
    whole = getattr(test, "test_case", test)  # of which a subTest() is a part
    test_id: str = whole.id()
    return test_id if " " in test_id else ".".join(test_id.split(".")[-2:])
