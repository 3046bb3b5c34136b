"""From a key to a connection: which setting it comes from, and what it carries."""

import logging
from typing import Any
from unittest import mock

import pytest
from conftest import needs_mailers, run_python
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends import console, locmem, smtp
from django.core.mail.backends.base import BaseEmailBackend
from django.test import override_settings

from email_hosts import mailers
from email_hosts.backends import (
    FailoverBackend,
    HostBackend,
    get_connection,
)
from email_hosts.dsn import parse
from email_hosts.exceptions import EmailHostDoesNotExist, InvalidEmailHost
from email_hosts.host import FAILOVER_BACKEND, HOST_BACKEND, ROUTING_BACKEND, SMTP_BACKEND
from email_hosts.registry import host_of_sender

DJANGO_SMTP = "django.core.mail.backends.smtp.EmailBackend"
CONSOLE = "django.core.mail.backends.console.EmailBackend"
SENDERS = "_default_from_email=a@example.com&_server_email=b@example.com"

pytestmark = [
    pytest.mark.filterwarnings("ignore:Django 2028 will not have a default mailer"),
    pytest.mark.filterwarnings("ignore:The EMAIL_.* setting is deprecated"),
]


class Smtp(smtp.EmailBackend):
    """One of a project."""


class Several(FailoverBackend):
    """Another one."""


class Options(BaseEmailBackend):
    """Takes any option, and keeps it."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options


def connect(dsn: object, **options: Any) -> Any:
    """Return a connection to the host ``shop`` with this DSN."""
    with override_settings(EMAIL_HOSTS={"shop": dsn}):
        return get_connection("shop", **options)


@pytest.mark.parametrize(
    ("dsn", "backend"), [("smtp://h?", smtp.EmailBackend), ("console://?", HostBackend)]
)
@pytest.mark.parametrize(
    ("query", "senders"), [("", ("", "")), (SENDERS, ("a@example.com", "b@example.com"))]
)
def test_connection_carries_key_and_senders(dsn, backend, query, senders):
    connection = connect(dsn + query)
    assert isinstance(connection, backend)
    assert connection.alias == "shop"
    assert (connection.default_from_email, connection.server_email) == senders


def test_settings_may_not_be_loaded_yet():
    """In a script that does without ``django.setup()``."""
    code = "from email_hosts.backends import get_connection; get_connection('shop')"
    run_python("-c", code)


@override_settings(EMAIL_HOSTS={"shop": "submission://user:pw@h?timeout=5"})
def test_connection_is_new_closed_and_has_its_own_options():
    connection: Any = get_connection("shop", timeout=1, username="other")
    untouched: Any = get_connection("shop")
    assert connection is not untouched
    assert connection.connection is untouched.connection is None
    assert (connection.timeout, connection.username, connection.password) == (1, "other", "pw")
    assert (untouched.timeout, untouched.username) == (5, "user")


@pytest.mark.parametrize(
    ("dsn", "options", "reason"),
    [
        ("file:out", {"file_path": __file__}, "not a directory"),  # in Django's words
        (f"backend://{__name__}.Smtp", {}, "host"),
        (f"backend://{__name__}.Smtp?host=h&use_tls=true", {"use_ssl": True}, "exclusive"),
        (f"backend://{__name__}.Several?hosts=a&retyr=5", {}, "unknown option 'retyr'"),
        pytest.param("dummy:", {"foo": "bar"}, "Unknown options 'foo'", marks=needs_mailers),
        ("backend://email_hosts.backends.RoutingBackend", {"foo": 1}, "unknown option 'foo'"),
    ],
)
def test_refusal_of_the_backend_names_the_host_and_no_mailer(dsn, options, reason):
    with pytest.raises(InvalidEmailHost) as caught:
        connect(dsn, **options)
    name = 'get_connection("shop")' if options else 'EMAIL_HOSTS["shop"]'
    assert str(caught.value).startswith(f"{name}: ")
    assert reason in str(caught.value)
    assert "MAILERS" not in str(caught.value)


@override_settings(
    EMAIL_PORT=1,
    EMAIL_HOST_USER="global",
    EMAIL_HOST_PASSWORD="global",
    EMAIL_USE_TLS=True,
    EMAIL_SSL_CERTFILE="global.pem",
)
def test_host_is_complete_and_falls_back_to_no_setting():
    connection = connect("smtp://h")
    assert "global" not in str(vars(connection))
    assert (connection.port, connection.use_tls, connection.use_ssl) == (25, False, False)


@pytest.mark.parametrize(
    ("dsn", "settings", "timeout"),
    [
        ("smtp://h", {}, 60),
        ("smtp://h", {"EMAIL_TIMEOUT": None}, 60),
        ("smtp://h", {"EMAIL_TIMEOUT": 7}, 7),
        ("smtp://h?timeout=5", {"EMAIL_TIMEOUT": 7}, 5),
    ],
)
def test_timeout_is_never_for_ever(dsn, settings, timeout):
    with override_settings(**settings):
        assert connect(dsn).timeout == timeout


@pytest.mark.parametrize(
    ("hosts", "way"),
    [
        ({"a": "failover:a"}, "a -> a"),
        ({"a": "failover:b", "b": "failover:c", "c": "roundrobin:a"}, "a -> b -> c -> a"),
        ({"a": f"backend://{__name__}.Several?hosts=h,a", "h": "smtp://h"}, "a -> a"),
        ({"a": "failover:b,c", "b": "failover:c", "c": "failover:a"}, "a -> b -> c -> a"),
        ({"a": "failover:b,c", "b": "smtp://h", "c": "failover:b,a"}, "a -> c -> a"),
        # Below it: what it needs is not there, either.
        ({"a": "failover:b", "b": "failover:c", "c": "failover:b"}, "b -> c -> b"),
    ],
)
def test_hosts_in_a_cycle_are_refused(hosts, way):
    with override_settings(EMAIL_HOSTS=hosts), pytest.raises(InvalidEmailHost) as caught:
        get_connection("a", fail_silently=True, retry=5)
    assert str(caught.value).startswith('EMAIL_HOSTS["a"]: ')
    assert str(caught.value).endswith(f"in a cycle: {way}")


class TestUnknownKey:
    """A key without a host gets the default backend."""

    def test_gets_the_very_default_backend(self):
        connection: Any = get_connection("shpo", fail_silently=True)
        assert type(connection) is locmem.EmailBackend
        assert connection.fail_silently is True
        assert getattr(connection, "alias", None) != "shpo"

    def test_is_logged_once(self, caplog):
        for key in ("shpo", "shpo", "other"):
            get_connection(key)
        assert {(each.name, each.levelno) for each in caplog.records} == {
            ("email_hosts", logging.WARNING)
        }
        assert [text.partition(": ")[0] for text in caplog.messages] == [
            'EMAIL_HOSTS["shpo"]',
            'EMAIL_HOSTS["other"]',
        ]
        assert "there is no such host" in caplog.messages[0]
        assert caplog.messages[0].endswith("known hosts: shop, club")

    @pytest.mark.parametrize("empty", ["", None])
    def test_is_one_with_an_empty_host(self, empty, settings, caplog):
        settings.EMAIL_HOSTS = {"shop": empty, "club": "smtp://h"}
        assert isinstance(get_connection("shop"), locmem.EmailBackend)
        (text,) = caplog.messages
        assert text.startswith('EMAIL_HOSTS["shop"]: the host is empty')
        assert text.endswith("known hosts: club")

    @pytest.mark.parametrize("hosts", [{}, {"shop": ""}, {1: ""}, None])
    def test_is_no_news_where_there_are_no_hosts(self, hosts, settings, caplog):
        settings.EMAIL_HOSTS = hosts
        if hosts is None:
            del settings.EMAIL_HOSTS
        assert isinstance(get_connection("shop"), locmem.EmailBackend)
        assert not caplog.records

    @override_settings(EMAIL_HOSTS={1: "smtp://h"})
    def test_is_no_worse_with_a_key_that_is_not_a_string(self):
        assert isinstance(get_connection("shop"), locmem.EmailBackend)

    @pytest.mark.parametrize(
        ("key", "reason"),
        [
            ("smtp://Kx7vQz9:Wj4bYt2@h", "pass it to connection_from_dsn"),
            ("Kx7vQz9:Wj4bYt2@h", "pass it to connection_from_dsn"),
            ("anymail+mailgun:?api_key=Kx7vQz9", "pass it to connection_from_dsn"),
            (None, "must be a string, not NoneType"),
            (b"shop", "must be a string, not bytes"),
        ],
    )
    def test_that_can_be_none_is_an_error_that_does_not_repeat_it(self, key, reason, caplog):
        with pytest.raises(InvalidEmailHost, match=reason) as caught:
            get_connection(key)
        assert "Kx7" not in str(caught.value) + caplog.text

    @override_settings(EMAIL_BACKEND=f"{__name__}.Options")
    def test_does_not_get_the_options_of_the_missing_host(self):
        connection: Any = get_connection("shpo", password="secret")
        assert isinstance(connection, Options)
        assert "password" not in connection.options

    @pytest.mark.parametrize(
        ("hosts", "problem"),
        [
            ({"club": "smtp://h"}, "there is no such host; known hosts: club"),
            ({"shop": ""}, "the host is empty; known hosts: none"),
        ],
    )
    def test_is_an_error_if_the_project_wants_that(self, hosts, problem):
        with (
            override_settings(EMAIL_HOSTS=hosts, EMAIL_HOSTS_STRICT=True),
            pytest.raises(EmailHostDoesNotExist) as caught,
        ):
            get_connection("shop")
        assert isinstance(caught.value, KeyError)
        assert str(caught.value) == f'EMAIL_HOSTS["shop"]: {problem}'


def smtp_mailer(**options: Any) -> dict[str, Any]:
    """Return a mailer of Django's SMTP backend."""
    return {"BACKEND": DJANGO_SMTP, "OPTIONS": options}


@needs_mailers
class TestMailers:  # pragma: mailers-only
    """Django 6.1: a mailer comes before the host of the same key."""

    @pytest.fixture(autouse=True)
    def hosts(self, settings):
        settings.MAILERS = {"default": smtp_mailer(host="default")}
        settings.EMAIL_HOSTS = {"shop": "smtp://host", "club": "smtp://h"}

    @pytest.mark.parametrize(
        "mailer", [smtp_mailer(host="mailer", timeout=3), {"OPTIONS": {"host": "mailer"}}]
    )
    def test_mailer_comes_first(self, mailer, settings):
        settings.MAILERS["shop"] = mailer
        connection: Any = get_connection("shop")
        assert (connection.host, connection.alias) == ("mailer", "shop")
        assert connection.timeout == mailer["OPTIONS"].get("timeout", 60)
        assert (connection.default_from_email, connection.server_email) == ("", "")
        assert type(connection.wrapped) is smtp.EmailBackend

    @pytest.mark.parametrize("ask", [lambda key: mail.mailers[key], get_connection])
    @pytest.mark.parametrize(
        ("backend", "options", "reason"),
        [
            (DJANGO_SMTP, {}, "OPTIONS must define 'host'"),
            (DJANGO_SMTP, {"x": 1}, "Unknown options 'x'"),
            (SMTP_BACKEND, {"host": "h", "timeout": "5"}, "option 'timeout' must be"),
            (FAILOVER_BACKEND, {}, "option 'hosts' must name hosts"),
            (ROUTING_BACKEND, {"router": "x"}, "unknown option 'router'"),
            (HOST_BACKEND, {}, "option 'backend' must name the backend to wrap"),
            (HOST_BACKEND, {"backend": "no.such.Backend"}, "backend 'no.such.Backend' cannot"),
            (HOST_BACKEND, {"backend": CONSOLE, "x": 1}, "Unknown options 'x'."),
            (HOST_BACKEND, {"backend": CONSOLE, "reply_to": 5}, "option 'reply_to' must be"),
        ],
    )
    def test_refusal_names_the_setting_once(self, backend, options, reason, ask, settings):
        settings.EMAIL_HOSTS = {}
        settings.MAILERS["shop"] = {"BACKEND": backend, "OPTIONS": options}
        with pytest.raises(ImproperlyConfigured) as caught:
            ask("shop")
        text = str(caught.value).replace("'shop'", '"shop"')
        assert text.startswith('MAILERS["shop"]: ')
        assert reason in text
        assert text.count("MAILERS") == 1

    def test_options_of_any_host_surround_any_backend(self, settings):
        options = {"backend": CONSOLE, "reply_to": "a@b", "headers": {"X": "1"}}
        settings.MAILERS["shop"] = {"BACKEND": HOST_BACKEND, "OPTIONS": options}
        connection: Any = mail.mailers["shop"]
        assert (connection.reply_to, connection.headers) == ("a@b", {"X": "1"})
        assert type(connection.wrapped) is console.EmailBackend

    @pytest.mark.parametrize(("key", "host"), [("shop", "host"), ("unknown", "default")])
    def test_key_without_a_mailer_gets_its_host_or_the_default_mailer(self, key, host):
        connection: Any = get_connection(key)
        assert connection.host == host

    @override_settings(MAILERS={"mailer": {}})
    def test_unknown_key_without_a_default_mailer_is_an_error(self):
        with pytest.raises(EmailHostDoesNotExist, match="known hosts: shop, club, mailer"):
            get_connection("unknown")

    def test_cycle_may_lead_through_mailers(self, settings):
        settings.MAILERS["a"] = {"BACKEND": FAILOVER_BACKEND, "OPTIONS": {"hosts": ["b"]}}
        settings.EMAIL_HOSTS["b"] = "failover:a"
        with pytest.raises(InvalidEmailHost, match="cycle: a -> b -> a"):
            get_connection("a")

    @pytest.mark.parametrize("dsn", ["smtp://h", f"console:?{SENDERS}"])
    @pytest.mark.filterwarnings("ignore:The 'fail_silently' argument is deprecated")
    @pytest.mark.filterwarnings("ignore:get_connection\\(\\) is deprecated")
    def test_default_mailer_takes_djangos_deprecated_arguments(self, dsn):
        with override_settings(MAILERS=mailers({"default": dsn})):
            connection: Any = mail.get_connection(fail_silently=True)
        assert connection.fail_silently is True


def sender_is_of(address: object) -> str | None:
    """Return the key of the host that sends a message from this address."""
    message = EmailMessage("Hello", "World", "x@y.example", ["someone@example.net"])
    message.from_email = address  # type: ignore[assignment]
    return host_of_sender(message)


class TestManyHosts:
    """A host costs the same among ten and among hundreds: counted, not timed."""

    NUMBER = 300

    @pytest.fixture(autouse=True)
    def parses(self, settings, monkeypatch):
        """Each key whose DSN is parsed."""
        settings.EMAIL_HOSTS = {
            f"{i}": f"submission://u:p{i}@smtp.example.com?_default_from_email=shop@{i}.example"
            for i in range(self.NUMBER)
        } | {"all": "failover:1,2"}
        spy = mock.Mock(wraps=parse)
        monkeypatch.setattr("email_hosts.registry.parse", spy)
        return lambda: [call.args[1] for call in spy.call_args_list]

    def test_those_that_are_used_are_parsed_once(self, parses):
        for _ in range(3):
            get_connection("all")
            get_connection("2", timeout=5)
            get_connection("unknown")
        assert parses() == ["all", "1", "2"]

    def test_all_are_parsed_once_to_find_senders(self, parses):
        for i in range(self.NUMBER):
            assert sender_is_of(f"shop@{i}.example") in (f"{i}", "all")
            assert sender_is_of(f"shop@nobody-{i}.example") is None
        assert len(parses()) == self.NUMBER + 1

    @pytest.mark.parametrize("is_strict", [True, False])
    def test_unknown_key_names_ten_of_them(self, is_strict, settings, caplog):
        settings.EMAIL_HOSTS_STRICT = is_strict
        try:
            get_connection("nobody")
            text = caplog.messages[-1]
        except EmailHostDoesNotExist as error:
            text = str(error)
        ten = ", ".join(map(str, range(10)))
        assert text.partition("known hosts: ")[2] == f"{ten} and others"

    @needs_mailers
    def test_in_mailers_are_parsed_once(self, parses, settings):  # pragma: mailers-only
        settings.MAILERS = mailers(settings.EMAIL_HOSTS)
        for _ in range(5):
            get_connection("3")
        assert len(parses()) <= 1


class TestSenders:
    """The same address first, then the first host with the same domain."""

    HOSTS = {
        "empty": "",
        "none": None,
        "broken": "smpt://h?_default_from_email=first@example.com",
        "plain": "smtp://h",
        "first": "smtp://h?_default_from_email=The First <First@Example.com>",
        "again": "smtp://h?_default_from_email=first@example.com",
        "second": "smtp://h?_default_from_email=second@example.com",
        "idn": "smtp://h?_default_from_email=info@bücher.example",
        "console": "console:?_default_from_email=c@console.example",
        "server": "smtp://h?_server_email=s@server.example",
        # Routing to a member would go past the failover.
        "member": "smtp://h?_default_from_email=m@member.example",
        "inner": "roundrobin:member,first",
        "outer": "failover:inner,second",
        "own": "failover:second?_default_from_email=own@own.example",
        "cycle": "failover:cycle",
        "lost": "failover:missing",
        "bad": "failover:broken",
    }

    @pytest.mark.parametrize(
        ("sender", "key"),
        [
            ("FIRST@EXAMPLE.COM", "first"),
            ("Somebody <first@example.com>", "first"),
            ("second@example.com", "second"),
            ("third@example.com", "first"),
            ("info@xn--bcher-kva.example", "idn"),
            ("x@BÜCHER.example", "idn"),
            ("c@console.example", "console"),
            ("s@server.example", None),
            ("x@sub.example.com", None),
            ("nonsense", None),
            ("", None),
            (None, None),
            ("a@" + "x" * 500, None),
            ("a@b..example", None),
            ("m@member.example", "outer"),
            ("x@member.example", "outer"),
            ("own@own.example", "own"),
        ],
    )
    def test_pick_the_host(self, sender, key):
        with override_settings(EMAIL_HOSTS=self.HOSTS):
            assert sender_is_of(sender) == key
