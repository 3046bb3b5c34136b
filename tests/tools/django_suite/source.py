"""Django's own tests, which are in its sdist and nowhere else."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import django


def tests_of_django(folder: Path) -> Path:
    """Return the tests of the Django that is installed.

    They are in this folder, once they have been downloaded. Raises ``CalledProcessError``
    if pip cannot do that.
    """
    unpacked = folder / django.get_version()
    if not unpacked.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as fresh:
            download(Path(fresh))
            [sdist] = Path(fresh).glob("*.tar.gz")
            with tarfile.open(sdist) as tar:
                tar.extractall(Path(fresh, "unpacked"), filter="data")
            Path(fresh, "unpacked").rename(unpacked)
    [tests] = unpacked.glob("*/tests")
    return tests


def download(folder: Path) -> None:
    """Download the sdist. pip also has it say what it depends on, which takes seconds."""
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder)
    sdist = ("--no-deps", "--no-binary", "Django", f"Django=={django.get_version()}")
    subprocess.run([*pip, *sdist], check=True)
