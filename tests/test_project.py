"""In the tests of a project nothing leaves the machine: ``project/``, run as by its user."""

import os
import re

import pytest
from conftest import run_python

from email_hosts.conf import DJANGO_HAS_MAILERS

WITH_MAILERS = "MAILERS" if DJANGO_HAS_MAILERS else "EMAIL_HOST"
DJANGO = ["-m", "django", "test"]
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


def number_of_tests(command, default, *files):
    """Run tests of the project, which must all pass. Return how many there were."""
    if "pytest" in command:
        chosen = [f"project/{file}" for file in files]
    else:
        chosen = [f"--pattern={files[0] if len(files) == 1 else '*_tests.py'}", "project"]
    environment = {
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "DEFAULT": default,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "",
    }
    shown = run_python(*command, *chosen, environment=environment)
    (number,) = re.findall(r"(?:Ran (\d+) tests|=+ (\d+) passed)", shown)
    return int("".join(number))


@pytest.mark.parametrize(
    ("default", "command"),
    [(WITH_MAILERS, DJANGO), ("nothing", PYTEST), ("empty MAILERS", [*PYTEST, *PLUGIN])],
    ids=["django", "pytest", "our plugin"],
)
def test_hosts_deliver_to_the_outbox(default, command):
    assert number_of_tests(command, default, "mail_tests.py") == 3


@pytest.mark.parametrize(
    "command",
    [
        ["-c", PARALLEL, "fork", "test", OURS],
        ["-c", PARALLEL, "spawn", "test", OURS],
        [*PYTEST, *PLUGIN, "-p", "xdist", "-n2"],
    ],
    ids=["fork", "spawn", "xdist"],
)
def test_mailers_do_too_in_parallel(command):
    files = ["mail_tests.py", "using_tests.py"][: 1 + DJANGO_HAS_MAILERS]
    assert number_of_tests(command, WITH_MAILERS, *files) == 3 * len(files)


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
