"""The sender of a host, on any backend."""

from __future__ import annotations

import copy
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from conftest import NewMessage
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.test import override_settings

from email_hosts.backends import HostBackend, get_connection

SENDERS = "_default_from_email=Shop <shop@example.com>&_server_email=alert@example.com"


class Recorder(BaseEmailBackend):
    """Notes what it gets, and what Anymail would note on a message. May fail."""

    failure: Exception | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls: list[str] = []
        self.got: list[EmailMessage] = []

    def open(self) -> bool:
        self.calls.append("open")
        return True

    def close(self) -> None:
        self.calls.append("close")

    def send_messages(self, email_messages: Any) -> int:
        sent = len(email_messages)
        while email_messages:  # as a backend may do with what is its own
            message = email_messages.pop(0)
            message.anymail_status = "queued"
            self.got.append(message)
        if self.failure:
            raise self.failure
        return sent


def wrapped(**senders: str) -> HostBackend:
    return HostBackend(f"{__name__}.Recorder", alias="shop", **senders)


@pytest.fixture
def host() -> HostBackend:
    """A host with a sender for messages and one for alerts."""
    return wrapped(
        default_from_email="Shop <shop@example.com>", server_email="alert@example.com"
    )


@pytest.mark.parametrize(
    ("from_email", "expected"),
    [
        (None, "Shop <shop@example.com>"),
        ("", "Shop <shop@example.com>"),
        ("project@example.com", "Shop <shop@example.com>"),
        ("root@example.com", "alert@example.com"),
        ("me@example.com", "me@example.com"),
        ("Project <project@example.com>", "Project <project@example.com>"),
    ],
)
def test_sender_is_the_hosts_unless_the_message_names_its_own(
    host: HostBackend, new_message: NewMessage, from_email: str | None, expected: str
) -> None:
    message = new_message()
    message.from_email = from_email  # type: ignore[assignment]
    assert host.send_messages([message]) == 1
    assert host.got[0].from_email == expected
    assert message.from_email == from_email


@pytest.mark.parametrize(
    ("senders", "expected"),
    [
        ({"default_from_email": "a@example.com"}, "root@example.com"),
        ({"server_email": "b@example.com"}, "b@example.com"),
        ({}, "root@example.com"),
    ],
)
def test_sender_that_a_host_does_not_have_stays(
    new_message: NewMessage, senders: dict[str, str], expected: str
) -> None:
    host = wrapped(**senders)
    host.send_messages([new_message(from_email="root@example.com")])
    assert host.got[0].from_email == expected


@override_settings(SERVER_EMAIL="project@example.com")
@pytest.mark.parametrize(
    ("senders", "expected"),
    [
        ({"server_email": "b@example.com"}, "b@example.com"),
        (
            {"default_from_email": "a@example.com", "server_email": "b@example.com"},
            "a@example.com",
        ),
    ],
)
def test_one_address_for_both_settings_is_first_of_all_the_default_sender(
    message: EmailMessage, senders: dict[str, str], expected: str
) -> None:
    host = wrapped(**senders)
    host.send_messages([message])
    assert host.got[0].from_email == expected


def test_from_header_of_the_message_stays_as_written(
    host: HostBackend, new_message: NewMessage
) -> None:
    host.send_messages([new_message(headers={"From": "Me <me@example.com>"})])
    assert host.got[0].message()["From"] == "Me <me@example.com>"


def test_message_is_as_it_was_when_the_send_fails(
    host: HostBackend, message: EmailMessage
) -> None:
    host.wrapped.failure = OSError("no")
    before = copy.copy(vars(message))
    with pytest.raises(OSError, match="no"):
        host.send_messages([message])
    assert {**before, "anymail_status": "queued"} == vars(message)


def test_what_the_backend_notes_is_on_the_callers_message(
    host: HostBackend, message: EmailMessage
) -> None:
    host.send_messages([message])
    assert message.anymail_status == "queued"  # type: ignore[attr-defined]


def test_sender_that_a_backend_rewrites_is_not_on_the_callers_message(
    host: HostBackend, message: EmailMessage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rewrite(messages: list[EmailMessage]) -> int:
        messages[0].from_email = "backend@example.com"
        return 1

    monkeypatch.setattr(host.wrapped, "send_messages", rewrite)
    host.send_messages([message])
    assert message.from_email == "project@example.com"


def test_sender_of_the_callers_message_never_changes(
    host: HostBackend, message: EmailMessage
) -> None:
    """Not for a moment: another thread may send the same message through another host."""
    written: list[str] = []

    class Watched(EmailMessage):
        def __setattr__(self, name: str, value: object) -> None:
            if self is message:
                written.append(name)
            super().__setattr__(name, value)

    class Attributes(dict[str, Any]):
        def update(self, *args: Any, **kwargs: Any) -> None:
            written.extend(dict(*args, **kwargs))
            super().update(*args, **kwargs)

    message.__class__ = Watched
    message.__dict__ = Attributes(vars(message))
    written.clear()
    host.send_messages([message])
    assert written == ["anymail_status"]


def test_message_with_a_sender_of_its_own_is_passed_on_itself(
    host: HostBackend, new_message: NewMessage
) -> None:
    message = new_message(from_email="me@example.com")
    host.send_messages([message])
    assert host.got[0] is message


def test_sender_that_is_a_property_is_as_it_was(host: HostBackend) -> None:
    class Stored(EmailMessage):
        @property
        def from_email(self) -> str:
            return str(self.stored)

        @from_email.setter
        def from_email(self, value: str) -> None:
            self.stored = value

    message = Stored("Hello", "World", to=["someone@example.net"])
    host.send_messages([message])
    assert host.got[0].from_email == "Shop <shop@example.com>"
    assert message.from_email == "project@example.com"


def test_messages_may_come_from_a_generator(
    host: HostBackend, new_message: NewMessage
) -> None:
    assert host.send_messages(new_message() for _ in range(3)) == 3
    assert host.send_messages(iter(())) == 0


def test_same_message_goes_through_one_host_after_the_other(message: EmailMessage) -> None:
    hosts = [wrapped(default_from_email=f"{name}@example.com") for name in ("a", "b")]
    for host in hosts:
        host.send_messages([message])
    assert [host.got[0].from_email for host in hosts] == ["a@example.com", "b@example.com"]


@pytest.mark.filterwarnings("ignore:The 'connection' argument is deprecated")
@pytest.mark.parametrize("mail_server_people", [mail.mail_admins, mail.mail_managers])
@override_settings(EMAIL_HOSTS={"shop": f"locmem://?{SENDERS}"})
def test_mail_to_admins_and_managers_is_from_the_hosts_server_email(
    mail_server_people: Callable[..., None],
) -> None:
    mail_server_people("Hello", "World", connection=get_connection("shop"))
    assert [sent.from_email for sent in mail.outbox] == ["alert@example.com"]


@override_settings(EMAIL_HOSTS={"shop": f"locmem://?{SENDERS}"})
def test_outbox_keeps_the_hosts_sender(message: EmailMessage) -> None:
    get_connection("shop").send_messages([message])
    assert [sent.from_email for sent in mail.outbox] == ["Shop <shop@example.com>"]


@override_settings(EMAIL_HOSTS={"shop": f"console://?{SENDERS}"})
def test_console_host_prints_its_sender(message: EmailMessage) -> None:
    stream = StringIO()
    assert get_connection("shop", stream=stream).send_messages([message]) == 1
    assert "From: Shop <shop@example.com>" in stream.getvalue()
    assert get_connection("shop", stream=stream).send_messages([]) == 0


def test_fail_silently_is_that_of_the_wrapped_backend(host: HostBackend) -> None:
    host.fail_silently = True
    assert host.fail_silently is True
    assert vars(host.wrapped)["fail_silently"] is True


def test_fail_silently_is_passed_to_the_wrapped_backend() -> None:
    smtp = "email_hosts.backends.EmailHostsBackend"
    assert HostBackend(smtp, host="smtp.example.com", fail_silently=True).fail_silently


def test_attributes_of_the_wrapped_backend_show_through(host: HostBackend) -> None:
    assert host.failure is None
    with pytest.raises(AttributeError, match="missing"):
        _ = host.missing


def test_wrapped_backend_is_opened_and_closed(host: HostBackend) -> None:
    with host as connection:
        assert connection is host
    assert host.open() is True
    assert host.calls == ["open", "close", "open"]
