"""From a key to a connection: which setting it comes from, and what it carries."""

import logging
import sys
from typing import Any
from unittest import mock

import pytest
from conftest import mailer, needs_mailers
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends import locmem, smtp
from django.test import override_settings

from email_hosts import conf, mailers
from email_hosts.backends import get_connection
from email_hosts.dsn import parse
from email_hosts.exceptions import EmailHostDoesNotExist, InvalidEmailHost
from email_hosts.host import HOST_BACKEND, ROUTING_BACKEND, SMTP_BACKEND
from email_hosts.registry import host_of_sender

DJANGO_SMTP = "django.core.mail.backends.smtp.EmailBackend"
CONSOLE = "django.core.mail.backends.console.EmailBackend"

pytestmark = pytest.mark.filterwarnings(
    "ignore:Django 2028 will not have a default mailer",
    "ignore:The EMAIL_.* setting is deprecated",
)


class Smtp(smtp.EmailBackend):
    """One of a project, which reads the login before it can be set."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.login = (self.username, self.password)


class Fixed(smtp.EmailBackend):
    """Has a login of its own."""

    def __init__(self, host: str, alias: str | None = None) -> None:
        super().__init__(host, 25, "own", "own", alias=alias)


DUMMY = "backend://django.core.mail.backends.dummy.EmailBackend"


@pytest.mark.parametrize(
    ("dsn", "options", "reason"),
    [
        ("file:out", {"file_path": __file__}, "not a directory"),  # in Django's words
        (f"backend://{__name__}.Smtp", {}, "'host'"),
        (f"backend://{__name__}.Smtp?host=", {}, "'host'"),
        (f"backend://{__name__}.Smtp?host=h&use_tls=true", {"use_ssl": True}, "exclusive"),
        pytest.param(DUMMY, {"foo": "bar"}, "Unknown options 'foo'", marks=needs_mailers),
        # It may ignore what is misspelt.
        (DUMMY, {"_redirect_to": "a@b"}, "in Python, its name is 'redirect_to'$"),
        (DUMMY, {"redirct_to": "a@b"}, "did you mean 'redirect_to'?$"),
    ],
)
def test_refusal_of_the_backend_names_the_host_and_no_mailer(dsn, options, reason, connect):
    with pytest.raises(InvalidEmailHost) as caught:
        connect(dsn, **options)
    text = str(caught.value)
    assert text.startswith('get_connection("shop"): ' if options else 'EMAIL_HOSTS["shop"]: ')
    assert text.endswith(reason[:-1]) if reason.endswith("$") else reason in text
    assert "MAILERS" not in text
    assert caught.value.alias == "shop"


def test_package_of_a_provider_that_is_missing_is_named(connect, monkeypatch):
    monkeypatch.setitem(sys.modules, "anymail.backends.mailgun", None)
    with pytest.raises(InvalidEmailHost, match=r"pip install 'django-anymail\[mailgun\]'"):
        connect("anymail+mailgun:")


@override_settings(EMAIL_HOST_USER="global", EMAIL_HOST_PASSWORD="global", EMAIL_PORT=1)
def test_host_is_complete_and_falls_back_to_no_setting(connect):
    connection = connect("smtp://h")
    assert "global" not in str(vars(connection))
    assert (connection.port, connection.use_tls, connection.use_ssl) == (25, False, False)
    assert connect(f"backend://{__name__}.Smtp?host=h").login == ("", "")
    assert connect(f"backend://{__name__}.Fixed?host=h").username == "own"


def test_timeout_is_a_number_of_seconds_and_never_for_ever(connect):
    assert connect("smtp://h").timeout == 60
    with override_settings(EMAIL_TIMEOUT=7):
        assert (connect("smtp://h").timeout, connect("smtp://h?timeout=5").timeout) == (7, 5)
    with override_settings(EMAIL_TIMEOUT=None):
        assert connect("smtp://h").timeout == 60
    refused = pytest.raises(InvalidEmailHost, match=r"^EMAIL_HOSTS.* a number of seconds,")
    with override_settings(EMAIL_TIMEOUT="5"), refused:
        connect("smtp://h")


def test_host_shows_no_option_and_its_mailer_is_the_callers_to_change():
    assert repr(parse("smtp://u:Kx7vQz9@h", "shop")) == '<Host EMAIL_HOSTS["shop"]>'
    hosts = {"shop": "smtp://h?_header-X=1"}
    mailers(hosts)["shop"]["OPTIONS"]["headers"].clear()
    assert mailers(hosts)["shop"]["OPTIONS"]["headers"] == {"X": "1"}


TEN: dict[Any, str] = dict.fromkeys("abcdefghij", "smtp://h")
MISSING, EMPTY = "there is no such host", "the host is empty"


@pytest.mark.parametrize(
    ("hosts", "problem", "known"),
    [
        ({"shop": None, "a": "smtp://h"}, EMPTY, "a"),
        ({**TEN, 11: "smtp://h"}, MISSING, "a, b, c, d, e, f, g, h, i, j and others"),
        # Where there are no hosts, it is no news.
        ({"shop": "", 1: ""}, EMPTY, "none"),
        (None, MISSING, "none"),
    ],
)
def test_unknown_key_gets_the_default_backend(hosts, problem, known, settings, caplog):
    settings.EMAIL_HOSTS = hosts
    if hosts is None:
        del settings.EMAIL_HOSTS
    for _ in range(2):  # logged once
        # The options are not meant for it.
        connection: Any = get_connection("shop", fail_silently=True, password="secret")
        assert type(connection) is locmem.EmailBackend
        assert connection.fail_silently is True
        assert not hasattr(connection, "password")
    text = f'EMAIL_HOSTS["shop"]: {problem}, so its mail goes to the default backend; known'
    record = ("email_hosts", logging.WARNING, f"{text} hosts: {known}")
    assert caplog.record_tuples == ([] if known == "none" else [record])
    settings.EMAIL_HOSTS_STRICT = True
    with pytest.raises(EmailHostDoesNotExist) as caught:
        get_connection("shop")
    assert isinstance(caught.value, KeyError)
    assert str(caught.value) == f'EMAIL_HOSTS["shop"]: {problem}; known hosts: {known}'


def sender_is_of(address: Any) -> str | None:
    """Return the key of the host that sends a message from this address."""
    message = EmailMessage()
    message.from_email = address
    return host_of_sender(message)


def host_of(key: str) -> str:
    """Return where mail of this key goes."""
    connection: Any = get_connection(key)
    return str(connection.host)


def test_change_in_place_counts(settings):
    settings.EMAIL_HOSTS_STRICT = True
    settings.EMAIL_HOSTS = hosts = {"other": "smtp://h"}
    for name in ("first", "second", "first"):
        hosts["shop"] = f"smtp://{name}"
        assert host_of("shop") == host_of("shop") == name
    del hosts["shop"]
    with pytest.raises(EmailHostDoesNotExist, match=MISSING):
        host_of("shop")


@needs_mailers
class TestMailers:  # pragma: mailers-only
    """Django 6.1: a mailer comes before the host of the same key."""

    @pytest.fixture(autouse=True)
    def hosts(self, settings):
        settings.MAILERS = {"default": mailer(DJANGO_SMTP, host="default")}
        settings.EMAIL_HOSTS = {"shop": "smtp://host", "club": "smtp://h"}

    def test_mailer_comes_first(self, settings):
        """After a change, too: in place, of an option in place, and by assignment."""
        settings.MAILERS["shop"] = mailer(DJANGO_SMTP, host="mailer")
        connection: Any = get_connection("shop")
        assert (connection.host, connection.default_from_email) == ("mailer", "")
        assert type(connection.wrapped) is smtp.EmailBackend
        settings.MAILERS["shop"]["OPTIONS"]["host"] = "second"
        assert host_of("shop") == "second"
        settings.MAILERS = {"shop": {"OPTIONS": {"host": "third"}}}
        assert host_of("shop") == "third"

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            (mailer(DJANGO_SMTP, x=1), "Unknown options 'x'"),
            (mailer(SMTP_BACKEND, host="h", timeout="5"), "option 'timeout' must be"),
            (mailer(HOST_BACKEND), "option 'backend' must name the backend to wrap"),
            (mailer(HOST_BACKEND, backend=CONSOLE, x=1), "Unknown options 'x'."),
            ("smtp://Kx7vQz9@h", "must be a dict, and its OPTIONS a dict of names"),
        ],
    )
    def test_refusal_names_the_setting_once(self, given, reason, settings):
        settings.MAILERS["shop"] = given
        ways: list[Any] = [get_connection, mail.mailers.__getitem__]
        for ask in ways[: 2 if "BACKEND" in given else 1]:
            with pytest.raises(ImproperlyConfigured) as caught:
                ask("shop")
            text = str(caught.value).replace("'shop'", '"shop"')
            assert text.startswith('MAILERS["shop"]: ')
            assert reason in text
            assert text.count('MAILERS["') == 1
            assert "Kx7vQz9" not in text

    def test_entry_made_of_a_host_is_that_host(self, settings, monkeypatch):
        """Outside of tests, too: a host without a server takes the options of one with."""
        monkeypatch.setattr(conf, "tests_are_running", lambda: False)
        settings.EMAIL_HOSTS = {"shop": "console:?_reply_to=a@b"}
        settings.MAILERS = mailers(settings.EMAIL_HOSTS)
        connection: Any = get_connection("shop", timeout=5)
        assert connection.reply_to == "a@b"

    @override_settings(MAILERS={"mailer": {}})
    def test_unknown_key_without_a_default_mailer_is_an_error(self):
        with pytest.raises(EmailHostDoesNotExist, match="known hosts: shop, club, mailer"):
            get_connection("unknown")


def test_host_costs_the_same_among_ten_and_hundreds(settings, monkeypatch):
    """Counted, not timed: it is parsed when it is used, and once."""
    dsns = {f"{i}": f"smtp://h?_default_from_email=shop@{i}.example" for i in range(300)}
    settings.EMAIL_HOSTS = {"all": "failover:1,2", **dsns}
    spy = mock.Mock(wraps=parse)
    monkeypatch.setattr("email_hosts.registry.parse", spy)
    for _ in range(3):
        get_connection("all")
        get_connection("2", timeout=5)
        get_connection("unknown")
    assert [call.args[1] for call in spy.call_args_list] == ["all", "1", "2"]
    for i in range(3, 300):
        assert sender_is_of(f"shop@{i}.example") == f"{i}"
    assert spy.call_count == 301


HOSTS = {
    "empty": "",
    "broken": "smpt://h?_default_from_email=first@example.com",
    "first": "smtp://h?_default_from_email=The First <First@Example.com>",
    "again": "smtp://h?_default_from_email=first@example.com",
    "second": "smtp://h?_default_from_email=second@example.com",
    "idn": "smtp://h?_default_from_email=info@bücher.example",
    "console": "console:?_default_from_email=c@console.example",
    # Routing to a member would go past the failover.
    "member": "smtp://h?_default_from_email=m@member.example",
    "inner": "roundrobin:member,first",
    "outer": "failover:inner,second",
    "own": "failover:second?_default_from_email=own@own.example",
    "cycle": "failover:cycle",
    "lost": "failover:missing",
}
SENDERS = [
    ("first", "FIRST@EXAMPLE.COM Somebody<first@example.com> third@example.com"),
    ("second", "second@example.com"),
    ("idn", "info@xn--bcher-kva.example x@BÜCHER.example"),
    ("console", "c@console.example"),
    ("outer", "m@member.example x@member.example"),
    ("own", "own@own.example"),
    (None, f"x@sub.example.com nonsense a@{'x' * 500}"),
    (None, ""),
]


@pytest.mark.parametrize(("key", "senders"), SENDERS)
def test_sender_is_of_the_host_with_the_address_and_then_with_the_domain(key, senders):
    with override_settings(EMAIL_HOSTS=HOSTS):
        for sender in senders.split() or ("", None):
            assert sender_is_of(sender) == key


@pytest.mark.parametrize(
    ("several", "of_domain", "of_member"),
    [
        ("failover:b,c", "a", "all"),
        ("failover:c,a", "all", "in"),
        ("failover:in,c", "a", "all"),
    ],
)
def test_host_of_several_stands_before_the_first_of_its_members(
    several, of_domain, of_member, settings
):
    hosts = {name: f"smtp://h?_default_from_email={name}@example.com" for name in "abc"}
    settings.EMAIL_HOSTS = {**hosts, "in": "failover:b", "all": several}
    assert sender_is_of("other@example.com") == of_domain
    assert sender_is_of("b@example.com") == of_member


# Django 6.1 deprecates this way to a connection.
@pytest.mark.filterwarnings(
    r"ignore:get_connection\(\) is deprecated",
    "ignore:The 'fail_silently' argument is deprecated",
)
class TestOptionsForTheDefaultBackend:
    """Django passes them on, whatever it is."""

    @override_settings(EMAIL_BACKEND=ROUTING_BACKEND)
    def test_are_ignored_if_they_are_unknown(self):
        connection: Any = mail.get_connection(foo="Kx7vQz9", fail_silently=True)
        assert connection.fail_silently is True
        assert "Kx7vQz9" not in str(vars(connection))  # a login is not meant for any host

    @needs_mailers
    @pytest.mark.parametrize("dsn", ["smtp://h", "console:", "failover:a"])
    def test_are_ignored_in_mailers(self, dsn):  # pragma: mailers-only
        unknown = {"foo": "bar"} if dsn == "failover:a" else {}
        with override_settings(MAILERS=mailers({"default": f"{dsn}?_reply_to=a@b"})):
            connection: Any = mail.get_connection(**unknown, fail_silently=True)
        assert (connection.fail_silently, connection.reply_to) == (True, "a@b")
