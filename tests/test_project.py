"""In the tests of a project nothing leaves the machine: ``project/``, run as by its user."""

import os

import pytest
from conftest import run_python

from email_hosts.conf import DJANGO_HAS_MAILERS

OURS = "--testrunner=email_hosts.testing.runner.EmailHostsRunner"
PARALLEL = """
import multiprocessing
import sys
from django.core.management import execute_from_command_line
multiprocessing.set_start_method(sys.argv.pop(1))
execute_from_command_line([*sys.argv, "--parallel=2"])
"""
# The plugins of others cost time, and are not what is tested.
PYTEST = ["-m", "pytest", "-c", os.devnull, "-p", "pytest_django.plugin"]
PLUGIN = ["-p", "email_hosts.testing.pytest"]
IN_PARALLEL = "4 passed" if DJANGO_HAS_MAILERS else "3 passed, 1 skipped"
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}


@pytest.mark.parametrize(
    ("default", "command", "result"),
    [
        ("MAILERS", ["-m", "django", "test", "-k", "MailTest"], "Found 3 test(s)"),
        ("EMAIL_HOST", ["-m", "django", "test", OURS], "Found 4 test(s)"),
        ("nothing", PYTEST, "3 passed, 1 skipped"),
        ("empty MAILERS", [*PYTEST, *PLUGIN], "3 passed, 1 skipped"),
        ("MAILERS", ["-c", PARALLEL, "fork", "test", OURS], "Found 4 test(s)"),
        ("MAILERS", ["-c", PARALLEL, "spawn", "test", OURS], "Found 4 test(s)"),
        ("MAILERS", [*PYTEST, *PLUGIN, "-p", "xdist", "-n2"], IN_PARALLEL),
    ],
    ids=["django", "our runner", "pytest", "our plugin", "fork", "spawn", "xdist"],
)
def test_hosts_and_mailers_deliver_to_the_outbox(default, command, result):
    files = ["project/mail_tests.py"]
    if "pytest" not in command:
        files = ["--pattern=mail_tests.py", "project"]
    project = {"DJANGO_SETTINGS_MODULE": "project.settings", "DEFAULT": default}
    shown = run_python(*command, *files, environment={**ALONE, **project})
    assert result in shown
    has_mailers = default == "MAILERS" and DJANGO_HAS_MAILERS
    assert not (has_mailers and "skipped" in shown)


STANDALONE = """
from django.conf import settings
settings.configure(EMAIL_HOSTS={"shop": "smtp://h"})
from django.test.utils import setup_test_environment
from email_hosts.backends import get_connection
setup_test_environment()
print(type(get_connection("shop")).__name__)
"""


def test_script_without_a_settings_file_is_no_exception():
    assert run_python("-c", STANDALONE) == "OutboxBackend\n"


def test_plugin_does_nothing_without_settings(tmp_path):
    path = tmp_path / "test_nothing.py"
    path.write_text("def test_nothing():\n    pass\n")
    shown = run_python(*PYTEST, *PLUGIN, str(path), environment=ALONE)
    assert "1 passed" in shown
