"""What gets installed, and what a settings file may import."""

from importlib import metadata, resources
from pathlib import Path

from conftest import run_python
from packaging.requirements import Requirement

import email_hosts

ROOT = Path(__file__).parent.parent


def test_version_has_one_source():
    assert metadata.version("django-email-hosts") == email_hosts.__version__


def test_dependencies_are_django_and_speckenv():
    requirements = map(Requirement, metadata.requires("django-email-hosts") or [])
    assert sorted(str(r).lower() for r in requirements if not r.marker) == [
        "django>=4.2",
        "speckenv>=6.3",
    ]


def test_types_are_there_for_the_user():
    assert resources.files(email_hosts).joinpath("py.typed").is_file()


def test_top_level_has_nothing_else():
    built = {"build", "dist", "PKG-INFO"}  # a source distribution has the last one
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert names - built == {
        "CHANGELOG.rst",
        "LICENSE",
        "README.rst",
        "email_hosts",
        "pyproject.toml",
        "tests",
        "tox.ini",
    }


def test_settings_file_can_use_mailers():
    code = (
        "import sys, email_hosts\n"
        "email_hosts.mailers({'shop': 'smtp://h?_default_from_email=a@example.com'})\n"
        "assert 'django.conf' not in sys.modules"
    )
    run_python("-c", code)
