"""From a key to a connection: which setting it comes from, and what it carries."""

from __future__ import annotations

import logging
from collections import UserDict
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from conftest import needs_mailers, run_python
from django.conf import settings as django_settings
from django.core import mail
from django.core.mail.backends import console, locmem, smtp
from django.core.mail.backends.base import BaseEmailBackend
from django.test import override_settings

from email_hosts import hosts, mailers
from email_hosts.backends import (
    EmailHostsBackend,
    HostBackend,
    connection_from_dsn,
    get_connection,
)
from email_hosts.exceptions import EmailHostDoesNotExist, InvalidEmailHost

DJANGO_SMTP = "django.core.mail.backends.smtp.EmailBackend"
DJANGO_LOCMEM = "django.core.mail.backends.locmem.EmailBackend"
NO_DEFAULT = "ignore:Django 2028 will not have a default mailer"
DEPRECATED_SETTING = "ignore:The EMAIL_.* setting is deprecated"


def host(**settings: Any) -> Any:
    """Return a connection to the host ``shop`` with these settings in force."""
    with override_settings(**settings):
        return get_connection("shop")


def test_host_becomes_djangos_smtp_backend_with_its_options() -> None:
    connection = host(
        EMAIL_HOSTS={"shop": "submission://user:pw@h:2525?timeout=5&ssl_cafile=ca.pem"}
    )
    assert type(connection) is EmailHostsBackend
    assert isinstance(connection, smtp.EmailBackend)
    assert {
        name: getattr(connection, name)
        for name in (
            "host",
            "port",
            "username",
            "password",
            "use_tls",
            "timeout",
            "ssl_cafile",
        )
    } == {
        "host": "h",
        "port": 2525,
        "username": "user",
        "password": "pw",
        "use_tls": True,
        "timeout": 5,
        "ssl_cafile": "ca.pem",
    }


@pytest.mark.parametrize(
    ("dsn", "backend"),
    [
        ("smtp://h?{}", EmailHostsBackend),
        ("console://?{}", HostBackend),
        ("locmem://?{}", HostBackend),
    ],
)
def test_connection_carries_key_and_senders(dsn: str, backend: type) -> None:
    senders = "_default_from_email=a@example.com&_server_email=b@example.com"
    connection = host(EMAIL_HOSTS={"shop": dsn.format(senders)})
    assert connection.alias == "shop"
    assert connection.default_from_email == "a@example.com"
    assert connection.server_email == "b@example.com"
    assert type(connection) is backend


@pytest.mark.parametrize(
    ("dsn", "backend"), [("smtp://h", EmailHostsBackend), ("console://", console.EmailBackend)]
)
def test_host_without_a_sender_carries_empty_ones(dsn: str, backend: type) -> None:
    connection = host(EMAIL_HOSTS={"shop": dsn})
    assert connection.alias == "shop"
    assert (connection.default_from_email, connection.server_email) == ("", "")
    assert type(connection) is backend


@override_settings(EMAIL_HOSTS={"shop": "smtp://h"})
def test_connection_is_new_and_closed() -> None:
    first, second = get_connection("shop"), get_connection("shop")
    assert first is not second
    assert isinstance(first, EmailHostsBackend)
    assert first.connection is None


def test_settings_may_not_be_loaded_yet() -> None:
    """In a script that does without ``django.setup()``."""
    code = "from email_hosts.backends import get_connection; get_connection('shop')"
    run_python("-c", code)


class TestSettings:
    """They are read whenever a connection is made, fast as that is."""

    @pytest.fixture(autouse=True)
    def email_hosts(self) -> Iterator[dict[str, str]]:
        with override_settings(EMAIL_HOSTS={"shop": "smtp://first"}):
            assert self.host() == self.host() == "first"
            yield django_settings.EMAIL_HOSTS

    def host(self) -> Any:
        return vars(get_connection("shop"))["host"]

    def test_change_in_place(self, email_hosts: dict[str, str]) -> None:
        email_hosts["shop"] = "smtp://second"
        assert self.host() == "second"

    def test_change_in_place_of_what_is_no_plain_dict(self) -> None:
        hosts = UserDict(shop="smtp://second")
        with override_settings(EMAIL_HOSTS=hosts):
            assert self.host() == "second"
            hosts["shop"] = "smtp://third"
            assert self.host() == "third"

    def test_override(self) -> None:
        with override_settings(EMAIL_HOSTS={"shop": "smtp://second"}):
            assert self.host() == "second"
        assert self.host() == "first"

    def test_assignment(self) -> None:
        django_settings.EMAIL_HOSTS = {"shop": "smtp://second"}
        assert self.host() == "second"

    def test_that_are_not_valid_any_more(self) -> None:
        for _ in range(2):
            with override_settings(EMAIL_HOSTS=["smtp://h"]), pytest.raises(InvalidEmailHost):
                get_connection("shop")

    def test_begin_of_tests(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("email_hosts.hosts._hosts_are_overridden", lambda: False)
        assert self.host() == "first"
        monkeypatch.setattr("email_hosts.hosts._tests_are_running", lambda: False)
        assert type(get_connection("shop")).__name__ == "OutboxBackend"

    def test_assignment_of_another_setting(self) -> None:
        layer = hosts._settings._wrapped
        with mock.patch.dict(vars(layer), EMAIL_TIMEOUT=5):
            assert vars(get_connection("shop"))["timeout"] == 5

    def test_backend_that_is_wrapped_is_not_shared(self) -> None:
        dsn = "backend://email_hosts.backends.EmailHostsBackend?host=h&_server_email=a@example.com"
        with override_settings(EMAIL_HOSTS={"shop": dsn}):
            first: Any = get_connection("shop", fail_silently=True)
            second: Any = get_connection("shop")
        assert (first.fail_silently, second.fail_silently) == (True, False)

    @needs_mailers
    def test_mailer_in_place(self) -> None:  # pragma: mailers-only
        smtp = {"BACKEND": DJANGO_SMTP, "OPTIONS": {"host": "mailer"}}
        with override_settings(MAILERS={"default": smtp}):
            assert self.host() == self.host() == "first"
            hosts._settings.MAILERS["shop"] = smtp
            assert self.host() == "mailer"

    @needs_mailers
    def test_options_of_a_mailer_in_place(self) -> None:  # pragma: mailers-only
        options = {"host": "mailer"}
        ours = {"BACKEND": "email_hosts.backends.EmailHostsBackend", "OPTIONS": options}
        with override_settings(MAILERS={"default": {"BACKEND": DJANGO_SMTP}, "shop": ours}):
            assert self.host() == self.host() == "mailer"
            options["host"] = "second"
            assert self.host() == "second"

    @needs_mailers
    def test_mailer(self) -> None:  # pragma: mailers-only
        with override_settings():
            django_settings.MAILERS = {
                "default": {"BACKEND": DJANGO_SMTP, "OPTIONS": {"host": "default"}},
                "shop": {"BACKEND": DJANGO_SMTP, "OPTIONS": {"host": "mailer"}},
            }
            assert self.host() == "mailer"

    def test_connections_are_apart(self) -> None:
        first, second = (get_connection("shop") for _ in range(2))
        assert isinstance(first, EmailHostsBackend)
        first.refused_recipients["a"] = (550, b"no")
        first.timeout = 1
        assert isinstance(second, EmailHostsBackend)
        assert (second.refused_recipients, second.timeout) == ({}, 60)
        assert first._lock is not second._lock


@override_settings(EMAIL_HOSTS={"shop": "submission://user:pw@h?timeout=5"})
def test_options_replace_the_hosts_own_for_one_connection() -> None:
    connection: Any = get_connection("shop", timeout=1, username="other")
    assert (connection.timeout, connection.username, connection.password) == (1, "other", "pw")
    untouched: Any = get_connection("shop")
    assert (untouched.timeout, untouched.username) == (5, "user")


@pytest.mark.parametrize(
    ("dsn", "options", "message"),
    [
        ("smtp://h", {"timout": 5}, "unknown option 'timout'; did you mean 'timeout'?"),
        ("smtp://h", {"host": ""}, "option 'host' is missing"),
        ("submission://h", {"use_ssl": True}, "'use_ssl' and 'use_tls' exclude each other"),
    ],
)
def test_option_that_does_not_fit_names_the_host(
    dsn: str, options: dict[str, Any], message: str
) -> None:
    with (
        override_settings(EMAIL_HOSTS={"shop": dsn}),
        pytest.raises(InvalidEmailHost, match=message) as caught,
    ):
        get_connection("shop", **options)
    assert str(caught.value).startswith('EMAIL_HOSTS["shop"]: ')


def test_refusal_of_another_backend_names_the_host(tmp_path: Any) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidEmailHost, match="not a directory") as caught:
        host(EMAIL_HOSTS={"shop": f"file:{tmp_path}/file"})
    assert str(caught.value).startswith('EMAIL_HOSTS["shop"]: ')
    assert "MAILERS" not in str(caught.value)


@pytest.mark.parametrize(
    "dsn", ["smtp://h", "console://", "console://?_server_email=a@example.com", "dummy://"]
)
@pytest.mark.parametrize("fail_silently", [True, False])
def test_fail_silently_reaches_the_backend(dsn: str, fail_silently: bool) -> None:
    with override_settings(EMAIL_HOSTS={"shop": dsn}):
        connection: Any = get_connection("shop", fail_silently=fail_silently)
    wrapped = getattr(connection, "wrapped", connection)
    assert vars(wrapped).get("fail_silently", False) is fail_silently


@pytest.mark.filterwarnings(DEPRECATED_SETTING)
def test_host_is_complete_and_falls_back_to_no_setting() -> None:
    connection = host(
        EMAIL_HOSTS={"shop": "smtp://h"},
        EMAIL_HOST="global",
        EMAIL_PORT=1,
        EMAIL_HOST_USER="global",
        EMAIL_HOST_PASSWORD="global",
        EMAIL_USE_TLS=True,
        EMAIL_SSL_CERTFILE="global.pem",
        EMAIL_SSL_KEYFILE="global.pem",
    )
    assert "global" not in str(vars(connection))
    assert (connection.port, connection.use_tls, connection.use_ssl) == (25, False, False)


@pytest.mark.filterwarnings(DEPRECATED_SETTING)
@pytest.mark.parametrize(
    ("dsn", "settings", "timeout"),
    [
        ("smtp://h", {}, 60),
        ("smtp://h", {"EMAIL_TIMEOUT": None}, 60),
        ("smtp://h", {"EMAIL_TIMEOUT": 7}, 7),
        ("smtp://h?timeout=5", {"EMAIL_TIMEOUT": 7}, 5),
    ],
)
def test_timeout_is_never_for_ever(dsn: str, settings: dict[str, Any], timeout: int) -> None:
    assert host(EMAIL_HOSTS={"shop": dsn}, **settings).timeout == timeout


def test_invalid_host_names_its_key() -> None:
    with pytest.raises(InvalidEmailHost) as caught:
        host(EMAIL_HOSTS={"shop": "smtp://u:Kx7vQz9@h?timout=5"})
    error = caught.value
    assert str(error) == (
        "EMAIL_HOSTS[\"shop\"]: unknown option 'timout'; did you mean 'timeout'?"
    )
    assert (error.alias, error.reason) == ("shop", str(error).partition(": ")[2])
    assert error.__cause__ is error.__context__ is None


@pytest.mark.parametrize("value", [["smtp://h"], "smtp://h", None, 1])
def test_email_hosts_must_be_a_dict(value: object) -> None:
    with pytest.raises(InvalidEmailHost, match="EMAIL_HOSTS is a dict of DSN strings, not"):
        host(EMAIL_HOSTS=value)


class Options(BaseEmailBackend):
    """Takes any option, and keeps it."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options


@pytest.mark.filterwarnings(NO_DEFAULT)
class TestUnknownKey:
    """A key without a host gets the default backend."""

    def test_gets_the_default_backend(self) -> None:
        connection: Any = get_connection("shpo", fail_silently=True)
        assert connection.alias == "shpo"
        assert (connection.default_from_email, connection.server_email) == ("", "")
        assert connection.fail_silently is True
        assert type(connection) is locmem.EmailBackend

    def test_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        for key in ("shpo", "shpo", "other"):
            get_connection(key)
        assert [record.getMessage() for record in caplog.records] == [
            f'EMAIL_HOSTS["{key}"]: there is no such host, its mail goes to the default '
            "backend; known hosts: shop, club"
            for key in ("shpo", "other")
        ]
        assert {(r.name, r.levelno) for r in caplog.records} == {
            ("email_hosts", logging.WARNING)
        }

    def test_is_no_worse_with_a_key_that_is_no_string(self) -> None:
        with override_settings(EMAIL_HOSTS={1: "smtp://h"}):
            assert type(get_connection("shop")) is locmem.EmailBackend

    @pytest.mark.parametrize("empty", ["", None])
    def test_is_one_with_an_empty_host(
        self, empty: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        with override_settings(EMAIL_HOSTS={"shop": empty, "club": "smtp://h"}):
            assert type(get_connection("shop")) is locmem.EmailBackend
        assert caplog.messages[0].startswith('EMAIL_HOSTS["shop"]: the host is empty, its')
        assert "known hosts: club" in caplog.text

    @pytest.mark.parametrize("empty", [{}, {"shop": ""}])
    def test_is_no_news_where_there_are_no_hosts(
        self, empty: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        with override_settings(EMAIL_HOSTS=empty):
            assert type(get_connection("shop")) is locmem.EmailBackend
        assert not caplog.records

    def test_is_no_news_without_the_setting(
        self, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        del settings.EMAIL_HOSTS
        assert type(get_connection("shop")) is locmem.EmailBackend
        assert not caplog.records

    @pytest.mark.parametrize(
        "dsn",
        ["smtp://Kx7vQz9:Wj4bYt2@h", "Kx7vQz9:Wj4bYt2@h", "anymail+mailgun:?api_key=Kx7vQz9"],
    )
    def test_that_is_a_dsn_is_an_error_that_does_not_repeat_it(
        self, dsn: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(InvalidEmailHost, match="connection_from_dsn") as caught:
            get_connection(dsn)
        assert "Kx7" not in str(caught.value) + caplog.text

    @pytest.mark.filterwarnings(DEPRECATED_SETTING)
    @override_settings(EMAIL_BACKEND=f"{__name__}.Options")
    def test_does_not_get_the_options_of_the_missing_host(self) -> None:
        connection: Any = get_connection("shpo", password="secret")
        assert type(connection) is Options
        assert "password" not in connection.options

    @pytest.mark.parametrize("known", [{"club": "smtp://h"}, {}])
    def test_is_an_error_if_the_project_wants_that(self, known: dict[str, str]) -> None:
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


@needs_mailers
class TestMailers:  # pragma: mailers-only
    """Django 6.1: a mailer comes before the host of the same key."""

    def test_mailer_comes_first(self) -> None:
        connection = host(
            MAILERS={
                "default": {"BACKEND": DJANGO_SMTP, "OPTIONS": {"host": "default"}},
                "shop": {"BACKEND": DJANGO_SMTP, "OPTIONS": {"host": "mailer", "timeout": 3}},
            },
            EMAIL_HOSTS={"shop": "smtp://host"},
        )
        assert (connection.host, connection.timeout, connection.alias) == ("mailer", 3, "shop")
        assert (connection.default_from_email, connection.server_email) == ("", "")
        assert type(connection) is smtp.EmailBackend

    def test_mailer_without_backend_is_djangos_smtp(self) -> None:
        connection = host(MAILERS={"default": {}, "shop": {"OPTIONS": {"host": "mailer"}}})
        assert type(connection) is smtp.EmailBackend

    @pytest.mark.parametrize(
        ("mailer", "message"),
        [
            ({}, "OPTIONS must define 'host'"),
            ({"BACKEND": "no.such.Backend"}, "backend 'no.such.Backend' cannot be imported"),
            ({"BACKEND": DJANGO_SMTP, "OPTIONS": {"x": 1}}, "Unknown options 'x'"),
        ],
    )
    def test_refusal_names_the_setting(self, mailer: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidEmailHost, match=message) as caught:
            host(MAILERS={"default": {"BACKEND": DJANGO_SMTP}, "shop": mailer})
        assert str(caught.value).startswith('MAILERS["shop"]: ')
        assert str(caught.value).count("MAILERS") == 1

    def test_host_without_a_mailer_is_the_host(self) -> None:
        connection = host(
            MAILERS={"default": {"BACKEND": DJANGO_SMTP, "OPTIONS": {"host": "default"}}},
            EMAIL_HOSTS={"shop": "smtp://host"},
        )
        assert (connection.host, connection.timeout) == ("host", 60)

    def test_unknown_key_gets_the_default_mailer(self) -> None:
        connection = host(
            MAILERS={"default": {"BACKEND": DJANGO_SMTP, "OPTIONS": {"host": "default"}}},
            EMAIL_HOSTS={},
        )
        assert (connection.host, connection.alias) == ("default", "shop")

    def test_unknown_key_without_a_default_mailer_is_an_error(self) -> None:
        with pytest.raises(EmailHostDoesNotExist, match="known hosts: club, mailer"):
            host(MAILERS={"mailer": {}}, EMAIL_HOSTS={"club": "smtp://h"})

    def test_hosts_are_mailers_of_django(self) -> None:
        dsn = "submission://user:pw@h?_default_from_email=shop@example.com"
        with override_settings(MAILERS=mailers({"shop": dsn})):
            connection: Any = mail.mailers["shop"]
        assert type(connection) is EmailHostsBackend
        assert (connection.alias, connection.host, connection.timeout) == ("shop", "h", 60)
        assert connection.default_from_email == "shop@example.com"

    @pytest.mark.parametrize(
        "dsn", ["smtp://h", "console://", "console://?_server_email=a@example.com"]
    )
    @pytest.mark.filterwarnings("ignore:The 'fail_silently' argument is deprecated")
    @pytest.mark.filterwarnings("ignore:get_connection\\(\\) is deprecated")
    def test_default_mailer_takes_djangos_deprecated_arguments(self, dsn: str) -> None:
        with override_settings(MAILERS=mailers({"default": dsn})):
            connection: Any = mail.get_connection(fail_silently=True)
        assert connection.fail_silently is True


@pytest.mark.filterwarnings(DEPRECATED_SETTING)
class TestConnectionFromDSN:
    """A DSN from elsewhere, outside of tests."""

    @pytest.fixture(autouse=True)
    def outside_of_tests(self) -> Iterator[None]:
        with override_settings(EMAIL_BACKEND=DJANGO_SMTP):
            yield

    def test_becomes_a_connection(self) -> None:
        connection: Any = connection_from_dsn(
            "smtps://u:p@h?_server_email=a@example.com", fail_silently=True, timeout=5
        )
        assert type(connection) is EmailHostsBackend
        assert (connection.alias, connection.host, connection.timeout) == (None, "h", 5)
        assert (connection.default_from_email, connection.server_email) == (
            "",
            "a@example.com",
        )
        assert connection.fail_silently is True

    @pytest.mark.parametrize("dsn", ["file:out", "console://", "dummy://", "locmem://"])
    def test_must_be_smtp(self, dsn: str) -> None:
        with pytest.raises(InvalidEmailHost, match="is not allowed here; allowed: smtp, smtp"):
            connection_from_dsn(dsn)

    def test_may_be_what_the_caller_allows(self) -> None:
        assert type(connection_from_dsn("console://", schemes={"console"})) is (
            console.EmailBackend
        )
        with pytest.raises(
            InvalidEmailHost, match="'smtp' is not allowed here; allowed: cons"
        ):
            connection_from_dsn("smtp://h", schemes="console")

    @pytest.mark.parametrize("dsn", ["", None, "smtp://u:Kx7vQz9@h?timout=5"])
    def test_is_refused_without_a_key(self, dsn: Any) -> None:
        with pytest.raises(InvalidEmailHost) as caught:
            connection_from_dsn(dsn)
        assert "EMAIL_HOSTS" not in str(caught.value)


def test_mailers_have_an_entry_for_each_host_that_is_not_empty() -> None:
    assert mailers({"debug": "console://", "empty": "", "none": None}) == {
        "debug": {"BACKEND": "django.core.mail.backends.console.EmailBackend", "OPTIONS": {}}
    }


def test_mailers_want_a_dict() -> None:
    with pytest.raises(
        InvalidEmailHost, match="EMAIL_HOSTS is a dict of DSN strings, not list"
    ):
        mailers(["smtp://h"])  # type: ignore[arg-type]


def test_mailers_name_the_host_that_is_not_valid() -> None:
    with pytest.raises(InvalidEmailHost, match=r'EMAIL_HOSTS\["shop"\]: unknown scheme'):
        mailers({"shop": "smpt://h"})
