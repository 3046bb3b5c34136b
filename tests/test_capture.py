"""While tests run, nothing leaves the machine, unless a test says so."""

from typing import Any
from unittest import mock

import pytest
from conftest import needs_mailers
from django.conf import settings as django_settings
from django.core.mail.backends import locmem
from django.test import override_settings
from django.test.utils import setup_test_environment, teardown_test_environment

from email_hosts import mailers
from email_hosts.backends import (
    EmailHostsBackend,
    FailoverBackend,
    connection_from_dsn,
    get_connection,
)
from email_hosts.backends.outbox import OutboxBackend
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.testing import real_hosts

LOCMEM = {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}
OF_FILE = django_settings.EMAIL_HOSTS

pytestmark = pytest.mark.filterwarnings("ignore:The EMAIL_BACKEND setting is deprecated")


@pytest.fixture(autouse=True)
def no_network():
    """Let each attempt to connect fail."""
    with mock.patch("socket.create_connection", side_effect=AssertionError):
        yield


class Several(FailoverBackend):
    """A failover of the project."""


class Subclass(locmem.EmailBackend):
    """Another project's idea of an outbox."""


def real(*keys: str) -> list[str]:
    """Return those of the keys whose hosts are real, and ``dsn`` if one from elsewhere is."""
    found: dict[str, Any] = {key: get_connection(key) for key in keys}
    found["dsn"] = connection_from_dsn("smtp://h")
    for connection in found.values():
        assert isinstance(connection, (EmailHostsBackend, OutboxBackend))
    return [key for key, each in found.items() if isinstance(each, EmailHostsBackend)]


each_setting = pytest.mark.parametrize(
    "setting", ["EMAIL_BACKEND", pytest.param("MAILERS", marks=needs_mailers)]
)


def override_default(setting: str, backend: str) -> Any:
    """Override the default backend."""
    mailers = {"default": {"BACKEND": backend}}
    return override_settings(**{setting: mailers if setting == "MAILERS" else backend})


each_default = pytest.mark.parametrize(
    "backend",
    [
        "django.core.mail.backends.smtp.EmailBackend",
        "django.core.mail.backends.console.EmailBackend",
        "django.core.mail.backends.dummy.EmailBackend",
        "anymail.backends.test.EmailBackend",
        "email_hosts.backends.RoutingBackend",
        f"{__name__}.Subclass",
        "no.such.Backend",
    ],
)


@each_default
@each_setting
def test_hosts_are_captured_whatever_the_default_backend_is(backend, setting):
    with override_default(setting, backend):
        assert real("shop", "club") == []


@pytest.fixture
def outside_of_tests():
    teardown_test_environment()
    yield
    setup_test_environment()


@each_default
@each_setting
def test_hosts_are_real_outside_of_tests(backend, setting, outside_of_tests, caplog):
    with override_default(setting, backend):
        assert real("shop", "club") == ["shop", "club", "dsn"]
    assert caplog.messages == []


@override_settings(EMAIL_HOSTS={**OF_FILE, "club": "smtp://real", "x": "smtp://real"})
def test_host_that_a_test_has_set_or_changed_is_real_and_nothing_else():
    with override_settings(DEBUG=True):
        assert real("shop", "club", "x") == ["club", "x"]


def test_settings_fixture_of_pytest_can_set_a_host(settings):
    settings.EMAIL_HOSTS = {**OF_FILE, "x": "smtp://real"}
    assert real("shop", "x") == ["x"]


def test_change_of_the_settings_in_place_makes_nothing_real(monkeypatch):
    monkeypatch.setitem(OF_FILE, "x", "smtp://h")
    assert real("shop", "x") == []


def test_every_host_is_real_where_a_test_says_so():
    with real_hosts():
        with pytest.raises(ZeroDivisionError), real_hosts():
            1 / 0  # noqa: B018
        assert real("shop", "club") == ["shop", "club", "dsn"]
    assert real_hosts()(real)("shop") == ["shop", "dsn"]
    assert real("shop") == []


@pytest.mark.parametrize(
    ("dsn", "sender"),
    [
        ("failover:club,shop", "club@example.org"),
        ("failover:club,shop?_default_from_email=own@example.com", "own@example.com"),
        ("failover:missing,shop", "project@example.com"),
        ("roundrobin:inner,shop", "club@example.org"),
        (f"backend://{__name__}.Several?hosts=club,shop", "club@example.org"),
    ],
)
def test_several_hosts_as_one_send_as_the_first(dsn, sender, message, monkeypatch, mailoutbox):
    monkeypatch.setitem(OF_FILE, "inner", "failover:club,shop")
    monkeypatch.setitem(OF_FILE, "safe", dsn)
    get_connection("safe").send_messages([message])
    assert [(sent.from_email, sent.sent_using) for sent in mailoutbox] == [(sender, "safe")]


@pytest.mark.parametrize("dsn", ["smtp://h", "failover:shop", "console:", "anymail+brevo:"])
def test_option_that_does_not_fit_does_not_wait_for_production(dsn, monkeypatch):
    monkeypatch.setitem(OF_FILE, "x", dsn)
    with pytest.raises(InvalidEmailHost, match="option 'reply_to' must be text, not int"):
        get_connection("x", reply_to=5)


def test_file_host_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(OF_FILE, "folder", f"file:{tmp_path}/out")
    get_connection("folder").send_messages([])
    assert list(tmp_path.iterdir()) == []


@override_settings(EMAIL_HOSTS={"shop": "submission://u:pw@h?_default_from_email=a@b.example"})
def test_mock_of_smtplib_sees_the_whole_conversation(message, caplog):
    with mock.patch("smtplib.SMTP", autospec=True) as smtp:
        assert get_connection("shop").send_messages([message]) == 1
    smtp.assert_called_once_with("h", 587, local_hostname=mock.ANY, timeout=60)
    session = smtp.return_value
    session.starttls.assert_called_once_with(context=mock.ANY)
    session.login.assert_called_once_with("u", "pw")
    session.sendmail.assert_called_once_with("a@b.example", ["someone@example.net"], mock.ANY)
    assert b"From: a@b.example" in session.sendmail.call_args.args[2]
    session.quit.assert_called_once_with()
    assert not caplog.records


@needs_mailers
class TestMailers:  # pragma: mailers-only
    """Django 6.1: the test runner makes every mailer an in-memory one."""

    @override_settings(MAILERS={"default": LOCMEM, "shop": LOCMEM, "mailer": LOCMEM})
    @pytest.mark.parametrize(
        ("key", "sender"), [("shop", "shop@example.com"), ("mailer", "project@example.com")]
    )
    def test_host_knows_more_than_its_stand_in(self, key, sender, message, mailoutbox):
        get_connection(key).send_messages([message])
        assert [(sent.from_email, sent.sent_using) for sent in mailoutbox] == [(sender, key)]

    @pytest.mark.parametrize(
        ("settings_of_test", "expected"),
        [
            # A host that a test has set outranks the stand-in, and so does a mailer.
            ({"MAILERS": {"shop": LOCMEM}, "EMAIL_HOSTS": {"shop": "smtp://real"}}, ["shop"]),
            ({"MAILERS": mailers({"shop": "smtp://real"})}, ["shop"]),
            # A mailer of the file is captured as its host.
            ({"MAILERS": {"default": LOCMEM, **mailers(OF_FILE)}}, []),
            # No default mailer is the safe side.
            ({"MAILERS": {}}, []),
            ({"MAILERS": {"other": LOCMEM}}, []),
        ],
    )
    def test_mailer_is_real_if_a_test_has_set_it(self, settings_of_test, expected):
        with override_settings(**settings_of_test):
            assert real("shop") == expected
