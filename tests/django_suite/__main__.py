"""Runs the tests of Django and of CPython with our classes in the place of theirs.

Exits with 1 if one fails that should not, or does not fail and should.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import django

from .expected import EXPECTED
from .source import tests_of_django
from .verdict import Outcome, compare

CLASSES = {
    "smtp": "EmailHostsBackend",
    "wrapped": "HostBackend",
    "failover": "FailoverBackend",
    "routing": "RoutingBackend",
    "smtplib": "SMTP and SMTP_SSL",
}
WITHOUT_US = {"smtplib": "python"}  # the others: "django"

# A few may fail without us: as root, or with a Python that this Django does not know.
FAULTS_OF_THE_MACHINE = 5

SECONDS = 300  # for one run, which takes less than ten


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m django_suite", description=__doc__)
    parser.add_argument("--way", action="append", choices=[*EXPECTED], help="only this one")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for Django's sdist")
    chosen = parser.parse_args()
    print(f"Django {django.get_version()}, Python {platform.python_version()}")
    with TemporaryDirectory() as folder:
        return run_all(chosen.way or [*EXPECTED], chosen.keep or Path(folder))


def run_all(ways: list[str], folder: Path) -> int:
    tests = tests_of_django(folder.resolve())
    passed, differ, failures = 0, 0, []
    for way in ways:
        without_us = outcome_without_us(WITHOUT_US.get(way, "django"), tests)
        outcome = run(way, tests)
        verdict = compare(outcome, without_us, EXPECTED[way], django.VERSION[:2])
        print(f"{CLASSES[way]}: {verdict.passed} passed, {verdict.differ} differ as expected")
        passed += verdict.passed
        differ += verdict.differ
        failures += [f"{CLASSES[way]}: {failure}" for failure in verdict.failures]
    for failure in failures:
        print(f"\n{failure}")
    print(f"{differ} differ as expected; django_suite/expected.py has the reasons")
    print(f"{passed} passed, {len(failures)} failed")
    return int(bool(failures))


@cache
def outcome_without_us(way: str, tests: Path) -> Outcome:
    """Run the tests with the classes that they were written for."""
    outcome = run(way, tests)
    for test in outcome.failed:
        print(f"left out, for it fails without us, too: {test}")
    if len(outcome.failed) > FAULTS_OF_THE_MACHINE:
        sys.exit("So much fails without us that the rest proves nothing.")
    return outcome


def run(way: str, tests: Path) -> Outcome:
    ours = Path(__file__).parents[1]
    runtests = ("runtests.py", "mail", "--settings=django_suite.settings", "--parallel=1")
    with TemporaryDirectory() as folder:
        file = Path(folder, "outcome")
        is_cpython = way in {*WITHOUT_US, *WITHOUT_US.values()}
        command = ("-m", "django_suite.cpython") if is_cpython else runtests
        path = [str(ours), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        finished = subprocess.run(
            [sys.executable, *command],
            cwd=ours if is_cpython else tests,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, path))),
                "DJANGO_SUITE_WAY": way,
                "DJANGO_SUITE_OUTCOME": str(file),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        if not file.exists():
            sys.exit(f"The tests could not be run.\n{finished.stdout}")
        return Outcome.read(file)


if __name__ == "__main__":
    sys.exit(main())
