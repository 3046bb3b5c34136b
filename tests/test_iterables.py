"""Messages from any iterable: each is accepted before the next one is asked for."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from conftest import parked
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from django.test import override_settings
from scripted import at

from email_hosts.backends import RoutingBackend, get_connection

# Messages that may be in memory at a time: the one that is sent, the one that comes next, the
# first one, and copies of these from the host's sender.
MAX_ALIVE = 6
HOSTS = ["smtp", "kept", "djangos", "console", "disk", "locmem", "all", "router"]


class Relay(EmailBackend):
    """A project's own."""


class Brake(Exception):
    """What a generator may raise."""


class Hosts:
    """One host of each kind, and how many messages have got through it."""

    def __init__(self, server, folder, capsys):
        self.server, self.folder, self.capsys = server, folder, capsys
        self._printed = ""
        smtp = f"smtp://127.0.0.1:{server.port}?timeout=20&_default_from_email=me@example.com"
        self.settings = {
            "smtp": smtp,
            "kept": f"{smtp}&conn_max_age=60",
            "djangos": f"backend://{__name__}.Relay?host=127.0.0.1&port={server.port}",
            "console": "console://?_default_from_email=me@example.com",
            "disk": f"file:{folder}",
            "locmem": "locmem://",
            "all": "failover:smtp,kept",
            "default": smtp,
        }

    def connection(self, key, **options):
        return RoutingBackend(**options) if key == "router" else get_connection(key, **options)

    def accepted(self, key):
        if key == "console":
            self._printed += self.capsys.readouterr().out
            return self._printed.count("Subject: ")
        if key == "disk":
            return sum(path.read_text().count("Subject: ") for path in self.folder.iterdir())
        return len(mail.outbox) if key == "locmem" else len(self.server.accepted)


@pytest.fixture
def hosts(serve, tmp_path, capsys):
    hosts = Hosts(serve(), tmp_path, capsys)
    with override_settings(
        EMAIL_HOSTS=hosts.settings, EMAIL_HOSTS_ROUTER=lambda message: "default"
    ):
        yield hosts


def message(number=0, **options):
    return EmailMessage("Hello", "World", to=[f"{number}@example.net"], **options)


@pytest.mark.parametrize("key", HOSTS)
def test_each_message_is_accepted_before_the_next_is_asked_for(key, hosts):
    accepted = []

    def messages():
        for number in range(5):
            accepted.append(hosts.accepted(key))
            yield message(number)
        accepted.append(hosts.accepted(key))

    assert hosts.connection(key).send_messages(messages()) == 5
    assert accepted == [0, 1, 2, 3, 4, 5]
    assert hosts.server.connections <= 1


def test_each_message_is_in_the_outbox_before_the_next_is_asked_for(mailoutbox):
    accepted = []

    def messages():
        for number in range(3):
            accepted.append(len(mailoutbox))
            yield message(number)

    assert get_connection("shop").send_messages(messages()) == 3
    assert accepted == [0, 1, 2]


@pytest.mark.parametrize("batch", [iter(()), (), [], set(), {}.values()], ids=type)
@pytest.mark.parametrize("key", HOSTS)
def test_no_messages_open_no_connection(key, batch, hosts):
    assert hosts.connection(key).send_messages(batch) == 0
    assert hosts.server.connections == 0
    assert list(hosts.folder.iterdir()) == []


@pytest.mark.parametrize("error", [Brake, ConnectionRefusedError])
@pytest.mark.parametrize(
    ("key", "options"),
    [
        *((key, {}) for key in HOSTS),
        # It is no failure to be silent about.
        *((key, {"fail_silently": True}) for key in ("smtp", "kept", "all", "router")),
    ],
)
def test_error_of_the_iterable_is_raised_after_what_was_sent(key, options, error, hosts):
    def messages():
        yield from map(message, range(3))
        raise error

    with pytest.raises(error):
        hosts.connection(key, **options).send_messages(messages())
    assert hosts.accepted(key) == 3


def test_error_of_the_iterable_ends_no_kept_connection(hosts):
    def messages():
        yield message()
        raise Brake

    for _ in range(2):
        with pytest.raises(Brake):
            get_connection("kept").send_messages(messages())
    assert hosts.server.connections == 1


def test_error_of_a_host_ends_it(hosts):
    """Also where the router sends it. An iterable that is a queue may have no end."""
    hosts.server.script = at("MAIL", None, "550 no")
    for key in ("smtp", "router"):
        coming = map(message, range(4))
        with pytest.raises(OSError, match="550"):
            hosts.connection(key).send_messages(coming)
        assert len(list(coming)) == 2
        hosts.server.script = at("MAIL", None, "550 no")


@pytest.mark.parametrize("key", ["smtp", "router"])
def test_error_that_is_ignored_does_not_wait_for_the_end_to_be_logged(key, hosts, caplog):
    hosts.server.script = at("MAIL", "550 no", "551 no", "554 no")
    logged = []

    def messages():
        for number in range(3):
            logged.append(len(caplog.messages))
            yield message(number)
        logged.append(len(caplog.messages))

    assert hosts.connection(key, fail_silently=True).send_messages(messages()) == 0
    assert logged == [0, 1, 2, 3]


class Alive:
    """Messages, and how many of them were in memory at a time at most."""

    def __init__(self, count):
        self.count = count
        self.most = 0
        self._alive: weakref.WeakSet[EmailMessage] = weakref.WeakSet()

    def __iter__(self):
        for number in range(self.count):
            one = message(number, headers={"X-Large": "x" * 500})
            self._alive.add(one)
            self.most = max(self.most, len(self._alive))
            yield one
            del one


@pytest.mark.parametrize("key", ["smtp", "kept", "console", "disk", "all", "router"])
def test_memory_stays_flat(key, hosts):
    gc.collect()
    messages = Alive(200)
    assert hosts.connection(key).send_messages(messages) == 200
    assert messages.most <= MAX_ALIVE


def test_memory_stays_flat_where_messages_are_refused(hosts):
    hosts.server.script = lambda step, argument: "550 no" if step == "MAIL" else None
    gc.collect()
    messages: Any = Alive(100)
    assert get_connection("smtp", fail_silently=True).send_messages(messages) == 0
    assert messages.most <= MAX_ALIVE


@pytest.mark.parametrize("is_parked", [False, True])
def test_iterable_may_send_through_the_same_connection(is_parked, hosts):
    connection = get_connection("kept" if is_parked else "smtp")

    def messages():
        for number in range(3):
            connection.send_messages([message(number + 10)])
            yield message(number)

    assert connection.send_messages(messages()) == 3
    assert len({one.recipients for one in hosts.server.accepted}) == 6


class TestRouter:
    """Connections to its hosts are kept until the end."""

    def test_each_host_is_closed_at_the_end_whatever_another_does(self, hosts, monkeypatch):
        def fail(self):
            raise ValueError("on strike")

        monkeypatch.setattr("django.core.mail.backends.console.EmailBackend.close", fail)
        turns = iter(["console", "kept", "console", "kept"])
        with override_settings(EMAIL_HOSTS_ROUTER=lambda one: next(turns)):
            assert RoutingBackend().send_messages(map(message, range(4))) == 4
        assert parked() == hosts.server.connections == 1


def test_folder_has_one_file_for_one_iterable(hosts):
    messages: Any = map(message, range(3))
    get_connection("disk").send_messages(messages)
    assert [path.suffix for path in Path(hosts.folder).iterdir()] == [".log"]
