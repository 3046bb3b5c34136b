"""What gets installed, and what a settings file may import."""

from importlib import metadata, resources

from conftest import run_python
from packaging.requirements import Requirement

import email_hosts


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


def test_settings_file_can_use_mailers():
    code = (
        "import sys, email_hosts\n"
        "email_hosts.mailers({'shop': 'smtp://h?_default_from_email=a@example.com'})\n"
        "assert 'django.conf' not in sys.modules"
    )
    run_python("-c", code)
