"""Error reports of Django, in pages and in mails, without the secrets of hosts."""

from __future__ import annotations

import logging
import smtplib
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from unittest import mock

import django.views.debug
import pytest
from conftest import ServerFactory
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import path
from django.utils.log import AdminEmailHandler

from email_hosts import debug
from email_hosts.backends import connection_from_dsn, get_connection

USER, PASSWORD = "Kx7vQz9", "Wj4bYt2"
VALID = f"submission://{USER}:{PASSWORD}@smtp.example.com?timeout=5"
BROKEN = f"submission://{USER}:{PASSWORD}/@smtp.example.com?timeout=5"


def divide(request: HttpRequest) -> HttpResponse:
    """A view with an ordinary mistake, in a project with hosts."""
    dsn = settings.EMAIL_HOSTS["shop"]
    hosts = [settings.EMAIL_HOSTS, [dsn], (dsn,), {dsn}, f"my {dsn}", dsn.encode()]
    items = OrderedDict(settings.EMAIL_HOSTS).items()
    customer = f"submissions://{USER}:{PASSWORD}/@smtp.example.net"
    return HttpResponse(f"{hosts}{items}{customer}", status=1 // 0)


def parse(request: HttpRequest) -> HttpResponse:
    """A view that meets a host that cannot be parsed."""
    return HttpResponse(get_connection("broken"))


def tenant(request: HttpRequest) -> HttpResponse:
    """One that takes it from elsewhere."""
    return HttpResponse(connection_from_dsn(settings.EMAIL_HOSTS["broken"]))


def log_in(request: HttpRequest) -> HttpResponse:
    """One whose login is refused, with the login in the frames of smtplib."""
    return HttpResponse(get_connection("refused").open())


VIEWS: list[Callable[[HttpRequest], HttpResponse]] = [divide, parse, tenant, log_in]
urlpatterns = [path(f"{view.__name__}/", view) for view in VIEWS]


@pytest.fixture
def project(start_server: ServerFactory, settings: Any) -> Any:
    """A project with hosts, one of them broken, one with the wrong login."""
    server = start_server(login=("some", "body"))
    settings.ROOT_URLCONF = __name__
    settings.ALLOWED_HOSTS = ["testserver"]
    settings.EMAIL_HOSTS = {
        "shop": VALID,
        "broken": BROKEN,
        "refused": f"smtp://{USER}:{PASSWORD}@127.0.0.1:{server.port}",
        "number": 5,
        "empty": "",
    }
    # Django lists the environment of runserver in request.META.
    return Client(raise_request_exception=False, SHOP_HOST=VALID, BROKEN_HOST=BROKEN)


def assert_no_secret(report: str) -> None:
    __tracebackhide__ = True
    for secret in (USER, PASSWORD):
        at = report.find(secret)
        assert at == -1, report[max(at - 200, 0) : at + 100]


@pytest.mark.parametrize("view", [view.__name__ for view in VIEWS])
@pytest.mark.parametrize("accept", ["text/html", "text/plain"])
def test_debug_page_shows_hosts_without_secrets(
    view: str, accept: str, project: Client
) -> None:
    with override_settings(DEBUG=True):
        response = project.get(f"/{view}/", headers={"accept": accept})
    report = response.content.decode()
    assert response.status_code == 500
    assert "submission://*****:*****@smtp.example.com?timeout=5" in report
    assert_no_secret(report)


@pytest.mark.filterwarnings("ignore:Django 2028 will not have a default mailer")
@pytest.mark.parametrize("view", [view.__name__ for view in VIEWS])
@pytest.mark.parametrize("debug_setting", [True, False])
def test_mail_to_admins_shows_hosts_without_secrets(
    view: str, debug_setting: bool, project: Client, mailoutbox: list[Any]
) -> None:
    request = RequestFactory().get("/", SHOP_HOST=VALID)
    try:
        globals()[view](request)
    except Exception:
        exc_info = sys.exc_info()
    record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "failed", (), exc_info)
    record.request = request
    with override_settings(DEBUG=debug_setting):
        AdminEmailHandler(include_html=True).emit(record)
    (message,) = mailoutbox
    for text in (message.body, message.alternatives[0][0]):
        assert "submission://*****:*****@smtp.example.com?timeout=5" in text
        assert_no_secret(text)


class TestFilter:
    """What it hides of a setting."""

    filter = debug.EmailHostsReporterFilter()

    def test_shows_a_host_without_its_secrets(self) -> None:
        assert self.filter.cleanse_setting(
            "EMAIL_HOSTS", {"a": VALID, "b": BROKEN, "c": 5}
        ) == {
            "a": "submission://*****:*****@smtp.example.com?timeout=5",
            "b": "*****",
            "c": "*****",
        }

    @pytest.mark.parametrize("value", [[VALID], VALID, None])
    def test_shows_nothing_of_what_is_no_dict(self, value: Any) -> None:
        assert self.filter.cleanse_setting("EMAIL_HOSTS", value) == "*" * 20

    def test_hides_the_login_of_mailers(self) -> None:
        options = {"host": "h", "username": USER, "password": PASSWORD}
        mailers = {"shop": {"BACKEND": "x", "OPTIONS": options}}
        assert self.filter.cleanse_setting("MAILERS", mailers)["shop"]["OPTIONS"] == {
            "host": "h",
            "username": "*" * 20,
            "password": "*" * 20,
        }

    @override_settings(EMAIL_HOSTS={"short": "e", "colon": ":"})
    def test_does_not_look_for_mere_words(self) -> None:
        assert self.filter.cleanse_setting("OTHER", "hello") == "hello"

    @override_settings(EMAIL_HOSTS=[VALID])
    def test_knows_a_dsn_wherever_it_is(self) -> None:
        shown = self.filter.cleanse_setting("OTHER", f"{VALID}, {VALID}")
        assert shown == ", ".join(["submission://*****:*****@smtp.example.com?timeout=5"] * 2)

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("SMTP://u:{}@h", "SMTP://*****:*****@h"),
            ("smtp://u:it's{}@h", "smtp://*****:*****@h"),
            ('smtp://u:{} "x"@h', "smtp://*****:*****@h"),
            ("smtp://u:{0}@h smtps://u:{0}@i", "smtp://*****:*****@h smtps://*****:*****@i"),
            ("anymail+brevo:?api_key={0}&x={0}", "anymail+brevo:?api_key=*****&x=*****"),
            ("backend://shop.mail.Mail?key={}", "backend://shop.mail.Mail?key=*****"),
            ("smtp://h, and then me@example.com", "smtp://*****:*****@example.com"),
        ],
    )
    def test_knows_a_dsn_from_elsewhere(self, value: str, expected: str) -> None:
        assert self.filter.cleanse_setting("OTHER", value.format(PASSWORD)) == expected

    @pytest.mark.parametrize("password", [PASSWORD, f"it's {PASSWORD}", f'"{PASSWORD}'])
    def test_knows_a_dsn_among_other_values(self, password: str) -> None:
        values = [f"smtp://u:{password}@h", "me@example.com", b"x"]
        shown = repr(self.filter.cleanse_setting("OTHER", values)).replace('"', "'")
        assert shown == "['smtp://*****:*****@h', 'me@example.com', b'x']"

    def test_knows_a_dsn_that_begins_another(self) -> None:
        dsn = "anymail+mailgun://?sender_domain=mg.example.com"
        with override_settings(EMAIL_HOSTS={"a": dsn, "b": f"{dsn}&api_key={PASSWORD}"}):
            shown = self.filter.cleanse_setting("OTHER", f"{dsn}&api_key={PASSWORD}")
        assert shown == "anymail+mailgun://?sender_domain=*****&api_key=*****"

    def test_is_quick_with_many_hosts(self) -> None:
        """What a host is redacted to is worked out only where the host is."""
        hosts = {str(i): f"smtp://u:p@h?timeout={i}x" for i in range(1000)}
        with override_settings(EMAIL_HOSTS=hosts), mock.patch.object(debug, "redacted") as spy:
            for _ in range(100):
                self.filter.cleanse_setting("OTHER", "x" * 100)
        assert spy.call_count == 0

    @override_settings(EMAIL_HOSTS=[VALID])
    def test_leaves_other_settings_alone(self) -> None:
        assert self.filter.cleanse_setting("OTHER", ["x", 5]) == ["x", 5]
        assert self.filter.cleanse_setting("DEBUG", True) is True


class Unshowable:
    """Something broken, as error reports are full of."""

    def __repr__(self) -> str:
        raise ValueError


def test_report_survives_what_cannot_be_shown(project: Client) -> None:
    broken = [VALID, Unshowable()]
    variables = dict(
        debug.EmailHostsReporterFilter().get_traceback_frame_variables(None, sys._getframe())
    )
    assert variables["broken"] is broken


class TestInstall:
    """The app puts the filter in place."""

    def test_is_done_when_the_app_is_ready(self) -> None:
        assert settings.DEFAULT_EXCEPTION_REPORTER_FILTER == debug.FILTER
        assert debug.is_installed()

    @pytest.mark.parametrize("chosen", ["no.such.Filter", "builtins.print"])
    def test_is_not_done_with_what_is_no_class(self, chosen: str) -> None:
        with override_settings(DEFAULT_EXCEPTION_REPORTER_FILTER=chosen):
            assert not debug.is_installed()

    def test_leaves_a_filter_that_the_project_has_chosen(self) -> None:
        chosen = "django.views.debug.SafeExceptionReporterFilter"
        with override_settings(DEFAULT_EXCEPTION_REPORTER_FILTER=chosen):
            debug.install()
            assert chosen == settings.DEFAULT_EXCEPTION_REPORTER_FILTER
            assert not debug.is_installed()

    def test_replaces_a_filter_that_has_reported_an_error_before(self) -> None:
        kept = django.views.debug.get_default_exception_reporter_filter()
        debug.install()
        assert django.views.debug.get_default_exception_reporter_filter() is not kept


def test_frame_without_a_name_is_no_problem() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        exec("x = 5; 1 / 0", {"__name__": None})
    traceback: Any = caught.value.__traceback__
    while traceback.tb_next:
        traceback = traceback.tb_next
    variables = debug.EmailHostsReporterFilter().get_traceback_frame_variables
    assert dict(variables(None, traceback.tb_frame))["x"] == 5


def test_login_is_hidden_by_djangos_own_filter_too(project: Client) -> None:
    """What sensitive_variables marks, each filter hides, while DEBUG is off."""
    django_filter = django.views.debug.SafeExceptionReporterFilter()
    with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
        get_connection("refused").open()
    frame = caught.value.__traceback__
    shown = []
    while frame is not None:
        shown.append(dict(django_filter.get_traceback_frame_variables(None, frame.tb_frame)))
        frame = frame.tb_next
    ours = shown[1:]  # the first is this test's own
    assert len(ours) > 3
    assert not any(secret in str(ours) for secret in (USER, PASSWORD))
