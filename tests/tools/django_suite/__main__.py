"""Runs the tests of Django and of CPython with our classes in the place of theirs.

Exits with 1 if one fails that should not, or does not fail and should.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import django

from .expected import EXPECTED
from .source import tests_of_django

CLASSES = {
    "smtp": "EmailHostsBackend",
    "wrapped": "HostBackend",
    "failover": "FailoverBackend",
    "routing": "RoutingBackend",
    "smtplib": "SMTP and SMTP_SSL",
}
# The classes that the tests were written for. Where a test fails with them, the machine is
# at fault (root may write anywhere, say): it is left out.
WITHOUT_US = {way: "python" if way == "smtplib" else "django" for way in CLASSES}
FAULTS_OF_THE_MACHINE = 5  # more, and the rest proves nothing

SECONDS = 300  # for one run, which takes less than ten
TESTS = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.django_suite", description=__doc__)
    parser.add_argument("--way", action="append", choices=[*EXPECTED], help="only this one")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for Django's sdist")
    chosen = parser.parse_args()
    print(f"Django {django.get_version()}, Python {platform.python_version()}")
    with TemporaryDirectory() as folder:
        djangos = tests_of_django((chosen.keep or Path(folder)).resolve())
        results = [passes(way, djangos, Path(folder)) for way in chosen.way or EXPECTED]
    print("django_suite/expected.py has the reasons for the expected failures.")
    return int(not all(results))


def passes(way: str, djangos: Path, folder: Path) -> bool:
    """Run the tests in one of these ways, and print what becomes of them."""
    broken = folder / WITHOUT_US[way]
    if not broken.exists():
        finished = run(WITHOUT_US[way], djangos, broken)
        if not broken.exists():
            sys.exit(f"The tests could not be run.\n{finished.stdout}")
        names = broken.read_text().split()
        if names:
            print(f"left out, for they fail without us, too: {', '.join(names)}")
        if len(names) > FAULTS_OF_THE_MACHINE:
            sys.exit("So much fails without us that the rest proves nothing.")
    finished = run(way, djangos, broken)
    verdict = re.findall(r"^(?:Ran \d+ tests|OK|FAILED)(?: \(.*\))?", finished.stdout, re.M)
    print(f"{CLASSES[way]}: {', '.join(verdict)}", flush=True)
    if finished.returncode:
        print(finished.stdout)
    return finished.returncode == 0 and len(verdict) == 2


def run(way: str, djangos: Path, broken: Path) -> subprocess.CompletedProcess[str]:
    is_cpython = way in {"smtplib", "python"}
    runtests = ("runtests.py", "mail", "--settings=tools.django_suite.settings")
    command = ("-m", "tools.django_suite.cpython") if is_cpython else runtests
    path = [str(TESTS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return subprocess.run(
        [sys.executable, *command, *([] if is_cpython else ["--parallel=1"])],
        cwd=TESTS if is_cpython else djangos,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, path))),
            "DJANGO_SUITE_WAY": way,
            "DJANGO_SUITE_BROKEN": str(broken),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )


if __name__ == "__main__":
    sys.exit(main())
