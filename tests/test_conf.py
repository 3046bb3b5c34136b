"""Settings are read whenever a connection is made, and so may change at any time."""

from collections import UserDict
from typing import Any

import pytest
from conftest import needs_mailers
from django.conf import settings as django_settings
from django.test import override_settings

from email_hosts import conf
from email_hosts.backends import get_connection
from email_hosts.exceptions import InvalidEmailHost

SMTP = "django.core.mail.backends.smtp.EmailBackend"


def host():
    """Return where mail of the host ``shop`` goes."""
    connection: Any = get_connection("shop")
    return connection.host


@pytest.fixture(autouse=True)
def first_host(settings):
    settings.EMAIL_HOSTS = {"shop": "smtp://first"}
    assert host() == host() == "first"


@pytest.mark.parametrize("mapping", [dict, UserDict])
def test_change_in_place_counts(mapping, settings):
    settings.EMAIL_HOSTS = hosts = mapping(other="smtp://h")
    for name in ("second", "third", "second"):
        hosts["shop"] = f"smtp://{name}"
        assert host() == name


def test_override_counts_while_it_lasts():
    with override_settings(EMAIL_HOSTS={"shop": "smtp://second"}):
        assert host() == "second"
    assert host() == "first"


def test_assignment_counts():
    django_settings.EMAIL_HOSTS = {"shop": "smtp://second"}
    assert host() == "second"


@pytest.mark.parametrize("value", [["smtp://h"], "smtp://h", None, 1])
def test_email_hosts_must_be_a_dict(value, settings):
    settings.EMAIL_HOSTS = value
    with pytest.raises(InvalidEmailHost) as caught:
        host()
    assert str(caught.value) == (
        f"EMAIL_HOSTS must be a dict of DSN strings, not {type(value).__name__}"
    )


def test_hosts_of_the_file_are_those_below_each_override(settings):
    of_file = conf.email_hosts_of_file()
    assert list(of_file) == ["shop", "club"]
    with override_settings(DEBUG=True):
        settings.EMAIL_HOSTS = {}
        del settings.EMAIL_HOSTS
        assert conf.email_hosts() == {}
        assert conf.email_hosts_of_file() is of_file


@needs_mailers
class TestMailers:  # pragma: mailers-only
    """Django 6.1."""

    @pytest.fixture(autouse=True)
    def mailers(self, settings):
        settings.MAILERS = {"default": {"BACKEND": SMTP, "OPTIONS": {"host": "default"}}}
        assert host() == "first"
        return settings.MAILERS

    def test_change_in_place_counts(self, mailers):
        mailers["shop"] = {"BACKEND": SMTP, "OPTIONS": {"host": "mailer"}}
        assert host() == "mailer"

    def test_change_of_an_option_in_place_counts(self, mailers):
        options = {"host": "mailer"}
        mailers["shop"] = {
            "BACKEND": "email_hosts.backends.EmailHostsBackend",
            "OPTIONS": options,
        }
        assert host() == "mailer"
        options["host"] = "second"
        assert host() == "second"

    def test_assignment_counts(self, mailers):
        django_settings.MAILERS = {**mailers, "shop": {"OPTIONS": {"host": "mailer"}}}
        assert host() == "mailer"
