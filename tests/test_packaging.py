"""What gets installed, and what a settings file may import."""

from importlib import metadata, resources

from conftest import run_python

import email_hosts


def test_version_has_one_source_and_types_are_there():
    assert metadata.version("django-email-hosts") == email_hosts.__version__
    assert resources.files(email_hosts).joinpath("py.typed").is_file()


def test_settings_file_can_use_mailers():
    code = (
        "import sys, email_hosts\n"
        "email_hosts.mailers({'shop': 'smtp://h?_default_from_email=a@example.com'})\n"
        "assert 'django.conf' not in sys.modules"
    )
    run_python("-c", code)
