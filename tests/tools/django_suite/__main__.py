"""Runs the tests of Django and of CPython with our classes in the place of theirs.

Exits with 1 if one fails that should not, or does not fail and should.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import django

# In which shims.py puts our backends in the place of Django's.
WAYS = ("smtp", "wrapped", "failover", "routing")
SECONDS = 300  # for one run, which takes less than ten
TESTS = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.django_suite", description=__doc__)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for Django's sdist")
    chosen = parser.parse_args()
    print(f"Django {django.get_version()}, Python {platform.python_version()}")
    with TemporaryDirectory() as folder:
        djangos = tests_of_django((chosen.keep or Path(folder)).resolve())
        runtests = ["runtests.py", "mail", "--settings=tools.django_suite.settings"]
        results = [passes(way, djangos, *runtests, "--parallel=1") for way in WAYS]
    results.append(passes("smtplib", TESTS, "-m", "tools.django_suite.cpython"))
    print("django_suite/expected.ini has the reasons for the expected failures.")
    return int(not all(results))


def tests_of_django(folder: Path) -> Path:
    """Return the tests of the Django that is installed. They are only in its sdist.

    It is in this folder, once it has been downloaded.
    """
    unpacked = folder / django.get_version()
    if not unpacked.exists():
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--dest", unpacked)
        name = f"Django=={django.get_version()}"
        subprocess.run([*pip, "--no-deps", "--no-binary", "Django", name], check=True)
        (sdist,) = unpacked.glob("*.tar.gz")
        with tarfile.open(sdist) as tar:
            tar.extractall(unpacked, filter="data")
    (tests,) = unpacked.glob("*/tests")
    return tests


def passes(way: str, folder: Path, *command: str) -> bool:
    """Run the tests in this way, and print what becomes of them."""
    path = [str(TESTS), os.environ.get("PYTHONPATH", "")]
    finished = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "DJANGO_SUITE_WAY": way},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    verdict = re.findall(r"^(?:Ran \d+ tests|OK|FAILED)(?: \(.*\))?", finished.stdout, re.M)
    print(f"{way}: {', '.join(verdict)}", flush=True)
    if finished.returncode:
        print(finished.stdout)
    return finished.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
