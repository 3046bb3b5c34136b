"""Error reports of Django, in pages and in mails, without the secrets of hosts."""

from __future__ import annotations

import time
from traceback import walk_tb
from typing import Any

import pytest
from conftest import run_python
from django.conf import settings as django_settings
from django.test import RequestFactory, override_settings
from django.utils.functional import SimpleLazyObject
from django.views import debug as django_debug
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

from email_hosts import debug
from email_hosts.backends import get_connection

USER, PASSWORD = "Kx7vQz9", "Wj4bYt2"
STARS = SafeExceptionReporterFilter.cleansed_substitute
VALID = f"submission://{USER}:{PASSWORD}@smtp.example.com?timeout=5"
BROKEN = f"submission://{USER}:{PASSWORD}/@smtp.example.com?timeout=5"
BACKEND = "email_hosts.backends.EmailHostsBackend"
MAILER = {"BACKEND": BACKEND, "OPTIONS": {"host": "h", "password": PASSWORD}}
STARRED_MAILER = {"BACKEND": BACKEND, "OPTIONS": STARS}
HOSTS: dict[str, Any] = {"shop": VALID, "broken": BROKEN, "number": 5, "empty": ""}


def mistake():
    """A view that meets a host that cannot be parsed, in a project with others."""
    hosts = {**django_settings.EMAIL_HOSTS, "other": "this one is shown"}
    customer = f"  'SUBMISSIONS://{USER}:{PASSWORD}/@smtp.example.net'\n"
    return get_connection("broken"), hosts, customer


def exception_of(function, *arguments):
    """Return the ``sys.exc_info()`` of a function that fails."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever it is)
        function(*arguments)
    return caught.type, caught.value, caught.tb


def reports_of(request, exc_info):
    reporter = ExceptionReporter(request, *exc_info)
    assert isinstance(reporter.filter, debug.EmailHostsReporterFilter)
    return reporter.get_traceback_html(), reporter.get_traceback_text()


@pytest.mark.parametrize("in_debug", [True, False])
def test_report_shows_the_keys_of_hosts_and_no_secret(in_debug, settings):
    """In settings, environment and variables, as HTML and as text."""
    settings.DEBUG, settings.ROOT_URLCONF = in_debug, ()
    settings.EMAIL_HOSTS = HOSTS
    settings.FROM_ENVIRONMENT = {"hosts": [VALID, (VALID,)]}
    # Django lists the environment of runserver in request.META.
    request = RequestFactory(SHOP_HOST=VALID, BROKEN_HOST=BROKEN).get("/")
    html, text = reports_of(request, exception_of(mistake))
    assert "this one is shown" in html
    for report in (html, text):
        for key in ("EMAIL_HOSTS", "shop", "broken", "SHOP_HOST", "FROM_ENVIRONMENT"):
            assert key in report
        assert USER not in report
        assert PASSWORD not in report


def shown(frame_globals, frame_locals, code="1 / 0"):
    """Return what the filter shows of the frame that fails."""
    _, _, traceback = exception_of(exec, code, frame_globals, frame_locals)
    *_, (frame, _) = walk_tb(traceback)
    return dict(debug.EmailHostsReporterFilter().get_traceback_frame_variables(None, frame))


def as_variable(value, module: Any = "shop.views"):
    """Return what the filter shows of a variable of a frame in this module."""
    return shown({"__name__": module}, {"value": value})["value"]


def as_setting(value, name="OTHER"):
    """Return what the filter shows of a setting, or of the environment."""
    return debug.EmailHostsReporterFilter().cleanse_setting(name, value)


class Hostile:
    """Something that fails, whatever is asked of it. Error reports are full of such."""

    def fail(self, *args):
        raise ZeroDivisionError

    __class__ = property(fail)
    __eq__ = __ne__ = __hash__ = __bool__ = __len__ = __iter__ = fail
    __getitem__ = __contains__ = __call__ = __str__ = __repr__ = fail


class HostileDict(dict[str, Any]):
    items = keys = values = get = __iter__ = __len__ = Hostile.fail


HOSTILE = {
    "lazy": SimpleLazyObject(lambda: VALID),
    "dict": HostileDict(a=VALID),
    "object": Hostile(),
    "items": [Hostile(), {"a": Hostile()}],
}


@pytest.mark.parametrize("name", ["EMAIL_HOSTS", "MAILERS", "OTHER"])
@pytest.mark.parametrize("what", HOSTILE)
def test_report_is_made_whatever_is_in_it(what, name):
    value = HOSTILE[what]
    hosts = {"shop": {"BACKEND": "x", "OPTIONS": value, "OTHER": {"x": value}}, "x": value}
    for setting in (value, hosts):
        with override_settings(**{name: setting}):
            variables = {"value": value, "hosts": hosts}
            html, text = reports_of(None, exception_of(exec, "1 / 0", {}, variables))
        assert name in html
        assert "ZeroDivisionError" in text


def test_frame_that_cannot_be_looked_at_shows_no_value():
    assert shown(HostileDict(__name__="shop"), {"x": VALID}) == {}
    assert shown({}, HostileDict(x=VALID)) == {}


@pytest.mark.parametrize("place", [as_variable, as_setting])
class TestText:
    @pytest.mark.parametrize(
        "dsn",
        [
            *(VALID, VALID.upper(), f"\n '{VALID}'\n", "smtp://u:secret@"),
            *("smtps://h?password=x", "anymail+mailgun://?api_key=x", "backend:a.b.C?key=x"),
            "failover:smtp://user:secret@a,smtp://user:secret@b",
        ],
    )
    def test_dsn_with_a_login_or_options_is_starred(self, dsn, place):
        assert place(dsn) == STARS

    @pytest.mark.parametrize(
        "value",
        [
            *("smtp://mail.example.com?ssl", "file:///srv/mail@2?_server_email=a@example.com"),
            *(f"My host is {VALID}", "postgres://user:secret@db/shop"),
            SimpleLazyObject(lambda: VALID),
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


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("EMAIL_HOSTS", HOSTS, dict.fromkeys(HOSTS, STARS)),
        ("EMAIL_HOSTS", {VALID: "x"}, {STARS: STARS}),
        ("MAILERS", {"a": MAILER, "b": VALID}, {"a": STARRED_MAILER, "b": STARS}),
        ("MAILERS", {"c": {"BACKEND": VALID, "x": 1}}, {"c": {"BACKEND": STARS, "x": STARS}}),
        ("SECRET_KEY", "x", STARS),  # Django's own rule
    ],
)
def test_setting_shows_keys_and_backends_only(name, value, expected):
    assert repr(as_setting(value, name)) == repr(expected)


def test_setting_that_holds_itself_fails_as_with_djangos_filter():
    """To star each level of it would take for ever."""
    endless: list[object] = []
    endless += [endless, endless]
    with pytest.raises(RecursionError):
        as_setting(endless)


class TestVariable:
    @pytest.mark.parametrize(
        "value",
        [
            *({"a": VALID, "b": "x", 3: None}, {VALID: "shop"}, [[VALID], range(5)]),
            *(MAILER, {"all": {"shop": MAILER}}, [({"a": "x"}, {"b": VALID})]),
            *({"shop": VALID}.items(), {"all": ({"shop": VALID}.values(),)}),
        ],
    )
    def test_plain_container_of_dsns_is_starred(self, value):
        assert as_variable(value) == STARS

    def test_what_is_not_searched_is_left_alone(self):
        for value in (VALID.encode(), [[[[VALID]]]], {VALID}, [*range(100_000)]):
            assert as_variable(value) is value

    @pytest.mark.parametrize("setting", ["EMAIL_HOSTS", "MAILERS"])
    def test_whole_setting_is_starred_however_long(self, setting, settings):
        hosts = {f"shop-{i}": VALID for i in range(debug.MAX_ITEMS + 1)}
        setattr(settings, setting, hosts)
        assert as_variable({"mail": [hosts]}) == as_variable(hosts.items()) == STARS

    @pytest.mark.parametrize(
        ("module", "expected"),
        [
            *(("email_hosts.backends.smtp", STARS), ("django.core.mail.handler", STARS)),
            *(("email_hosts_of_shop", 5), (None, 5)),
        ],
    )
    def test_of_our_frames_and_those_that_make_a_mailer_is_starred(self, module, expected):
        code = "def f(a):\n  b = a\n  1 / 0\nf(5)"
        assert shown({"__name__": module}, None, code) == {"a": expected, "b": expected}


NAME = "DEFAULT_EXCEPTION_REPORTER_FILTER"
DJANGOS = "django.views.debug.SafeExceptionReporterFilter"


class Filter(SafeExceptionReporterFilter):
    """A project's own."""


class Subclass(debug.EmailHostsReporterFilter):
    """As the README advises."""


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

    @pytest.mark.parametrize("apps", [["email_hosts"], []])
    def test_replaces_one_that_others_hold(self, apps, in_force, caplog):
        """As django-debug-toolbar does. It outlasts a test that overrides settings."""
        get_safe_settings = in_force().get_safe_settings
        assert not debug.is_installed()
        with override_settings(EMAIL_HOSTS=HOSTS, INSTALLED_APPS=apps):
            debug.install()
            assert ("not in INSTALLED_APPS" in caplog.text) == (apps == [])
            assert get_safe_settings()["EMAIL_HOSTS"] == dict.fromkeys(HOSTS, STARS)
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

    def test_comes_with_the_app(self):
        code = (
            "import django; django.setup(); from django.views import debug;"
            "print(type(debug.ExceptionReporter(None, None, None, None).filter).__name__)"
        )
        assert run_python("-c", code) == "EmailHostsReporterFilter\n"
