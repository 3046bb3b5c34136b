"""From a key or a DSN to a connection: which setting it comes from, and what it carries."""

import logging
from typing import Any
from unittest import mock

import pytest
from conftest import needs_mailers, run_python
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends import console, locmem, smtp
from django.core.mail.backends.base import BaseEmailBackend
from django.test import override_settings

from email_hosts import mailers
from email_hosts.backends import (
    EmailHostsBackend,
    FailoverBackend,
    HostBackend,
    connection_from_dsn,
    get_connection,
)
from email_hosts.dsn import parse
from email_hosts.exceptions import EmailHostDoesNotExist, InvalidEmailHost
from email_hosts.registry import host_of_sender
from email_hosts.testing import real_hosts

DJANGO_SMTP = "django.core.mail.backends.smtp.EmailBackend"
FAILOVER = "email_hosts.backends.FailoverBackend"
SENDERS = "_default_from_email=a@example.com&_server_email=b@example.com"

pytestmark = [
    pytest.mark.filterwarnings("ignore:Django 2028 will not have a default mailer"),
    pytest.mark.filterwarnings("ignore:The EMAIL_.* setting is deprecated"),
]


def connect(dsn: object, **options: Any) -> Any:
    """Return a connection to the host ``shop`` with this DSN."""
    with override_settings(EMAIL_HOSTS={"shop": dsn}):
        return get_connection("shop", **options)


def test_host_becomes_djangos_smtp_backend_with_its_options():
    connection = connect("submission://user:pw@h:2525?timeout=5&ssl_cafile=ca.pem")
    assert isinstance(connection, smtp.EmailBackend)
    options = {
        "host": "h",
        "port": 2525,
        "username": "user",
        "password": "pw",
        "use_tls": True,
        "timeout": 5,
        "ssl_cafile": "ca.pem",
    }
    assert {name: getattr(connection, name) for name in options} == options


@pytest.mark.parametrize(
    ("dsn", "backend"),
    [("smtp://h?", EmailHostsBackend), ("console://?", HostBackend)],
)
@pytest.mark.parametrize(
    ("query", "senders"), [("", ("", "")), (SENDERS, ("a@example.com", "b@example.com"))]
)
def test_connection_carries_key_and_senders(dsn, backend, query, senders):
    connection = connect(dsn + query)
    assert isinstance(connection, backend)
    assert connection.alias == "shop"
    assert (connection.default_from_email, connection.server_email) == senders


def test_another_backend_is_wrapped_and_its_attributes_can_be_read():
    connection = connect(f"console:?{SENDERS}")
    assert type(connection.wrapped) is console.EmailBackend
    assert connection.stream is connection.wrapped.stream
    connection.stream = None  # of the wrapper alone
    assert connection.wrapped.stream is not None


@override_settings(EMAIL_HOSTS={"shop": "smtp://h"})
def test_connection_is_new_and_closed():
    first: Any = get_connection("shop")
    assert first is not get_connection("shop")
    assert first.connection is None


def test_settings_may_not_be_loaded_yet():
    """In a script that does without ``django.setup()``."""
    code = "from email_hosts.backends import get_connection; get_connection('shop')"
    run_python("-c", code)


@override_settings(EMAIL_HOSTS={"shop": "submission://user:pw@h?timeout=5"})
def test_options_replace_the_hosts_own_for_one_connection():
    connection: Any = get_connection("shop", timeout=1, username="other")
    assert (connection.timeout, connection.username, connection.password) == (1, "other", "pw")
    untouched: Any = get_connection("shop")
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


@pytest.mark.parametrize("dsn", ["smtp://h", "console:", f"console:?{SENDERS}", "dummy:"])
@pytest.mark.parametrize("fail_silently", [True, False])
def test_fail_silently_reaches_the_backend(dsn, fail_silently):
    assert connect(dsn, fail_silently=fail_silently).fail_silently is fail_silently


class Smtp(smtp.EmailBackend):
    """One of a project."""


class Several(FailoverBackend):
    """Another one."""


@override_settings(
    EMAIL_HOST="global",
    EMAIL_PORT=1,
    EMAIL_HOST_USER="global",
    EMAIL_HOST_PASSWORD="global",
    EMAIL_USE_TLS=True,
    EMAIL_SSL_CERTFILE="global.pem",
    EMAIL_SSL_KEYFILE="global.pem",
)
@pytest.mark.parametrize("dsn", ["smtp://h", f"backend://{__name__}.Smtp?host=h"])
def test_host_is_complete_and_falls_back_to_no_setting(dsn):
    connection = connect(dsn)
    backend = getattr(connection, "wrapped", connection)
    assert "global" not in str(vars(backend))
    assert (backend.port, backend.use_tls, backend.use_ssl) == (25, False, False)


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


def test_invalid_host_names_its_key():
    with pytest.raises(InvalidEmailHost) as caught:
        connect("smtp://u:Kx7vQz9@h?timout=5")
    error = caught.value
    assert str(error) == (
        "EMAIL_HOSTS[\"shop\"]: unknown option 'timout'; did you mean 'timeout'?"
    )
    assert (error.alias, error.reason) == ("shop", str(error).partition(": ")[2])
    assert error.__cause__ is error.__context__ is None


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
@pytest.mark.parametrize("fail_silently", [False, True])
def test_hosts_in_a_cycle_are_refused(hosts, way, fail_silently):
    with override_settings(EMAIL_HOSTS=hosts), pytest.raises(InvalidEmailHost) as caught:
        get_connection("a", fail_silently=fail_silently)
    problem = f"hosts name each other in a cycle: {way}"
    assert str(caught.value) == f'EMAIL_HOSTS["a"]: {problem}'


class Options(BaseEmailBackend):
    """Takes any option, and keeps it."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options


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
        assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
            (
                logging.WARNING,
                f'EMAIL_HOSTS["{key}"]: there is no such host, so its mail goes to the '
                "default backend; known hosts: shop, club",
            )
            for key in ("shpo", "other")
        ]
        assert {record.name for record in caplog.records} == {"email_hosts"}

    @pytest.mark.parametrize("empty", ["", None])
    def test_is_one_with_an_empty_host(self, empty, caplog):
        with override_settings(EMAIL_HOSTS={"shop": empty, "club": "smtp://h"}):
            assert isinstance(get_connection("shop"), locmem.EmailBackend)
        assert caplog.messages[0].startswith('EMAIL_HOSTS["shop"]: the host is empty, so its')
        assert "known hosts: club" in caplog.text

    @pytest.mark.parametrize("empty", [{}, {"shop": ""}])
    def test_is_no_news_where_there_are_no_hosts(self, empty, caplog):
        with override_settings(EMAIL_HOSTS=empty):
            assert isinstance(get_connection("shop"), locmem.EmailBackend)
        assert not caplog.records

    def test_is_no_news_without_the_setting(self, settings, caplog):
        del settings.EMAIL_HOSTS
        assert isinstance(get_connection("shop"), locmem.EmailBackend)
        assert not caplog.records

    @override_settings(EMAIL_HOSTS={1: "smtp://h"})
    def test_is_no_worse_with_a_key_that_is_not_a_string(self):
        assert isinstance(get_connection("shop"), locmem.EmailBackend)

    @pytest.mark.parametrize(
        "dsn",
        ["smtp://Kx7vQz9:Wj4bYt2@h", "Kx7vQz9:Wj4bYt2@h", "anymail+mailgun:?api_key=Kx7vQz9"],
    )
    def test_that_is_a_dsn_is_an_error_that_does_not_repeat_it(self, dsn, caplog):
        with pytest.raises(InvalidEmailHost, match="connection_from_dsn") as caught:
            get_connection(dsn)
        assert "Kx7" not in str(caught.value) + caplog.text

    @override_settings(EMAIL_BACKEND=f"{__name__}.Options")
    def test_does_not_get_the_options_of_the_missing_host(self):
        connection: Any = get_connection("shpo", password="secret")
        assert isinstance(connection, Options)
        assert "password" not in connection.options

    @pytest.mark.parametrize("key", [None, 5, b"shop"])
    def test_that_is_no_string_is_an_error(self, key):
        with pytest.raises(InvalidEmailHost, match="key of a host must be a string, not"):
            get_connection(key)

    @pytest.mark.parametrize("known", [{"club": "smtp://h"}, {}])
    def test_is_an_error_if_the_project_wants_that(self, known):
        with (
            override_settings(EMAIL_HOSTS=known, EMAIL_HOSTS_STRICT=True),
            pytest.raises(EmailHostDoesNotExist) as caught,
        ):
            get_connection("shop")
        assert isinstance(caught.value, KeyError)
        names = ", ".join(known) or "none"
        assert str(caught.value) == (
            f'EMAIL_HOSTS["shop"]: there is no such host; known hosts: {names}'
        )


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

    @override_settings(MAILERS={"default": {}, "shop": smtp_mailer(host="mailer", timeout=3)})
    def test_mailer_comes_first(self):
        connection: Any = get_connection("shop")
        assert (connection.host, connection.timeout, connection.alias) == ("mailer", 3, "shop")
        assert (connection.default_from_email, connection.server_email) == ("", "")
        assert type(connection.wrapped) is smtp.EmailBackend

    @override_settings(MAILERS={"default": {}, "shop": {"OPTIONS": {"host": "mailer"}}})
    def test_mailer_without_backend_is_djangos_smtp(self):
        connection: Any = get_connection("shop")
        assert type(connection.wrapped) is smtp.EmailBackend

    @pytest.mark.parametrize(
        ("mailer", "reason"),
        [
            ({}, "OPTIONS must define 'host'"),
            ({"BACKEND": "no.such.Backend"}, "backend 'no.such.Backend' cannot be imported"),
            ({"BACKEND": FAILOVER}, "'hosts'"),
            (smtp_mailer(x=1), "Unknown options 'x'"),
        ],
    )
    def test_refusal_names_the_setting(self, mailer, reason, settings):
        settings.MAILERS["shop"] = mailer
        with pytest.raises(InvalidEmailHost, match=reason) as caught:
            get_connection("shop")
        assert str(caught.value).startswith('MAILERS["shop"]: ')
        assert str(caught.value).count("MAILERS") == 1

    def test_host_without_a_mailer_is_the_host(self):
        connection: Any = get_connection("shop")
        assert (connection.host, connection.timeout) == ("host", 60)

    def test_unknown_key_gets_the_default_mailer(self):
        connection: Any = get_connection("unknown")
        assert (connection.host, connection.alias) == ("default", "default")

    @override_settings(MAILERS={"mailer": {}})
    def test_unknown_key_without_a_default_mailer_is_an_error(self):
        with pytest.raises(EmailHostDoesNotExist, match="known hosts: shop, club, mailer"):
            get_connection("unknown")

    def test_cycle_may_lead_through_mailers(self, settings):
        settings.MAILERS["a"] = {"BACKEND": FAILOVER, "OPTIONS": {"hosts": ["b"]}}
        settings.EMAIL_HOSTS["b"] = "failover:a"
        with pytest.raises(InvalidEmailHost, match="cycle: a -> b -> a"):
            get_connection("a")

    @override_settings(MAILERS=mailers({"shop": f"submission://user:pw@h?{SENDERS}"}))
    def test_hosts_are_mailers_of_django(self):
        connection: Any = mail.mailers["shop"]
        assert isinstance(connection, EmailHostsBackend)
        assert (connection.alias, connection.host, connection.timeout) == ("shop", "h", 60)
        assert connection.default_from_email == "a@example.com"

    @pytest.mark.parametrize("dsn", ["smtp://h", "console:", f"console:?{SENDERS}"])
    @pytest.mark.filterwarnings("ignore:The 'fail_silently' argument is deprecated")
    @pytest.mark.filterwarnings("ignore:get_connection\\(\\) is deprecated")
    def test_default_mailer_takes_djangos_deprecated_arguments(self, dsn):
        with override_settings(MAILERS=mailers({"default": dsn})):
            connection: Any = mail.get_connection(fail_silently=True)
        assert connection.fail_silently is True


class TestConnectionFromDSN:
    """A DSN from elsewhere, outside of tests."""

    @pytest.fixture(autouse=True)
    def outside_of_tests(self):
        with real_hosts():
            yield

    def test_becomes_a_connection(self):
        connection: Any = connection_from_dsn(
            f"smtps://u:p@h?{SENDERS}", fail_silently=True, timeout=5
        )
        assert isinstance(connection, EmailHostsBackend)
        assert (connection.alias, connection.host, connection.timeout) == (None, "h", 5)
        assert connection.default_from_email == "a@example.com"
        assert connection.server_email == "b@example.com"
        assert connection.fail_silently is True

    def test_may_have_the_schemes_that_the_caller_allows(self):
        connection: Any = connection_from_dsn("console://", schemes={"console"})
        assert isinstance(connection.wrapped, console.EmailBackend)
        with pytest.raises(InvalidEmailHost, match="'smtp' is not allowed here; allowed: con"):
            connection_from_dsn("smtp://h", schemes="console")

    @pytest.mark.parametrize(
        "dsn", [f"backend://{__name__}.Options", "failover:shop", "anymail+postmark://"]
    )
    @pytest.mark.parametrize("others", [[], ["smtp"]])
    def test_may_have_no_scheme_with_credentials_of_the_project(self, dsn, others):
        scheme = dsn.partition(":")[0]
        with pytest.raises(InvalidEmailHost) as caught:
            connection_from_dsn(dsn, schemes=[scheme, *others])
        assert str(caught.value).startswith(f"scheme '{scheme}' cannot be allowed in a DSN fr")

    def test_allow_is_not_asked_where_nothing_leaves_the_machine(self):
        connection_from_dsn("console:", schemes=["console"], allow=lambda *_: False)

    @pytest.mark.parametrize("dsn", ["", None, "smtp://u:Kx7vQz9@h?timout=5"])
    def test_is_refused_without_a_key(self, dsn):
        with pytest.raises(InvalidEmailHost) as caught:
            connection_from_dsn(dsn)
        assert "EMAIL_HOSTS" not in str(caught.value)


def message(from_email=None):
    return EmailMessage("Hello", "World", from_email, ["someone@example.net"])


class TestChanges:
    """What is known is what the setting says now."""

    def test_mistake_in_the_same_dict(self, settings):
        settings.EMAIL_HOSTS_STRICT = True
        settings.EMAIL_HOSTS = configured = {"shop": "smtp://a"}
        get_connection("shop")
        configured["shop"] = "smtp://a?timout=5"
        for _ in range(2):
            with pytest.raises(InvalidEmailHost, match="timout"):
                get_connection("shop")
        configured["shop"] = ""
        with pytest.raises(EmailHostDoesNotExist, match="the host is empty"):
            get_connection("shop")
        del configured["shop"]
        with pytest.raises(EmailHostDoesNotExist, match="there is no such host"):
            get_connection("shop")

    def test_other_dict(self):
        for host, other in ("ab", "ba"):
            dsn = f"smtp://{host}?_default_from_email={host}@{host}.example"
            with override_settings(EMAIL_HOSTS={host: dsn}):
                assert host_of_sender(message(f"x@{host}.example")) == host
                assert host_of_sender(message(f"x@{other}.example")) is None
        assert host_of_sender(message("shop@example.com")) == "shop"


class TestManyHosts:
    """A host costs the same among ten and among hundreds: counted, not timed."""

    @pytest.fixture(params=[10, 300])
    def number(self, request):
        return request.param

    @pytest.fixture(autouse=True)
    def parses(self, number, settings, monkeypatch):
        """So many hosts, with a spy on the parser."""
        settings.EMAIL_HOSTS = {
            f"{i}": f"submission://u:p{i}@smtp.example.com?_default_from_email=shop@{i}.example"
            for i in range(number)
        } | {"all": "failover:1,2"}
        parses = mock.Mock(wraps=parse)
        monkeypatch.setattr("email_hosts.registry.parse", parses)
        return parses

    @pytest.mark.parametrize("options", [{}, {"timeout": 5}])
    def test_each_is_parsed_when_it_is_first_used(self, options, number, parses):
        for _ in range(3):
            for i in range(number):
                get_connection(f"{i}", **options)
            assert parses.call_count == number

    def test_of_a_failover_are_parsed_alone(self, parses):
        for _ in range(3):
            get_connection("all")
        assert [call.args[1] for call in parses.call_args_list] == ["all", "1", "2"]

    def test_all_are_parsed_once_to_find_senders(self, number, parses):
        for i in range(number):
            assert host_of_sender(message(f"shop@{i}.example")) in (f"{i}", "all")
            assert host_of_sender(message(f"shop@nobody-{i}.example")) is None
        assert parses.call_count == number + 1

    def test_none_is_parsed_for_an_unknown_key(self, parses):
        for i in range(5):
            get_connection(f"unknown-{i}")
        assert parses.call_count == 0

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
        assert parses.call_count <= 1


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
            ("first@example.com", "first"),
            ("FIRST@EXAMPLE.COM", "first"),
            ("Somebody <first@example.com>", "first"),
            ("second@example.com", "second"),
            ("third@example.com", "first"),
            ("x@bücher.example", "idn"),
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
        one = message("x@y.example")
        one.from_email = sender
        with override_settings(EMAIL_HOSTS=self.HOSTS):
            assert host_of_sender(one) == key


@needs_mailers
@pytest.mark.parametrize("options", [None, "host=h", {1: 2}])
def test_options_of_a_mailer_must_be_a_dict(options):  # pragma: mailers-only
    mailers: Any = {"shop": {"BACKEND": "email_hosts.backends.EmailHostsBackend"}}
    mailers["shop"]["OPTIONS"] = options
    with (
        override_settings(EMAIL_HOSTS={}, MAILERS=mailers),
        pytest.raises(InvalidEmailHost, match="OPTIONS of an entry of MAILERS must be a dict"),
    ):
        get_connection("shop")
