"""A backend that is not ours, as a host."""

import copy
import pickle
from typing import Any
from unittest import mock

import pytest
from conftest import Recorder, mails, told, wrapped
from django.core.mail import EmailMessage
from django.core.mail.backends import smtp
from django.core.mail.backends.base import BaseEmailBackend
from scripted import CLOSE, at

from email_hosts.backends import HostBackend, RoutingBackend, get_connection


@pytest.fixture
def host():
    return wrapped()


class TestWrappedBackend:
    """It shows through."""

    def test_gets_a_list_as_it_is(self, host, new_message):
        with host as connection:
            assert connection is host
            assert host.send_messages([new_message() for _ in range(3)]) == 3
            assert host.send_messages([]) == 0
        assert host.open() is True
        assert host.calls == ["open", 3, 0, "close", "open"]

    @pytest.mark.parametrize("is_new", [True, False])
    def test_gets_a_generator_one_by_one(self, is_new, host, new_message, monkeypatch):
        """Over one connection, which stays open if it was."""
        monkeypatch.setattr(host.wrapped, "open", lambda: host.calls.append("open") or is_new)
        assert host.send_messages(new_message() for _ in range(3)) == 3
        assert host.send_messages(iter(())) == 0
        assert host.calls == ["open", 1, 1, 1, *["close"] * is_new]

    @pytest.mark.parametrize("end", [CLOSE, "421 enough"])
    def test_that_has_lost_its_connection_gets_a_new_one(self, end, serve):
        """Django's backend would go on over what is lost."""
        server = serve(at("MAIL", None, end))
        wrapped = smtp.EmailBackend("127.0.0.1", server.port, alias="shop")
        host = HostBackend(wrapped, fail_silently=True)
        assert host.send_messages(mails(*"abcd")) == 3
        assert server.connections == 2

    def test_may_fail_to_close(self, host, new_message, monkeypatch):
        """What it has taken, it has taken."""
        monkeypatch.setattr(host.wrapped, "close", mock.Mock(side_effect=OSError))
        assert host.send_messages(new_message() for _ in range(2)) == 2
        monkeypatch.setattr(host.wrapped, "close", mock.Mock(side_effect=LookupError))
        with pytest.raises(LookupError):
            host.send_messages(new_message() for _ in range(2))

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


class Queue(BaseEmailBackend):
    """Pickles messages. Its constructor is older than Django 6.1, and takes no alias."""

    def __init__(self, fail_silently: bool = False, **options: Any) -> None:
        super().__init__(fail_silently=fail_silently, **options)

    def send_messages(self, messages: Any) -> int:
        kept.extend(pickle.loads(pickle.dumps(each)) for each in messages)
        return 1


kept: list[Any] = []


@pytest.mark.filterwarnings("ignore:.*does not support 'fail_silently'")
def test_queue_may_pickle_a_message_that_has_our_default_backend(settings):
    settings.EMAIL_HOSTS = {"default": f"backend://{__name__}.Queue"}
    (message,) = mails("a")
    vars(message).update(connection=RoutingBackend(), _connection=RoutingBackend())
    assert RoutingBackend().send_messages([message]) == 1
    assert {vars(kept[-1])[name] for name in ("connection", "_connection")} == {None}


TEXTS = ("HOST", "HOST_USER", "HOST_PASSWORD", "SSL_CERTFILE", "SSL_KEYFILE")
GLOBAL = {"PORT": 2525, "USE_TLS": True, "TIMEOUT": 7, **dict.fromkeys(TEXTS, "global")}
# The login of a call, as Django 6.1 gives it to a default mailer.
OF_A_CALL = {"username": "global", "_ignore_unknown_kwargs": {"username", "password"}}


@pytest.mark.filterwarnings("ignore:The EMAIL_.* setting is deprecated")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"port": 25, "username": "", "use_tls": False, "timeout": 60}),
        ({"use_tls": True}, {"port": 587, "use_tls": True, "use_ssl": False}),
        ({"use_ssl": True}, {"port": 465, "use_tls": False, "use_ssl": True}),
        ({"username": "global"}, {"username": "global", "password": ""}),
        (OF_A_CALL, {"username": "global"}),
    ],
)
def test_djangos_smtp_backend_has_no_value_of_a_global_setting(options, expected, settings):
    """No credential of the project goes to another server."""
    for name, value in GLOBAL.items():
        setattr(settings, f"EMAIL_{name}", value)
    path = "django.core.mail.backends.smtp.EmailBackend"
    backend = HostBackend(path, host="other.example.com", **options).wrapped
    for name, value in expected.items():
        assert (getattr(backend, name) or "") == (value or "")  # None since Django 6.1
    assert ("global" in vars(backend).values()) == ("global" in options.values())


@pytest.mark.parametrize(
    ("error", "expected"), [(KeyboardInterrupt, []), (OSError, [(None, OSError)])]
)
def test_failure_of_a_list_is_told_once_and_of_no_message(error, expected, host):
    """Nor does it say what was sent."""
    host.wrapped.failure = error()
    with told() as heard, pytest.raises(error) as caught:
        host.send_messages(mails("a", "b"))
    assert heard == expected
    assert not hasattr(caught.value, "unsent")


def test_message_that_was_not_taken_has_no_error_of_another():
    host = wrapped(fail_silently=True)
    host.wrapped.send_messages = mock.Mock(side_effect=[0, OSError("no")])
    with told() as heard:
        assert host.send_messages(mails("a", "b")) == 0
    assert heard == [("b", OSError)]


@pytest.mark.parametrize(
    ("answer", "number", "told_of"),
    [
        *((answer, 3, "012") for answer in (3, 5, True, None, ["a task"])),
        *((answer, answer, "") for answer in (2, 0)),  # it does not say which
    ],
)
@pytest.mark.parametrize("key", ["shop", "all"])
def test_answer_says_how_many_were_taken(answer, number, told_of, key, settings, monkeypatch):
    monkeypatch.setattr(Recorder, "answer", answer)
    settings.EMAIL_HOSTS = {"shop": "backend://conftest.Recorder", "all": "failover:shop"}
    with told() as heard:
        sent = get_connection(key).send_messages(mails(*"012", ""))  # the last is to nobody
    if key == "all":  # one by one, so any number but 0 is enough
        number, told_of = (3, "012") if answer != 0 else (0, "")
    assert (sent, heard) == (number, [(subject, None) for subject in told_of])


class WithReduce(EmailMessage):
    """Says to ``copy()`` how it is made."""

    def __reduce__(self):  # pragma: no cover (nobody may ask)
        return EmailMessage, ("of a copy",)


class LooksLikeOne:
    """Has what Django's backends ask for, and no more."""

    encoding = None

    def __init__(self, subject, body, to):
        self.subject, self.from_email, self.to = subject, None, to

    def recipients(self):
        return self.to

    def message(self, **options):
        message = EmailMessage()
        vars(message).update(vars(self))
        return message.message(**options)


@pytest.mark.parametrize("kind", [WithReduce, LooksLikeOne])
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
