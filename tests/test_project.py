"""In the tests of a project nothing leaves the machine: ``project/``, run as by its user."""

import os

import pytest
from conftest import needs_mailers, run_python

from email_hosts.conf import DJANGO_HAS_MAILERS

MAILERS = ["MAILERS", "empty MAILERS"] if DJANGO_HAS_MAILERS else []
DJANGO_RUNNER = ["django", "test", "--pattern=mail_tests.py", "project"]
PYTEST = ["pytest", "--no-header", "-c", os.devnull, "project/mail_tests.py"]


@pytest.mark.parametrize("runner", [DJANGO_RUNNER, PYTEST], ids=["django", "pytest-django"])
@pytest.mark.parametrize("default", ["EMAIL_HOST", "nothing", *MAILERS])
def test_hosts_deliver_to_the_outbox(runner, default):
    environment = {"DJANGO_SETTINGS_MODULE": "project.settings", "DEFAULT": default}
    shown = run_python("-m", *runner, environment=environment)
    assert "Ran 6 tests" in shown or "6 passed" in shown


SPAWN = """
import multiprocessing
import sys
from django.core.management import execute_from_command_line
multiprocessing.set_start_method(sys.argv.pop(1))
execute_from_command_line(sys.argv)
"""
RUNNER = "--testrunner=email_hosts.testing.runner.EmailHostsRunner"
PLUGIN = ["-p", "email_hosts.testing.pytest"]
OF_DJANGO = ["test", "--parallel=2", RUNNER, "project"]
RUNS = {
    "django": ["-m", "django", "test", RUNNER, "project"],
    "fork": ["-c", SPAWN, "fork", *OF_DJANGO],
    "spawn": ["-c", SPAWN, "spawn", *OF_DJANGO],
    "pytest": ["-m", "pytest", *PLUGIN, "-c", os.devnull],
    "xdist": ["-m", "pytest", *PLUGIN, "-c", os.devnull, "-n2", "-pno:randomly"],
}


def run(name: str, tests: str, default: str) -> str:
    """Run tests of the project in one of these ways."""
    is_pytest = RUNS[name][1] == "pytest"
    files = [f"project/{tests}"] if is_pytest else [f"--pattern={tests}"]
    environment = {"DJANGO_SETTINGS_MODULE": "project.settings", "DEFAULT": default}
    return run_python(*RUNS[name], *files, environment=environment)


@needs_mailers
@pytest.mark.parametrize("name", RUNS)
def test_mailers_deliver_to_the_outbox_as_their_hosts_do(name):  # pragma: mailers-only
    shown = run(name, "using_tests.py", "MAILERS")
    assert "Ran 6 tests" in shown or "6 passed" in shown


@pytest.mark.parametrize("name", RUNS)
def test_runner_and_plugin_change_nothing_without_mailers(name):
    shown = run(name, "mail_tests.py", "nothing")
    assert "Ran 6 tests" in shown or "6 passed" in shown


STANDALONE = """
from django.conf import settings
settings.configure(EMAIL_HOSTS={"shop": "smtp://h?_default_from_email=shop@example.com"})
from django.test.utils import override_settings, setup_test_environment
from email_hosts.backends import get_connection
print(type(get_connection("shop")).__name__)
setup_test_environment()
print(type(get_connection("shop")).__name__)
with override_settings(EMAIL_HOSTS={"shop": "smtp://h"}):
    print(type(get_connection("shop")).__name__)
"""


def test_script_without_a_settings_file_is_no_exception():
    shown = run_python("-c", STANDALONE)
    assert shown.split() == ["EmailHostsBackend", "OutboxBackend", "EmailHostsBackend"]
