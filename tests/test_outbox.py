"""While tests run, nothing leaves the machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from conftest import needs_mailers
from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends import locmem
from django.test import override_settings

from email_hosts import hosts, mailers
from email_hosts.backends import EmailHostsBackend, connection_from_dsn, get_connection
from email_hosts.backends.outbox import OutboxBackend
from email_hosts.exceptions import InvalidEmailHost

LOCMEM = {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}
SMTP = {"BACKEND": "django.core.mail.backends.smtp.EmailBackend", "OPTIONS": {"host": "h"}}
HOSTS = {"shop": "smtp://real"}
FAILOVER = "email_hosts.backends.FailoverBackend"


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Let each attempt to connect fail."""
    with mock.patch("socket.create_connection", side_effect=AssertionError):
        yield


def test_host_delivers_to_the_outbox_with_its_sender_and_key(
    message: EmailMessage, mailoutbox: list[Any]
) -> None:
    for key in ("shop", "club"):
        assert get_connection(key).send_messages([message]) == 1
    assert [(sent.from_email, sent.sent_using) for sent in mailoutbox] == [
        ("shop@example.com", "shop"),
        ("club@example.org", "club"),
    ]


@pytest.mark.parametrize(
    ("dsn", "sender"),
    [
        ("failover:club,shop", "club@example.org"),
        ("failover:club,shop?_default_from_email=own@example.com", "own@example.com"),
        ("failover:missing,shop", "project@example.com"),
        ("roundrobin:inner,shop", "club@example.org"),
        ("failover:safe", "project@example.com"),
        (f"backend://{FAILOVER}?hosts=club,shop", "club@example.org"),
    ],
)
def test_several_hosts_as_one_send_as_the_first(
    dsn: str,
    sender: str,
    message: EmailMessage,
    monkeypatch: pytest.MonkeyPatch,
    mailoutbox: list[Any],
) -> None:
    monkeypatch.setitem(settings.EMAIL_HOSTS, "inner", "failover:club,shop")
    monkeypatch.setitem(settings.EMAIL_HOSTS, "safe", dsn)
    get_connection("safe").send_messages([message])
    assert [(sent.from_email, sent.sent_using) for sent in mailoutbox] == [(sender, "safe")]


def test_callers_message_is_not_touched(message: EmailMessage) -> None:
    before = dict(vars(message))
    get_connection("shop").send_messages([message])
    assert vars(message) == before


@pytest.mark.filterwarnings("ignore:The 'connection' argument is deprecated")
def test_message_may_hold_its_connection(mailoutbox: list[Any]) -> None:
    EmailMessage("Hello", to=["a@example.net"], connection=get_connection("shop")).send()
    assert mailoutbox[0].sent_using == "shop"


def test_options_of_the_host_are_there_to_look_at() -> None:
    connection: Any = get_connection("shop", timeout=5)
    assert (connection.host, connection.use_tls, connection.timeout) == (
        "smtp.example.com",
        True,
        5,
    )


def test_dsn_from_elsewhere_delivers_to_the_outbox(
    message: EmailMessage, mailoutbox: list[Any]
) -> None:
    connection = connection_from_dsn("smtp://h?_default_from_email=a@example.com")
    connection.send_messages([message])
    assert [(sent.from_email, sent.sent_using) for sent in mailoutbox] == [
        ("a@example.com", None)
    ]


@override_settings(DEBUG=True)
def test_override_of_another_setting_changes_nothing() -> None:
    assert type(get_connection("shop")) is OutboxBackend


@override_settings(EMAIL_HOSTS=HOSTS)
def test_override_of_the_hosts_is_taken_at_its_word() -> None:
    with override_settings(DEBUG=True):
        assert type(get_connection("shop")) is EmailHostsBackend


@override_settings(EMAIL_HOSTS=HOSTS)
def test_override_of_the_hosts_says_nothing_of_a_dsn_from_elsewhere() -> None:
    assert type(connection_from_dsn("smtp://h")) is OutboxBackend


def test_settings_fixture_of_pytest_is_taken_at_its_word(settings: Any) -> None:
    settings.EMAIL_HOSTS = HOSTS
    assert type(get_connection("shop")) is EmailHostsBackend


@pytest.mark.filterwarnings("ignore:The EMAIL_BACKEND setting is deprecated")
def test_override_of_the_default_backend_is_taken_at_its_word() -> None:
    with override_settings(EMAIL_BACKEND=SMTP["BACKEND"]):
        assert type(get_connection("shop")) is EmailHostsBackend
        assert type(connection_from_dsn("smtp://h")) is EmailHostsBackend


def test_option_that_does_not_fit_does_not_wait_for_production() -> None:
    with pytest.raises(InvalidEmailHost, match="unknown option 'timout'"):
        get_connection("shop", timout=5)


def test_file_host_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.EMAIL_HOSTS, "folder", f"file:{tmp_path}/out")
    get_connection("folder").send_messages([])
    assert list(tmp_path.iterdir()) == []


class Subclass(locmem.EmailBackend):
    """Another project's idea of an outbox."""


@pytest.mark.filterwarnings("ignore:The EMAIL_BACKEND setting is deprecated")
def test_subclass_of_the_in_memory_backend_is_one() -> None:
    with override_settings(EMAIL_BACKEND=f"{__name__}.Subclass"):
        assert type(get_connection("shop")) is OutboxBackend
    with override_settings(EMAIL_BACKEND="no.such.Backend"):
        assert type(get_connection("shop")) is EmailHostsBackend


def test_default_that_nobody_has_set_is_the_safe_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test has removed MAILERS, and with it what the test runner had put there."""
    monkeypatch.setattr(hosts, "_has_mailers", lambda: False)
    monkeypatch.setattr(hosts, "_replaced_setting", lambda name: SMTP["BACKEND"])
    assert type(get_connection("shop", timeout=5)) is OutboxBackend


def test_in_memory_backend_outside_of_tests_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("email_hosts.hosts._tests_are_running", lambda: False)
    get_connection("shop")
    get_connection("club")
    assert [record.getMessage() for record in caplog.records] == [
        "The default mailer is Django's in-memory backend, and so every host delivers to "
        "mail.outbox: nothing is sent. That is meant for tests."
    ]


@override_settings(
    EMAIL_HOSTS={"shop": "submission://user:pw@h?_default_from_email=a@b.example"}
)
def test_mock_of_smtplib_sees_the_whole_conversation(
    message: EmailMessage, caplog: pytest.LogCaptureFixture
) -> None:
    with mock.patch("smtplib.SMTP", autospec=True) as smtp:
        assert get_connection("shop").send_messages([message]) == 1
    smtp.assert_called_once_with("h", 587, local_hostname=mock.ANY, timeout=60)
    session = smtp.return_value
    session.starttls.assert_called_once_with(context=mock.ANY)
    session.login.assert_called_once_with("user", "pw")
    session.sendmail.assert_called_once_with("a@b.example", ["someone@example.net"], mock.ANY)
    assert b"From: a@b.example" in session.sendmail.call_args.args[2]
    session.quit.assert_called_once_with()
    assert not caplog.records


@needs_mailers
class TestMailers:  # pragma: mailers-only
    """Django 6.1: the test runner makes every mailer an in-memory one."""

    @override_settings(MAILERS={"default": LOCMEM, "shop": LOCMEM})
    def test_host_knows_more_than_its_stand_in(
        self, message: EmailMessage, mailoutbox: list[Any]
    ) -> None:
        get_connection("shop").send_messages([message])
        assert [(sent.from_email, sent.sent_using) for sent in mailoutbox] == [
            ("shop@example.com", "shop")
        ]

    @override_settings(MAILERS={"default": LOCMEM, "mailer": LOCMEM})
    def test_mailer_without_a_host_is_its_stand_in(
        self, message: EmailMessage, mailoutbox: list[Any]
    ) -> None:
        get_connection("mailer").send_messages([message])
        assert [sent.sent_using for sent in mailoutbox] == ["mailer"]

    @override_settings(MAILERS={"default": LOCMEM, "shop": LOCMEM}, EMAIL_HOSTS=HOSTS)
    def test_override_of_the_hosts_outranks_the_stand_in(self) -> None:
        assert type(get_connection("shop")) is EmailHostsBackend

    @override_settings(MAILERS={"default": LOCMEM, **mailers(HOSTS)})
    def test_override_of_the_mailers_is_taken_at_its_word(self) -> None:
        assert type(get_connection("shop")) is EmailHostsBackend

    @override_settings(MAILERS={"default": SMTP})
    def test_override_of_the_default_mailer_is_taken_at_its_word(self) -> None:
        assert type(get_connection("shop")) is EmailHostsBackend

    @override_settings(MAILERS=mailers({"default": "locmem:?_server_email=a@example.com"}))
    def test_in_memory_host_is_an_in_memory_backend(self) -> None:
        assert type(get_connection("shop")) is OutboxBackend

    @pytest.mark.parametrize("mailers", [{}, {"other": LOCMEM}])
    def test_no_default_mailer_is_the_safe_side(self, mailers: dict[str, Any]) -> None:
        with override_settings(MAILERS=mailers):
            assert type(get_connection("shop")) is OutboxBackend
