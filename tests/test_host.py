"""A host: which options go together, and what it is by its backend."""

import sys
from typing import Any

import pytest
from conftest import needs_mailers
from django.core import checks, mail
from django.core.mail import EmailMessage
from django.test import override_settings

from email_hosts import mailers
from email_hosts.backends import (
    EmailHostsBackend,
    FailoverBackend,
    RoutingBackend,
    connection_from_dsn,
    get_connection,
)
from email_hosts.dsn import parse
from email_hosts.exceptions import EmailHostDoesNotExist, InvalidEmailHost
from email_hosts.host import Host

SECRETS = ("Kx7vQz9", "Wj4bYt2")
URL = "https://login.example.com/token"
CLIENT = f"oauth2_token_url={URL}&oauth2_client_id=id"
CREDENTIALS = f"oauth2=client_credentials&{CLIENT}&oauth2_client_secret=Kx7vQz9"
REFRESH = f"oauth2=refresh_token&{CLIENT}&oauth2_refresh_token=Wj4bYt2"
CALLABLE = f"oauth2={__name__}.token"
USER = "submission://me%40example.com@h?"

not_callable = "Kx7vQz9"


def token(username, *, renew):
    """A callable of a project, which nobody calls here."""


class Several(FailoverBackend):
    """A failover of the project."""


class Router(RoutingBackend):
    """A router of the project."""


SEVERAL = f"{__name__}.Several"
ROUTER = f"{__name__}.Router"


TLS = "are mutually exclusive: the first is TLS from the first byte, the second is STARTTLS"


@pytest.mark.parametrize(
    ("dsn", "part"),
    [
        ("smtp://h?ssl&tls", f"options 'ssl' and 'tls' {TLS}"),
        ("smtp://h?ssl_keyfile=k.pem", "option 'ssl_keyfile' needs 'ssl_certfile' beside it"),
        (
            "console:?_allowed_recipients=a@b",
            "option '_allowed_recipients' needs '_redirect_to",
        ),
        (f"submission://me:Kx7vQz9@h?{CALLABLE}", "remove the password"),
        (f"submission://:Kx7vQz9@h?{CALLABLE}", "remove the password"),
        (f"submission://h?{CALLABLE}", "'oauth2' needs a user name; write submission://me"),
        *((f"smtp://me@{host}?{CALLABLE}", "needs TLS; write") for host in ("h", "127.0.0.1")),
        (f"submission://me@h?{CALLABLE}&tls=0", "'oauth2' needs TLS"),
        (f"submission://m%C3%BC@h?{CALLABLE}", "the user name must be printable ASCII"),
        (
            f"{USER}oauth2=client_credentials",
            "needs 'oauth2_token_url' and 'oauth2_client_id'",
        ),
        (f"{USER}oauth2=client_credentials&{CLIENT}", "needs 'oauth2_client_secret' beside"),
        (f"{USER}oauth2=refresh_token&{CLIENT}", "needs 'oauth2_refresh_token' beside it"),
        (
            f"{USER}{CREDENTIALS}&oauth2_refresh_token=x",
            "is only for oauth2=refresh_token",
        ),
        (
            f"{USER}{CALLABLE}&oauth2_client_id=Wj4bYt2",
            "'oauth2_client_id' is only for oauth2=client_credentials and oauth2=refr",
        ),
        (
            "submission://me:Kx7vQz9@h?oauth2_client_id=x",
            "option 'oauth2_client_id' needs 'oauth2' beside it",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(dsn, part):
    with pytest.raises(InvalidEmailHost) as caught:
        parse(dsn)
    assert part in str(caught.value)
    assert not any(secret in str(caught.value) for secret in SECRETS)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"use_tls": True, "use_ssl": True}, f"options 'use_ssl' and 'use_tls' {TLS}"),
        ({"host": ""}, "option 'host' is missing"),
        (
            {"allowed_recipients": ["a.b"]},
            "option 'allowed_recipients' needs 'redirect_to' be",
        ),
        ({"password": "Kx7vQz9"}, "remove the password"),
        ({"username": ""}, "needs a user name"),
        ({"use_tls": False}, "needs TLS"),
        ({"oauth2": None, "oauth2_scope": "x"}, "'oauth2_scope' needs 'oauth2' beside it"),
        ({"oauth2_scope": "x"}, "is only for oauth2=client_credentials"),
        ({"oauth2": "no.such.token"}, "'no.such.token' cannot be imported: No module named"),
        ({"oauth2": f"{__name__}.nothing"}, "cannot be imported: Module"),
        ({"oauth2": f"{__name__}.not_callable"}, "not_callable' is not callable"),
    ],
)
def test_options_of_a_call_have_to_go_together_with_those_of_the_host(options, part, settings):
    settings.EMAIL_HOSTS = {"shop": "submission://h"}
    with pytest.raises(InvalidEmailHost) as caught:
        get_connection("shop", **{"username": "me", "oauth2": token, **options})
    assert str(caught.value).startswith('get_connection("shop"): ')
    assert part in str(caught.value)
    assert "Kx7vQz9" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "url",
    [
        *("https://login.microsoftonline.com/tenant/oauth2/v2.0/token", f"{URL}?a=b"),
        *("https://[2001:db8::1]:8443/token", "http://127.0.0.1:8000/token"),
        *("http://[::1]:8000/token", "http://localhost/token"),
    ],
)
def test_secret_goes_to_an_https_url_or_to_this_machine(url):
    options = {**parse(USER + CREDENTIALS).options, "oauth2_token_url": url}
    assert EmailHostsBackend(**options).oauth2_token_url == url  # type: ignore[attr-defined]


@pytest.mark.parametrize("query", [CALLABLE, CREDENTIALS, REFRESH])
def test_strangers_dsn_gets_no_token(query):
    with pytest.raises(InvalidEmailHost, match="'oauth2' is not allowed in a DSN from elsewh"):
        connection_from_dsn(USER + query)
    given: Any = {"username": "me", "oauth2": token}  # the caller may
    assert connection_from_dsn("submission://h", **given)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("no.such.token", "cannot be imported: No module named 'no'"),
        (f"{__name__}.nothing", "cannot be imported: Module"),
        (f"{__name__}.not_callable", "is not callable"),
    ],
)
def test_path_that_is_wrong_is_a_message_of_check(path, problem, settings):
    settings.EMAIL_HOSTS = {"shop": f"{USER}oauth2={path}", "other": USER + CREDENTIALS}
    (message,) = checks.run_checks(tags=["email_hosts"])
    assert message.id == "email_hosts.E002"
    assert f"\"shop\"]: option 'oauth2': '{path}' {problem}" in message.msg


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
    settings.EMAIL_HOSTS_STRICT = True
    with pytest.raises(InvalidEmailHost, match=f"backend '{path}' .*{reason}") as caught:
        get_connection("x")
    assert caught.value.alias == "x"


def test_package_of_a_provider_that_is_missing_is_named(monkeypatch, settings):
    monkeypatch.setitem(sys.modules, "anymail.backends.mailgun", None)
    settings.EMAIL_HOSTS = {"x": "anymail+mailgun:"}
    with pytest.raises(InvalidEmailHost, match=r"pip install 'django-anymail\[mailgun\]'"):
        get_connection("x")


@needs_mailers
@pytest.mark.parametrize("key", ["shop", "other"])
@pytest.mark.parametrize("mailer", ["smtp://Kx7vQz9@h", ["smtp://h"]])
def test_mailer_must_be_a_dict(mailer, key, settings):  # pragma: mailers-only
    settings.MAILERS = {key: mailer}
    with pytest.raises(InvalidEmailHost, match=r"^each entry of MAILERS must be a dict"):
        get_connection(key)


class TestSubclass:
    """A subclass counts as what it inherits from, and never recurses."""

    @pytest.fixture(autouse=True)
    def hosts(self, settings):
        settings.EMAIL_HOSTS = {
            "a": f"backend://{SEVERAL}?hosts=b",
            "b": f"backend://{SEVERAL}?hosts=a",
            "router": f"backend://{ROUTER}",
        }

    def test_that_leads_back_to_itself_is_refused(self):
        with pytest.raises(InvalidEmailHost, match="in a cycle: a -> b -> a"):
            get_connection("a")

    @override_settings(EMAIL_HOSTS_ROUTER=lambda message: "router")
    def test_that_routes_is_no_host_of_the_router(self):
        message = EmailMessage("Hello", "World", to=["a@example.net"])
        with pytest.raises(InvalidEmailHost, match="it asks the router"):
            Router().send_messages([message])

    def test_is_checked(self):
        found = checks.run_checks(tags=["email_hosts"])
        assert [error.id for error in found] == 3 * ["email_hosts.E004"]

    @needs_mailers
    @override_settings(MAILERS={"default": {"BACKEND": ROUTER}})
    def test_as_default_mailer_is_no_host(self):  # pragma: mailers-only
        with pytest.raises(EmailHostDoesNotExist, match="there is no such host"):
            mail.mailers["default"].send_messages([EmailMessage(to=["a@example.net"])])
