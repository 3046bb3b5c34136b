"""A backend that is not ours, as a host."""

import copy
from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest
from conftest import Recorder, told, wrapped
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend

from email_hosts.backends import HostBackend, can_be_retried, get_connection
from email_hosts.exceptions import InvalidEmailHost


@pytest.fixture
def host():
    return wrapped()


class TestWrappedBackend:
    """It shows through."""

    def test_must_be_named(self):
        with pytest.raises(InvalidEmailHost, match="option 'backend' must name the backend"):
            HostBackend()

    def test_gets_a_list_as_it_is(self, host, new_message):
        with host as connection:
            assert connection is host
            assert host.send_messages([new_message() for _ in range(3)]) == 3
            assert host.send_messages([]) == 0
        assert host.open() is True
        assert host.calls == ["open", 3, 0, "close", "open"]

    @pytest.mark.parametrize(
        ("is_new", "calls"), [(True, ["open", 1, 1, 1, "close"]), (False, ["open", 1, 1, 1])]
    )
    def test_gets_what_comes_from_a_generator_one_by_one(
        self, is_new, calls, host, new_message, monkeypatch
    ):
        """Over one connection, which stays open if it was."""
        monkeypatch.setattr(host.wrapped, "open", lambda: host.calls.append("open") or is_new)
        assert host.send_messages(new_message() for _ in range(3)) == 3
        assert host.send_messages(iter(())) == 0
        assert host.calls == calls

    def test_that_cannot_be_opened_has_sent_nothing(self, host, monkeypatch):
        monkeypatch.setattr(host.wrapped, "open", mock.Mock(side_effect=ValueError("no key")))
        with pytest.raises(ValueError, match="no key") as caught:
            host.open()
        assert can_be_retried(caught.value)

    def test_may_be_one_that_is_made_already(self):
        recorder: Any = Recorder()
        assert HostBackend(recorder, alias="shop").wrapped is recorder
        assert recorder.alias == "shop"
        assert HostBackend("conftest.Recorder").wrapped.alias is None

    def test_shows_its_attributes_and_takes_none(self, host):
        assert host.failure is None
        with pytest.raises(AttributeError, match="missing"):
            _ = host.missing
        host.failure = OSError()
        assert host.wrapped.failure is None
        assert copy.copy(host).wrapped is not host.wrapped


class Relay(EmailBackend):
    """A project's own."""


RELAY, DJANGOS = f"{__name__}.Relay", "django.core.mail.backends.smtp.EmailBackend"


@pytest.mark.filterwarnings("ignore:The EMAIL_.* setting is deprecated")
class TestDjangosSMTPBackend:
    """Its values are complete: no credential of the project goes to another server."""

    pytestmark = pytest.mark.parametrize("path", [DJANGOS, RELAY])

    @pytest.fixture(autouse=True)
    def globals(self, settings):
        settings.EMAIL_HOST, settings.EMAIL_PORT = "global.example.com", 2525
        settings.EMAIL_HOST_USER = "global-user"
        settings.EMAIL_HOST_PASSWORD = "global-password"
        settings.EMAIL_USE_TLS, settings.EMAIL_TIMEOUT = True, 7
        settings.EMAIL_SSL_CERTFILE = settings.EMAIL_SSL_KEYFILE = "global.pem"

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, {"port": 25, "username": "", "use_tls": False, "timeout": 60}),
            ({"use_tls": True}, {"port": 587, "use_tls": True, "use_ssl": False}),
            ({"use_ssl": True}, {"port": 465, "use_tls": False, "use_ssl": True}),
            ({"username": "global-user"}, {"username": "global-user", "password": ""}),
        ],
    )
    def test_has_no_value_of_a_global_setting(self, options, expected, path):
        backend = HostBackend(path, host="other.example.com", **options).wrapped
        for name, value in expected.items():
            assert (getattr(backend, name) or "") == (value or "")  # None since Django 6.1
        given = {"global-user"} & {*options.values()}
        assert {value for value in vars(backend).values() if "global" in str(value)} == given

    @pytest.mark.parametrize("options", [{}, {"host": ""}])
    def test_needs_a_host(self, options, path):
        with pytest.raises(ImproperlyConfigured, match="'host'"):  # Django's own since 6.1
            HostBackend(path, **options)


class OfRecorder(Exception):
    """An error of the package that a backend is in."""

    __module__ = "conftest.errors"


class TestFailSilently:
    """The host ignores errors of mail, and not the backend."""

    @pytest.fixture
    def host(self):
        return wrapped(fail_silently=True)

    def test_each_message_is_sent_by_itself(self, host, new_message, caplog):
        assert "fail_silently" not in host.wrapped.options
        host.wrapped.failure = OSError("no")
        assert host.send_messages([new_message(), new_message()]) == 0
        assert host.calls == ["open", 1, 1, "close"]
        assert caplog.messages == ['host "shop": OSError, ignored by fail_silently'] * 2

    @pytest.mark.parametrize("error", [OSError("no"), OfRecorder("no"), ValueError("no")])
    def test_open_ignores_errors_of_mail_only(self, error, host, message, monkeypatch, caplog):
        monkeypatch.setattr(host.wrapped, "open", mock.Mock(side_effect=error))
        is_of_mail = not isinstance(error, ValueError)
        for call in (host.open, lambda: host.send_messages([message])):
            with nullcontext() if is_of_mail else pytest.raises(ValueError, match="no"):
                assert not call()
        text = f'host "shop": {type(error).__name__}, ignored by fail_silently'
        assert caplog.messages == [text] * 2 * is_of_mail


@pytest.mark.parametrize(
    ("answer", "number", "number_told"),
    [
        *((answer, 3, 3) for answer in (4, True, None, ["a task"])),
        *((answer, answer, 0) for answer in (2, 0)),  # it does not say which
    ],
)
@pytest.mark.parametrize("key", ["shop", "all"])
def test_answer_of_the_backend_says_how_many_it_has_taken(
    answer, number, number_told, key, new_message, settings, monkeypatch
):
    monkeypatch.setattr(Recorder, "answer", answer)
    settings.EMAIL_HOSTS = {"shop": "backend://conftest.Recorder", "all": "failover:shop"}
    with told() as heard:
        sent = get_connection(key).send_messages([new_message() for _ in range(3)])
    if key == "all":  # one by one, so any number but 0 is enough
        number = number_told = 3 if answer != 0 else 0
    assert (sent, len(heard)) == (number, number_told)


class WithReduce(EmailMessage):
    """Says to ``copy()`` how it is made."""

    def __reduce__(self):  # pragma: no cover (nobody may ask)
        return EmailMessage, ("of a copy",)


class WithNew(EmailMessage):
    """Is not made without its subject."""

    def __new__(cls, subject, *args, **options):
        return super().__new__(cls)


class LooksLikeOne:
    """Has what Django's backends ask for, and no more."""

    encoding = None

    def __init__(self, *args, **options):
        message = EmailMessage(*args, **options)
        vars(self).update(subject=message.subject, from_email=None, to=message.to)

    def recipients(self):
        return self.to  # type: ignore[attr-defined]

    def message(self, **options):
        message = EmailMessage()
        vars(message).update(vars(self))
        return message.message(**options)


@pytest.mark.parametrize("kind", [WithReduce, WithNew, LooksLikeOne])
def test_message_of_each_class_is_sent_with_all_that_it_has(kind, serve, settings):
    """Each host that changes a message changes a copy."""
    server, message = serve(), kind("Hello", "World", to=["a@example.net"])
    query = "_default_from_email=shop@example.com&_header-X-Shop=1"
    settings.EMAIL_HOSTS = {"shop": f"smtp://127.0.0.1:{server.port}?{query}"}
    before = dict(vars(message))
    assert get_connection("shop").send_messages([message]) == 1
    assert vars(message) == before
    (accepted,) = server.accepted
    assert accepted.sender == "shop@example.com"
    assert b"\nSubject: Hello" in accepted.content


def test_interrupted_list_says_nothing_of_what_was_sent(host, new_message):
    host.wrapped.failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        host.send_messages([new_message(), new_message()])
    assert not hasattr(caught.value, "unsent")
