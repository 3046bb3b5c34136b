"""Settings are read whenever a connection is made, and so may change at any time."""

from collections import UserDict
from typing import Any

import pytest
from conftest import needs_mailers
from django.conf import settings as django_settings
from django.core.mail import EmailMessage
from django.test import override_settings

from email_hosts import conf
from email_hosts.backends import get_connection
from email_hosts.exceptions import EmailHostDoesNotExist, InvalidEmailHost
from email_hosts.registry import host_of_sender


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
    settings.EMAIL_HOSTS_STRICT = True
    settings.EMAIL_HOSTS = hosts = mapping(other="smtp://h")
    for name in ("second", "third", "second"):
        hosts["shop"] = f"smtp://{name}"
        assert host() == name
    hosts["shop"] = "smtp://a?timout=5"
    for _ in range(2):
        with pytest.raises(InvalidEmailHost, match="timout"):
            host()
    hosts["shop"] = ""
    with pytest.raises(EmailHostDoesNotExist, match="the host is empty"):
        host()
    del hosts["shop"]
    with pytest.raises(EmailHostDoesNotExist, match="there is no such host"):
        host()


def test_override_counts_while_it_lasts():
    with override_settings(EMAIL_HOSTS={"shop": "smtp://second"}):
        assert host() == "second"
    assert host() == "first"


def test_assignment_counts():
    django_settings.EMAIL_HOSTS = {"shop": "smtp://second"}
    assert host() == "second"


def test_sender_of_another_setting_is_forgotten():
    def key(domain: str) -> str | None:
        return host_of_sender(EmailMessage("Hello", from_email=f"x@{domain}.example"))

    for name, other in ("ab", "ba"):
        dsn = f"smtp://h?_default_from_email=me@{name}.example"
        with override_settings(EMAIL_HOSTS={name: dsn}):
            assert (key(name), key(other)) == (name, None)


@pytest.mark.parametrize("value", [["smtp://h"], "smtp://h", None, 1])
def test_email_hosts_must_be_a_dict(value, settings):
    settings.EMAIL_HOSTS = value
    reason = f"^EMAIL_HOSTS must be a dict of DSN strings, not {type(value).__name__}$"
    with pytest.raises(InvalidEmailHost, match=reason):
        host()


def test_hosts_of_the_file_are_those_below_each_override(settings):
    of_file = conf.email_hosts_of_file()
    assert list(of_file) == ["shop", "club"]
    with override_settings(DEBUG=True):
        settings.EMAIL_HOSTS = {}
        del settings.EMAIL_HOSTS
        assert conf.email_hosts() == {}
        assert conf.email_hosts_of_file() is of_file


@needs_mailers
def test_changes_of_mailers_count(settings):  # pragma: mailers-only
    """In place, of an option in place, and by assignment."""
    backend = "email_hosts.backends.EmailHostsBackend"
    settings.MAILERS = {"default": {"BACKEND": backend, "OPTIONS": {"host": "default"}}}
    assert host() == "first"
    options = {"host": "mailer"}
    settings.MAILERS["shop"] = {"BACKEND": backend, "OPTIONS": options}
    assert host() == "mailer"
    options["host"] = "second"
    assert host() == "second"
    django_settings.MAILERS = {"shop": {"OPTIONS": {"host": "third"}}}
    assert host() == "third"
