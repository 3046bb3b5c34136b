"""Django's own test runner, with our backends in the place of Django's."""

from __future__ import annotations

import os
import unittest
from pathlib import Path
from typing import Any

import aiosmtpd  # noqa: F401 (Django skips its tests of SMTP without it)
from django.test.runner import DiscoverRunner

from . import shims
from .verdict import Result

# Before the tests are imported: they keep the classes that they find.
shims.install(os.environ["DJANGO_SUITE_WAY"])


class Runner(DiscoverRunner):
    """Writes what became of the tests to the file that the environment names."""

    def get_resultclass(self) -> type[Result]:
        return Result

    def run_suite(self, suite: unittest.TestSuite, **options: Any) -> Any:
        result: Any = super().run_suite(suite, **options)
        result.outcome.write(Path(os.environ["DJANGO_SUITE_OUTCOME"]))
        return result
