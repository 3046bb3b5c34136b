"""Django's own test runner, with our backends in the place of Django's."""

from __future__ import annotations

import unittest
from typing import Any

import aiosmtpd  # noqa: F401 (Django skips its tests of SMTP without it)
from django.test.runner import DiscoverRunner

from . import shims
from .verdict import WAY, Result, note_broken, prepared

# Before the tests are imported: they keep the classes that they find.
shims.install(WAY)


class Runner(DiscoverRunner):
    """Knows which tests must fail."""

    def get_resultclass(self) -> type[Result]:
        return Result

    def run_suite(self, suite: unittest.TestSuite, **options: Any) -> Any:
        result: Any = super().run_suite(prepared(suite), **options)
        note_broken(result)
        return result
