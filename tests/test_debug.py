"""Error reports of Django, in pages and in mails, without the secrets of hosts."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import run_python
from django.conf import settings as django_settings
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import path
from django.utils.functional import SimpleLazyObject
from django.utils.log import AdminEmailHandler
from django.views import debug as django_debug
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

from email_hosts import debug
from email_hosts.backends import get_connection

USER, PASSWORD = "Kx7vQz9", "Wj4bYt2"
STARS = SafeExceptionReporterFilter.cleansed_substitute
VALID = f"submission://{USER}:{PASSWORD}@smtp.example.com?timeout=5"
BROKEN = f"submission://{USER}:{PASSWORD}/@smtp.example.com?timeout=5"
MAILERS = {
    "shop": {
        "BACKEND": "email_hosts.backends.EmailHostsBackend",
        "OPTIONS": {"host": "h", "username": USER, "password": PASSWORD, "x": {"y": PASSWORD}},
    }
}
HOSTS: dict[str, Any] = {"shop": VALID, "broken": BROKEN, "number": 5, "empty": ""}


def mistake(request):
    """A view with an ordinary mistake, in a project with hosts."""
    hosts = {**django_settings.EMAIL_HOSTS, "other": "this one is shown"}
    customer = f"  'SUBMISSIONS://{USER}:{PASSWORD}/@smtp.example.net'\n"
    return HttpResponse([hosts, customer, 1 / 0])


def broken_host(request):
    """A view that meets a host that cannot be parsed."""
    return HttpResponse(get_connection("broken"))


VIEWS: list[Callable[[HttpRequest], HttpResponse]] = [mistake, broken_host]
urlpatterns = [path(f"{view.__name__}/", view) for view in VIEWS]


@pytest.fixture
def project(settings):
    """A project with hosts, one of them broken."""
    settings.ROOT_URLCONF = __name__
    settings.ALLOWED_HOSTS = ["testserver"]
    settings.EMAIL_HOSTS = HOSTS
    # Django lists the environment of runserver in request.META.
    settings.FROM_ENVIRONMENT = {"hosts": [VALID, (VALID,)]}


ENVIRONMENT: dict[str, Any] = {"SHOP_HOST": VALID, "BROKEN_HOST": BROKEN}


def exception_of(function, *arguments):
    """Return the ``sys.exc_info()`` of a function that fails."""
    try:
        function(*arguments)
    except Exception:
        return sys.exc_info()
    raise AssertionError  # pragma: no cover


def reports_of(request, exc_info):
    reporter = ExceptionReporter(request, *exc_info)
    assert isinstance(reporter.filter, debug.EmailHostsReporterFilter)
    return reporter.get_traceback_html(), reporter.get_traceback_text()


def debug_pages(view, outbox):
    client = Client(raise_request_exception=False, **ENVIRONMENT)
    with override_settings(DEBUG=True):
        for accept in ("text/html", "text/plain"):
            response = client.get(f"/{view.__name__}/", headers={"accept": accept})
            assert response.status_code == 500
            yield response.content.decode()


def mail_to_admins(view, outbox):
    request = RequestFactory(**ENVIRONMENT).get("/")
    exc_info = exception_of(view, request)
    record: Any = logging.LogRecord("x", logging.ERROR, "x.py", 1, "failed", (), exc_info)
    record.request = request
    AdminEmailHandler(include_html=True).emit(record)
    (message,) = outbox
    yield from (message.body, message.alternatives[0][0])


@pytest.mark.usefixtures("project")
@pytest.mark.filterwarnings("ignore:Django 2028 will not have a default mailer")
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("reports", [debug_pages, mail_to_admins])
def test_report_shows_the_keys_of_hosts_and_no_secret(view, reports, mailoutbox):
    """In settings, environment and variables, as HTML and as text."""
    for report in reports(view, mailoutbox):
        for key in ("EMAIL_HOSTS", "shop", "broken", "SHOP_HOST", "FROM_ENVIRONMENT"):
            assert key in report
        assert USER not in report
        assert PASSWORD not in report


@pytest.mark.usefixtures("project")
def test_report_shows_what_is_no_dsn():
    html, _ = reports_of(None, exception_of(mistake, HttpRequest()))
    assert "this one is shown" in html


def shown(frame_globals, frame_locals):
    """Return what the filter shows of a frame."""
    _, _, traceback = exception_of(exec, "1 / 0", frame_globals, frame_locals)
    frame = traceback.tb_next.tb_frame
    return dict(debug.EmailHostsReporterFilter().get_traceback_frame_variables(None, frame))


def as_variable(value, module="shop.views"):
    """Return what the filter shows of a variable of a frame in this module."""
    return shown({"__name__": module}, {"value": value}).get("value", "nothing")


def as_setting(value, name="OTHER"):
    """Return what the filter shows of a setting, or of the environment."""
    return debug.EmailHostsReporterFilter().cleanse_setting(name, value)


@pytest.mark.parametrize("place", [as_variable, as_setting])
class TestText:
    @pytest.mark.parametrize(
        "dsn",
        [
            VALID,
            BROKEN,
            VALID.upper(),
            f"\n {VALID}\n",
            f"'{VALID}'",
            "smtp://user:secret@",
            "smtps://h?password=secret",
            "anymail+mailgun://?api_key=secret",
            "backend://shop.mail.Backend?key=secret",
            "backend:shop.mail.Backend?key=secret",
            "failover:smtp://user:secret@a,smtp://user:secret@b",
        ],
    )
    def test_dsn_with_a_login_or_options_is_starred(self, dsn, place):
        assert place(dsn) == STARS
        assert place([dsn, {"a": (dsn,)}]) == [STARS, {"a": (STARS,)}]

    @pytest.mark.parametrize(
        "value",
        [
            "smtp://mail.example.com:25",
            "smtp://mail.example.com?ssl",
            "failover:shop,spare",
            "file:///srv/mail@2?_server_email=a@example.com",
            "backend:8080/?user=5",
            "backend: what=?",
            f"My host is {VALID}",
            "postgres://user:secret@db/shop?sslmode=require",
            5,
        ],
    )
    def test_any_other_value_is_left_alone(self, value, place):
        assert place(value) is value

    @pytest.mark.parametrize("text", ["backend:" * 200_000, "smtp://" + "x" * 1_000_000])
    def test_long_one_from_outside_does_not_stall_a_report(self, text, place):
        """It takes a millisecond; the limit is that of a machine with other things to do."""
        start = time.thread_time()
        assert place(text) is text
        assert time.thread_time() - start < 1


BACKEND = MAILERS["shop"]["BACKEND"]
NO_DICTS: list[Any] = [[VALID], VALID, None, SimpleLazyObject(dict)]


class TestSetting:
    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("EMAIL_HOSTS", HOSTS, dict.fromkeys(HOSTS, STARS)),
            ("EMAIL_HOSTS", {VALID: "x"}, {STARS: STARS}),
            ("MAILERS", MAILERS, {"shop": {"BACKEND": BACKEND, "OPTIONS": STARS}}),
            ("MAILERS", {"shop": VALID}, {"shop": STARS}),
            ("MAILERS", {"shop": {"BACKEND": VALID}}, {"shop": {"BACKEND": STARS}}),
            ("MAILERS", {"shop": {"OPTIONS": [VALID]}}, {"shop": {"OPTIONS": STARS}}),
            ("MAILERS", {"shop": {"OTHER": VALID}}, {"shop": {"OTHER": STARS}}),
            *(
                (name, value, STARS)
                for name in ("EMAIL_HOSTS", "MAILERS")
                for value in NO_DICTS
            ),
            ("SECRET_KEY", "x", STARS),  # Django's own rule
        ],
    )
    def test_shows_keys_and_backends_only(self, name, value, expected):
        assert as_setting(value, name) == expected

    def test_that_can_be_called_is_shown_as_django_shows_it(self):
        assert repr(as_setting(print, "CALLABLE")) == repr(print)

    def test_that_holds_itself_fails_as_with_djangos_filter(self):
        """To star each level of it would take for ever."""
        endless: list[object] = []
        endless += [endless, endless]
        for chosen in (SafeExceptionReporterFilter, debug.EmailHostsReporterFilter):
            with pytest.raises(RecursionError):
                chosen().cleanse_setting("OTHER", endless)

    def test_is_starred_with_the_substitute_of_a_subclass(self):
        class Filter(debug.EmailHostsReporterFilter):
            cleansed_substitute = "[hidden]"

        assert Filter().cleanse_setting("EMAIL_HOSTS", {"shop": VALID}) == {"shop": "[hidden]"}
        assert Filter().cleanse_setting("OTHER", VALID) == "[hidden]"


class TestVariable:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ({"a": VALID, "b": "x", 3: None}, {"a": STARS, "b": "x", 3: None}),
            (MAILERS["shop"], {"BACKEND": BACKEND, "OPTIONS": STARS}),
            ({"shop": VALID}.items(), [("shop", STARS)]),
            ({"shop": VALID}.values(), [STARS]),
            ({VALID: "shop"}, {STARS: "shop"}),
            ([("shop", VALID), ("club", "x")], [("shop", STARS), ("club", "x")]),
            ({"mail": {"hosts": [VALID]}}, {"mail": {"hosts": [STARS]}}),
            ({"all": MAILERS}, {"all": {"shop": {"BACKEND": BACKEND, "OPTIONS": STARS}}}),
            # Nobody has looked at the rest.
            ([VALID, *range(debug.MAX_ITEMS)], STARS),
            ([[VALID], [*range(debug.MAX_ITEMS)], [VALID]], STARS),
        ],
    )
    def test_dsn_in_plain_containers_is_starred(self, value, expected):
        assert as_variable(value) == expected

    @pytest.mark.parametrize(
        "value",
        [VALID.encode(), [[[[VALID]]]], {VALID}, [*range(100_000)]],
        ids=["bytes", "deep", "set", "long"],
    )
    def test_what_is_not_searched_is_left_alone(self, value):
        assert as_variable(value) is value

    @pytest.mark.parametrize("setting", ["EMAIL_HOSTS", "MAILERS"])
    @pytest.mark.parametrize(
        "within", [lambda hosts: hosts, lambda hosts: {"mail": [hosts]}, dict.items]
    )
    def test_whole_setting_is_starred_however_long(self, setting, within, settings):
        hosts = {f"shop-{i}": VALID for i in range(debug.MAX_ITEMS + 1)}
        setattr(settings, setting, hosts)
        assert PASSWORD not in str(as_variable(within(hosts)))

    @pytest.mark.parametrize("module", ["email_hosts.backends.smtp", debug.MAKES_MAILER])
    def test_of_our_frames_and_those_that_make_a_mailer_is_starred(self, module):
        names: dict[str, Any] = {"__name__": module}
        exec("def f(a):\n  b = a\n  1 / 0", names)
        _, _, traceback = exception_of(names["f"], 5)
        frame = traceback.tb_next.tb_frame
        variables = debug.EmailHostsReporterFilter().get_traceback_frame_variables
        assert dict(variables(None, frame)) == {"a": STARS, "b": STARS}

    @pytest.mark.parametrize("module", ["email_hosts_of_shop", "shop.email_hosts", None])
    def test_of_frames_of_others_is_shown(self, module):
        assert as_variable(5, module) == 5


class Hostile:
    """Something that fails, whatever is asked of it. Error reports are full of such."""

    def fail(self, *args):
        raise ZeroDivisionError

    __class__ = property(fail)
    __eq__ = __ne__ = __hash__ = __bool__ = __len__ = __iter__ = fail
    __getitem__ = __contains__ = __call__ = __str__ = fail


class Unshowable(Hostile):
    """One that cannot even be shown: a report with Django's own filter fails."""

    __repr__ = Hostile.fail


class HostileText(str):
    startswith = lower = partition = __getitem__ = __contains__ = Hostile.fail


class HostileDict(dict[str, Any]):
    items = keys = values = get = __iter__ = __len__ = Hostile.fail


VALUES = {
    "lazy text": SimpleLazyObject(lambda: VALID),
    "hostile": Hostile(),
    "unshowable": Unshowable(),
    "hostile text": HostileText(VALID),
    "hostile dict": HostileDict(a=VALID),
    "hostile items": [Hostile(), {"a": Unshowable()}],
}


@pytest.mark.parametrize("name", ["EMAIL_HOSTS", "MAILERS", "OTHER"])
@pytest.mark.parametrize("what", VALUES)
def test_report_is_made_whatever_is_in_it(what, name):
    value = VALUES[what]
    hosts = {"shop": {"BACKEND": "x", "OPTIONS": value, "OTHER": {"x": value}}, "x": value}
    for setting in (value, hosts):
        with override_settings(**{name: setting}):
            variables = {"value": value, "hosts": hosts}
            html, text = reports_of(None, exception_of(exec, "1 / 0", {}, variables))
        assert name in html
        assert "ZeroDivisionError" in text


def test_no_foreign_code_runs():
    text = HostileText(VALID)
    assert as_variable(text) is text


@pytest.mark.parametrize(
    ("frame_globals", "frame_locals"),
    [(HostileDict(__name__="shop"), {"x": VALID}), ({}, HostileDict(x=VALID))],
)
def test_frame_that_cannot_be_looked_at_shows_no_value(frame_globals, frame_locals):
    assert shown(frame_globals, frame_locals) == {}


NAME = "DEFAULT_EXCEPTION_REPORTER_FILTER"
DJANGOS = "django.views.debug.SafeExceptionReporterFilter"


class TestInstall:
    """The filter is in force, unless the project has chosen one."""

    @pytest.fixture
    def in_force(self, monkeypatch):
        """Ask Django for its filter, in a process where nobody has done so before."""
        ask: Any = django_debug.get_default_exception_reporter_filter
        monkeypatch.setattr(django_settings, NAME, DJANGOS)
        ask.cache_clear()
        yield ask
        ask.cache_clear()

    def test_changes_nothing_the_second_time(self, in_force):
        assert not debug.is_installed()
        debug.install()
        ours = in_force()
        debug.install()
        assert debug.is_installed()
        assert in_force() is ours
        assert type(ours) is debug.EmailHostsReporterFilter

    def test_outlasts_a_test_that_overrides_settings(self, in_force):
        with override_settings(DEBUG=True):
            debug.install()
        assert type(in_force()) is debug.EmailHostsReporterFilter
        debug.install()
        assert debug.is_installed()

    @pytest.mark.parametrize("chosen", [DJANGOS, f"{__name__}.Filter"])
    def test_leaves_a_filter_that_the_project_has_chosen(self, chosen, in_force):
        with override_settings(**{NAME: chosen}):
            before = type(in_force())
            debug.install()
            assert getattr(django_settings, NAME) == chosen
            assert type(in_force()) is before
            assert not debug.is_installed()

    def test_leaves_a_filter_that_another_app_has_put_in_place(self, in_force, monkeypatch):
        monkeypatch.setattr(django_settings, NAME, f"{__name__}.Filter")
        debug.install()
        assert type(in_force()) is Filter


class Filter(SafeExceptionReporterFilter):
    """A filter that a project has chosen."""


# What django-debug-toolbar does: ready() imports panels, and this is in one of them.
TOOLBAR_APP = "toolbar.Toolbar"
TOOLBAR = """
from django.apps import AppConfig


class Toolbar(AppConfig):
    name = "toolbar"

    def ready(self):
        global get_safe_settings
        from django.views.debug import get_default_exception_reporter_filter
        get_safe_settings = get_default_exception_reporter_filter().get_safe_settings
"""


@pytest.mark.parametrize("apps", [[TOOLBAR_APP, "email_hosts"], ["email_hosts", TOOLBAR_APP]])
def test_toolbar_shows_no_secrets_wherever_it_is_listed(apps, tmp_path):
    (tmp_path / "toolbar.py").write_text(TOOLBAR)
    (tmp_path / "shop.py").write_text(
        f"SECRET_KEY = 'x'; INSTALLED_APPS = {apps}; EMAIL_HOSTS = {{'shop': {VALID!r}}}"
    )
    printed = run_python(
        "-c",
        "import django; django.setup(); import toolbar; from django.views import debug;"
        "print(toolbar.get_safe_settings()['EMAIL_HOSTS']);"
        "print(debug.ExceptionReporter(None, None, None, None).filter.__class__.__name__)",
        cwd=tmp_path,
        environment={"DJANGO_SETTINGS_MODULE": "shop"},
    )
    assert printed == f"{{'shop': '{STARS}'}}\nEmailHostsReporterFilter\n"
