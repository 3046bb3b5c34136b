"""A host: what it is by its backend, and what is wrong with a backend."""

import sys

import pytest
from conftest import needs_mailers
from django.core import checks, mail
from django.core.mail import EmailMessage
from django.test import override_settings

from email_hosts import mailers
from email_hosts.backends import (
    FailoverBackend,
    RoutingBackend,
    get_connection,
)
from email_hosts.dsn import parse
from email_hosts.exceptions import EmailHostDoesNotExist, InvalidEmailHost
from email_hosts.host import Host


class Several(FailoverBackend):
    """A failover of the project."""


class Router(RoutingBackend):
    """A router of the project."""


SEVERAL = f"{__name__}.Several"
ROUTER = f"{__name__}.Router"


@pytest.mark.parametrize(
    ("dsn", "members"),
    [
        ("failover:a,b?_server_email=c@example.com", ("a", "b")),
        (f"backend://{SEVERAL}?hosts=a,b&_server_email=c@example.com", ("a", "b")),
        (f"backend://{SEVERAL}", ()),
        ("backend://not.there?hosts=a,b", ()),
        ("backend://email_hosts.hosts.registry?hosts=a,b", ()),  # no class
        ("console:?_server_email=c@example.com", ()),
    ],
)
def test_members_are_those_of_a_failover_and_of_what_inherits_from_it(dsn, members):
    assert parse(dsn).members == members


def test_path_of_no_callable_is_a_message_of_check(settings):
    settings.EMAIL_HOSTS = {"shop": "submission://me@h?oauth2=no.such"}
    (message,) = checks.run_checks(tags=["email_hosts"])
    assert message.id == "email_hosts.E002"
    assert "\"shop\"]: option 'oauth2': 'no.such' " in message.msg


def test_name_says_where_it_stands_and_repr_shows_no_option():
    host = parse("smtp://u:Kx7vQz9@h", "shop")
    assert (host.name, repr(host)) == ('EMAIL_HOSTS["shop"]', '<Host EMAIL_HOSTS["shop"]>')
    assert Host("a", "x.y", {}, setting="MAILERS").name == 'MAILERS["a"]'


@pytest.mark.parametrize("dsn", ["smtp://h?_header-X=1", "failover:a", "backend://a.b.C?x={}"])
def test_its_mailer_is_the_callers_to_change(dsn):
    changed, expected = mailers({"a": dsn})["a"], repr(mailers({"a": dsn}))
    for value in changed["OPTIONS"].values():
        if isinstance(value, dict):
            value["changed"] = True
    changed["OPTIONS"].clear()
    assert repr(mailers({"a": dsn})) == expected


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no.such.Backend", "cannot be imported: No module named 'no'"),
        ("anymail.backends.nobody.EmailBackend", "cannot be imported: .*nobody'$"),
        ("anymail.backends.mailgum.EmailBackend", r"did you mean 'anymail\+mailgun'"),
        ("anymail.backends.postmark.Nothing", "cannot be imported"),
    ],
)
def test_backend_that_cannot_be_imported_is_named(path, reason, settings):
    settings.EMAIL_HOSTS = {"x": f"backend://{path}"}
    with pytest.raises(InvalidEmailHost, match=f"backend '{path}' .*{reason}") as caught:
        get_connection("x")
    assert caught.value.alias == "x"


def test_package_of_a_provider_that_is_missing_is_named(monkeypatch, settings):
    monkeypatch.setitem(sys.modules, "anymail.backends.mailgun", None)
    settings.EMAIL_HOSTS = {"x": "anymail+mailgun:"}
    with pytest.raises(InvalidEmailHost, match=r"pip install 'django-anymail\[mailgun\]'"):
        get_connection("x")


@needs_mailers
@pytest.mark.parametrize(
    ("key", "mailer", "reason"),
    [
        ("shop", "smtp://Kx7vQz9@h", "each entry of MAILERS must be a dict"),
        ("other", ["smtp://h"], "each entry of MAILERS must be a dict"),
        ("shop", {"OPTIONS": None}, "must be a dict, and so must its OPTIONS"),
        ("shop", {"OPTIONS": "host=h"}, "must be a dict, and so must its OPTIONS"),
    ],
)
def test_mailer_and_its_options_must_be_dicts(  # pragma: mailers-only
    key, mailer, reason, settings
):
    settings.MAILERS = {key: mailer}
    with pytest.raises(InvalidEmailHost, match=reason) as caught:
        get_connection(key)
    assert str(caught.value).startswith(f'MAILERS["{key}"]: ')
    assert "Kx7vQz9" not in str(caught.value)


class TestSubclass:
    """A subclass counts as what it inherits from, and never recurses."""

    @pytest.fixture(autouse=True)
    def hosts(self, settings):
        settings.EMAIL_HOSTS = {
            "a": f"backend://{SEVERAL}?hosts=b",
            "b": f"backend://{SEVERAL}?hosts=a",
            "router": f"backend://{ROUTER}",
        }

    @override_settings(EMAIL_HOSTS_ROUTER=lambda message: "router")
    def test_that_routes_is_no_host_of_the_router(self, message):
        with pytest.raises(InvalidEmailHost, match="it asks the router"):
            Router().send_messages([message])

    @needs_mailers
    @override_settings(MAILERS={"default": {"BACKEND": ROUTER}})
    def test_as_default_mailer_is_no_host(self):  # pragma: mailers-only
        with pytest.raises(EmailHostDoesNotExist, match="there is no such host"):
            mail.mailers["default"].send_messages([EmailMessage(to=["a@example.net"])])
