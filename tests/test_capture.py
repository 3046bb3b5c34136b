"""While tests run, the mail of hosts is in ``mail.outbox``, unless a test says otherwise."""

import asyncio
import os
from typing import Any
from unittest import mock

import pytest
from conftest import needs_mailers, run_python
from django.conf import settings as django_settings
from django.test import override_settings
from django.test.utils import setup_test_environment, teardown_test_environment

from email_hosts import mailers
from email_hosts.backends import (
    EmailHostsBackend,
    RoutingBackend,
    connection_from_dsn,
    get_connection,
)
from email_hosts.backends.outbox import OutboxBackend
from email_hosts.conf import DJANGO_HAS_MAILERS
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.testing import real_hosts

LOCMEM = {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}
OF_FILE = django_settings.EMAIL_HOSTS

pytestmark = pytest.mark.filterwarnings("ignore:The EMAIL_BACKEND setting is deprecated")


def real(*keys: str) -> list[str]:
    """Return those of the keys whose hosts are real, and ``dsn`` if one from elsewhere is."""
    found: dict[str, Any] = {key: get_connection(key) for key in keys}
    found["dsn"] = connection_from_dsn("smtp://h")
    for connection in found.values():
        assert isinstance(connection, (EmailHostsBackend, OutboxBackend))
    return [key for key, each in found.items() if isinstance(each, EmailHostsBackend)]


@pytest.mark.parametrize(
    "setting", ["EMAIL_BACKEND", pytest.param("MAILERS", marks=needs_mailers)]
)
def test_hosts_are_captured_in_tests_only_whatever_the_default_backend_is(setting):
    backend = "no.such.Backend"
    default = {"default": {"BACKEND": backend}} if setting == "MAILERS" else backend
    with override_settings(**{setting: default}):
        assert real("shop", "club") == []
        teardown_test_environment()
        try:
            assert real("shop", "club") == ["shop", "club", "dsn"]
        finally:
            setup_test_environment()


def test_host_that_a_test_has_set_or_changed_is_real_and_nothing_else(monkeypatch):
    monkeypatch.setitem(OF_FILE, "in place", "smtp://h")
    hosts = {**OF_FILE, "club": "smtp://real", "x": "smtp://real"}
    with override_settings(EMAIL_HOSTS=hosts), override_settings(DEBUG=True):
        assert real("shop", "club", "x", "in place") == ["club", "x"]


def test_every_host_is_real_where_a_test_says_so():
    with real_hosts():
        with pytest.raises(ZeroDivisionError), real_hosts():
            1 / 0  # noqa: B018
        assert real("shop", "club") == ["shop", "club", "dsn"]
    assert real_hosts()(real)("shop") == ["shop", "dsn"]
    assert real("shop") == []
    for what in (type("Tests", (), {}), asyncio.sleep):
        with pytest.raises(TypeError, match="real_hosts"):
            real_hosts()(what)


@pytest.mark.parametrize(
    ("dsn", "sender"),
    [
        ("failover:club,shop?_default_from_email=own@example.com", "own@example.com"),
        ("failover:missing,shop", "project@example.com"),
        ("roundrobin:inner,shop", "club@example.org"),
    ],
)
def test_several_hosts_as_one_send_as_the_first(dsn, sender, message, monkeypatch, mailoutbox):
    monkeypatch.setitem(OF_FILE, "inner", "failover:club,shop")
    monkeypatch.setitem(OF_FILE, "safe", dsn)
    before = dict(vars(message))
    get_connection("safe").send_messages([message])
    assert vars(message) == before
    assert [(sent.from_email, sent.sent_using) for sent in mailoutbox] == [(sender, "safe")]


DSN = (
    "smtp://h?_default_from_email=shop@example.com&_reply_to=help@example.com"
    "&_envelope_from=bounces@example.com&_header-X-Shop=news"
    "&_redirect_to=qa@example.com&_allowed_recipients=example.org"
)
MORE = {"x-shop": "more", "X-More": "1"}


@pytest.mark.parametrize(
    ("key", "headers"),
    [("all", {"X-Shop": "news"}), ("more", MORE), ("router", MORE)],  # that of the sender
)
def test_what_a_host_adds_is_there_and_its_recipients_are_the_messages(
    key, headers, message, monkeypatch, mailoutbox
):
    """As they would be in production: that is what a test asks about."""
    more = "roundrobin:all?_header-x-shop=more&_header-X-More=1"
    hosts = {"shop": DSN, "all": "failover:shop", "more": more, "default": DSN}
    monkeypatch.setattr(django_settings, "EMAIL_HOSTS", hosts)
    connection: Any = RoutingBackend() if key == "router" else get_connection(key)
    assert connection.send_messages([message]) == 1
    (sent,) = mailoutbox
    assert sent.recipients() == sent.to == ["someone@example.net"]
    assert (sent.from_email, sent.reply_to) == ("shop@example.com", ["help@example.com"])
    assert sent.envelope_sender == "bounces@example.com"
    assert sent.extra_headers == headers


@pytest.mark.parametrize("dsn", ["smtp://h", "failover:shop", "console:", "anymail+brevo:"])
def test_option_that_does_not_fit_does_not_wait_for_production(dsn, monkeypatch):
    monkeypatch.setitem(OF_FILE, "x", dsn)
    with pytest.raises(InvalidEmailHost, match="option 'reply_to' must be text, not int"):
        get_connection("x", reply_to=5)


@override_settings(EMAIL_HOSTS={"shop": "submission://u:pw@h?_default_from_email=a@b.example"})
def test_mock_of_smtplib_sees_the_whole_conversation(message, caplog):
    with mock.patch("smtplib.SMTP", autospec=True) as smtp:
        assert get_connection("shop").send_messages([message]) == 1
    smtp.assert_called_once_with("h", 587, local_hostname=mock.ANY, timeout=60)
    assert smtp.return_value.method_calls == [
        mock.call.starttls(context=mock.ANY),
        mock.call.login("u", "pw"),
        mock.call.sendmail("a@b.example", ["someone@example.net"], mock.ANY),
        mock.call.quit(),
    ]
    assert not caplog.records


@needs_mailers
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # A host that a test has set outranks the stand-in, and so does a mailer.
        ({"MAILERS": {"shop": LOCMEM}, "EMAIL_HOSTS": {"shop": "smtp://real"}}, ["shop"]),
        ({"MAILERS": mailers({"shop": "smtp://real"})}, ["shop"]),
        # A mailer of the file is captured as its host.
        ({"MAILERS": {"default": LOCMEM, **mailers(OF_FILE)}}, []),
        # No default mailer is the safe side.
        ({"MAILERS": {}}, []),
    ],
)
def test_mailer_is_real_if_a_test_has_set_it(given, expected):  # pragma: mailers-only
    """Django 6.1: the test runner makes every mailer an in-memory one."""
    with override_settings(**given):
        assert real("shop") == expected


# The tests of ``project/`` are run as by its user.
OURS = "--testrunner=email_hosts.testing.runner.EmailHostsRunner"
PARALLEL = """
import multiprocessing
import sys
from django.core.management import execute_from_command_line
multiprocessing.set_start_method(sys.argv.pop(1))
execute_from_command_line([*sys.argv, "--parallel=2"])
"""
# The plugins of others cost time, and are not what is tested.
PYTEST = ["-m", "pytest", "-c", os.devnull, "-p", "pytest_django.plugin"]
PLUGIN = ["-p", "email_hosts.testing.pytest"]
IN_PARALLEL = "4 passed" if DJANGO_HAS_MAILERS else "3 passed, 1 skipped"
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}


@pytest.mark.parametrize(
    ("default", "command", "result"),
    [
        ("MAILERS", ["-m", "django", "test", "-k", "MailTest"], "Found 3 test(s)"),
        ("EMAIL_HOST", ["-m", "django", "test", OURS], "Found 4 test(s)"),
        ("nothing", PYTEST, "3 passed, 1 skipped"),
        ("empty MAILERS", [*PYTEST, *PLUGIN], "3 passed, 1 skipped"),
        ("MAILERS", ["-c", PARALLEL, "fork", "test", OURS], "Found 4 test(s)"),
        ("MAILERS", ["-c", PARALLEL, "spawn", "test", OURS], "Found 4 test(s)"),
        ("MAILERS", [*PYTEST, *PLUGIN, "-p", "xdist", "-n2"], IN_PARALLEL),
    ],
    ids=["django", "our runner", "pytest", "our plugin", "fork", "spawn", "xdist"],
)
def test_hosts_and_mailers_deliver_to_the_outbox(default, command, result):
    files = ["project/mail_tests.py"]
    if "pytest" not in command:
        files = ["--pattern=mail_tests.py", "project"]
    project = {"DJANGO_SETTINGS_MODULE": "project.settings", "DEFAULT": default}
    shown = run_python(*command, *files, environment={**ALONE, **project})
    assert result in shown
    has_mailers = default == "MAILERS" and DJANGO_HAS_MAILERS
    assert not (has_mailers and "skipped" in shown)


STANDALONE = """
from django.conf import settings
settings.configure(EMAIL_HOSTS={"shop": "smtp://h"})
from django.test.utils import setup_test_environment
from email_hosts.backends import get_connection
setup_test_environment()
print(type(get_connection("shop")).__name__)
"""


def test_script_without_a_settings_file_is_no_exception():
    assert run_python("-c", STANDALONE) == "OutboxBackend\n"


def test_plugin_does_nothing_without_settings(tmp_path):
    path = tmp_path / "test_nothing.py"
    path.write_text("def test_nothing():\n    pass\n")
    shown = run_python(*PYTEST, *PLUGIN, str(path), environment=ALONE)
    assert "1 passed" in shown
