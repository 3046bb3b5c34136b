"""A run is judged by what is expected of it, and by what happens without us."""

from __future__ import annotations

import io
import unittest
from collections import Counter

import pytest

from .expected import EXPECTED
from .verdict import Difference, Outcome, Result, compare

WITHOUT_US = Outcome(passed=["Case.test"], failed={"Case.test_broken": ["root may write"]})
DIFFERS = Difference("It is meant so.", "60 is not None", ["Case.test", "Case.test_broken"])


def outcome(*shown: str) -> Outcome:
    """Return one in which Case.test has shown these, or has passed if there are none."""
    return Outcome([], {"Case.test": [*shown]}) if shown else Outcome(["Case.test"], {})


@pytest.mark.parametrize(
    ("run", "differences", "passed", "differ", "failures"),
    [
        (outcome(), [], 1, 0, []),
        (outcome("60 is not None"), [DIFFERS], 0, 1, []),
        (outcome("oops"), [], 0, 0, ["Case.test fails:\noops"]),
        (
            outcome("60 is not None", "oops"),
            [DIFFERS],
            0,
            0,
            ["Case.test fails, but not with '60 is not None':\n60 is not None\noops"],
        ),
        (
            outcome(),
            [DIFFERS],
            0,
            0,
            ["Case.test passes, and is expected to fail: It is meant so."],
        ),
        (Outcome([], {}), [], 0, 0, ["Case.test was not run"]),
        (Outcome([], {}), [DIFFERS], 0, 0, ["Case.test was not run"]),
    ],
    ids=[
        "passes",
        "differs",
        "fails",
        "fails otherwise",
        "no longer differs",
        "not run",
        "not run, and listed",
    ],
)
def test_verdict(run, differences, passed, differ, failures):
    verdict = compare(run, WITHOUT_US, differences, django=(6, 1))
    assert (verdict.passed, verdict.differ, verdict.failures) == (passed, differ, failures)


@pytest.mark.parametrize("differences", [[], [DIFFERS]])
@pytest.mark.parametrize("broken", [["Case.test_broken"], []])
def test_what_fails_without_us_is_left_out(broken, differences):
    run = Outcome([], {"Case.test": ["60 is not None"], **{name: ["oops"] for name in broken}})
    with_broken = compare(run, WITHOUT_US, differences, django=(6, 1))
    assert with_broken == compare(outcome("60 is not None"), WITHOUT_US, differences, (6, 1))


def test_what_is_no_test_can_fail_too():
    run = Outcome(["Case.test"], {"setUpClass (mail.Case)": ["oops"]})
    assert compare(run, WITHOUT_US, [], (6, 1)).failures == [
        "setUpClass (mail.Case) fails:\noops"
    ]


@pytest.mark.parametrize(
    ("django", "differ"), [((5, 2), False), ((6, 0), True), ((6, 1), False)]
)
def test_difference_of_some_versions_of_django(django, differ):
    difference = Difference("Changed.", "oops", ["Case.test"], since=(6, 0), before=(6, 1))
    verdict = compare(outcome("oops"), WITHOUT_US, [difference], django)
    assert (verdict.differ == 1, verdict.failures == []) == (differ, differ)


def test_test_that_this_django_does_not_have_is_passed_over():
    difference = Difference("It is meant so.", "oops", ["Case.test_new"])
    assert compare(outcome(), WITHOUT_US, [difference], (6, 1)).failures == []


def test_outcome_has_each_test_by_class_and_name(tmp_path):
    class Case(unittest.TestCase):
        def test_passes(self):
            with self.subTest("part"):
                pass

        def test_fails(self):
            for part in "ab":
                with self.subTest(part):
                    self.fail(f"part {part}")

        @unittest.skip("not here")
        def test_is_skipped(self) -> None: ...  # pragma: no cover

    class Broken(unittest.TestCase):
        @classmethod
        def setUpClass(cls) -> None:
            raise OSError("no server")

        def test_is_not_run(self) -> None: ...  # pragma: no cover

    load = unittest.defaultTestLoader.loadTestsFromTestCase
    suite = unittest.TestSuite([load(Case), load(Broken)])
    result = unittest.TextTestRunner(io.StringIO(), resultclass=Result).run(suite)
    assert isinstance(result, Result)
    result.outcome.write(tmp_path / "outcome")
    shown = Outcome.read(tmp_path / "outcome")
    assert shown.passed == ["Case.test_passes"]
    assert list(shown.failed) == [
        "Case.test_fails",
        f"setUpClass ({__name__}.{Broken.__qualname__})",
    ]
    first, second = shown.failed["Case.test_fails"]
    assert "part a" in first
    assert "part b" in second


@pytest.mark.parametrize("way", EXPECTED)
def test_each_difference_is_listed_once(way):
    listed = Counter(test for difference in EXPECTED[way] for test in difference.tests)
    assert [test for test, times in listed.items() if times > 1] == []
