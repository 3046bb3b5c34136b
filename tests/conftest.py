"""What many tests need: certificates, servers, messages, a clock, clean caches."""

import faulthandler
import logging
import os
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import pytest
import trustme
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.test import override_settings
from scripted import EXTENSIONS, ScriptedServer
from servers import SMTPServer, server_context
from token_server import TokenServer

from email_hosts import conf, delivery, hosts, rate
from email_hosts.backends import EmailHostsBackend, HostBackend, failover, get_connection
from email_hosts.host import SMTP_BACKEND
from email_hosts.oauth2 import tokens
from email_hosts.signals import message_failed, message_sent
from email_hosts.smtp.pace import pace_of
from email_hosts.smtp.pool import pool

needs_mailers = pytest.mark.skipif(not conf.DJANGO_HAS_MAILERS, reason="new in Django 6.1")
either_way = pytest.mark.parametrize(
    "extensions", [EXTENSIONS, EXTENSIONS[1:]], ids=["pipelining", "stepwise"]
)

# No time limit for an example: machines are busy. "fuzz" is that of tox -e fuzz.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")
hypothesis.settings.register_profile("fuzz", max_examples=50_000)


@pytest.fixture(scope="session")
def ca():
    """A private certificate authority."""
    return trustme.CA()


@pytest.fixture(scope="session")
def cafile(ca, tmp_path_factory):
    """The file to trust it with."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="session")
def tls(ca):
    """What a server on 127.0.0.1 needs for TLS."""
    return server_context(ca.issue_cert("127.0.0.1", "localhost"))


def starting(kind):
    """Make a fixture that starts servers of this kind. They stop after the test."""

    @pytest.fixture
    def start():
        with ExitStack() as stack:
            yield lambda *args, **options: stack.enter_context(kind(*args, **options))

    return start


start_server = starting(SMTPServer)
start_token_server = starting(TokenServer)
serve = starting(ScriptedServer)


@pytest.fixture
def connect():
    """Make a connection to the host of a DSN. The test has to close it."""
    connections: list[Any] = []

    def connect(dsn, **options):
        with override_settings(EMAIL_HOSTS={"shop": dsn}):
            connections.append(get_connection("shop", **options))
        return connections[-1]

    yield connect
    assert [connection for connection in connections if connection.connection] == []


class Clock:
    """Time that passes when the test says so, or in a sleep. ``naps`` has each of these."""

    now = 1_800_000_000.0

    def __init__(self) -> None:
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    """The clock of the pool, of failover, tokens, rates and signals."""
    clock = Clock()
    for owner in (pool, failover, tokens, rate, delivery):
        monkeypatch.setattr(owner, "clock", clock)
    monkeypatch.setattr(rate, "stopwatch", clock)
    monkeypatch.setattr("email_hosts.backends.limited.sleep", clock.sleep)
    return clock


@pytest.fixture
def closed_port():
    """A port on 127.0.0.1 that nobody listens on, and that nobody else gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """Close what a test has parked, and forget what it has learned and logged."""
    hosts._warn_of_default.cache_clear()
    yield
    pool.close_all()
    failover._healths.clear()
    tokens.forget()
    pace_of.cache_clear()
    rate.forget()


class Recorder(BaseEmailBackend):
    """Notes what it gets, and what Anymail would note on a message. May fail."""

    failure = None
    answer: object = ...  # the number of messages
    timeout = (3.05, 27)  # as Anymail's may be

    def __init__(self, **options):
        super().__init__(**options)
        self.options = options
        self.calls = []
        self.got = []

    def open(self):
        self.calls.append("open")
        return True

    def close(self):
        self.calls.append("close")

    def send_messages(self, email_messages):
        self.calls.append(len(email_messages))
        sent = len(email_messages)
        while email_messages:  # as a backend may do with what is its own
            message = email_messages.pop(0)
            message.anymail_status = "queued"
            self.got.append(message)
        if self.failure:
            raise self.failure
        return sent if self.answer is ... else self.answer


def wrapped(**options):
    """Make a host of such a backend."""
    return HostBackend("conftest.Recorder", alias="shop", **options)


@pytest.fixture
def new_message():
    """Make a message to someone@example.net, with what the test needs to say."""
    given = {"subject": "Hello", "body": "World", "to": ["someone@example.net"]}
    return lambda **options: EmailMessage(**{**given, **options})


@pytest.fixture
def message(new_message):
    """A message that names no sender."""
    return new_message()


@pytest.fixture
def limit():
    """End the run where a test hangs, with a traceback of each thread."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


TESTS = Path(__file__).parent


def parked(where=pool):
    """Return how many connections wait in the pool."""
    return int(repr(where).removeprefix("<Pool: ").partition(" ")[0])


class TimeLimit(Exception):
    """What the handler of a signal raises in a worker of a task queue."""


def interrupted_calls(
    action, *modules, make_error=TimeLimit
):  # pragma: no cover (it confuses coverage)
    """Do this once for each call that these modules make or get, and raise an error then.

    Python runs the handler of a signal there: where a function begins, and after a call.
    Yields after each time.
    """
    files = {module.__file__ for module in modules}
    left = number = 0  # the call to come, and the one that is interrupted

    def profile(frame, event, argument):
        nonlocal left
        near = {each.f_code.co_filename for each in (frame, frame.f_back) if each}
        if near & files and event in ("call", "c_return"):
            left -= 1
            if left == 0:
                raise make_error()

    while left <= 0:
        number += 1
        left = number
        sys.setprofile(profile)
        try:
            action()
        except TimeLimit:
            pass
        finally:
            sys.setprofile(None)
        yield


def start(command, environment, cwd=TESTS, **options):
    """Start a process in this environment, and ours."""
    return subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def start_worker(server, folder, command, **options):
    """Start a process of the project in ``worker/``, whose mail goes to this server."""
    environment = {
        "DJANGO_SETTINGS_MODULE": "worker.settings",
        "WORKER_PORT": str(server.port),
        "WORKER_FOLDER": str(folder),
    }
    return start(command, environment, **options)


def run_python(*arguments, cwd=TESTS, environment=None) -> str:
    """Run Python in this environment, and ours; return what it prints."""
    environment = environment or {"DJANGO_SETTINGS_MODULE": "settings"}
    process = start([sys.executable, *arguments], environment, cwd)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return str(printed)


def as_id(given: Any) -> str:
    """Return what a test is called: plain, so that it stays the same if collected twice."""
    return getattr(given, "__name__", ascii(given).replace("\\", ""))[:50]


def mailer(path: str = SMTP_BACKEND, /, **options: Any) -> dict[str, Any]:
    """Return an entry of ``MAILERS``."""
    return {"BACKEND": path, "OPTIONS": options}


def mails(*recipients, content="Hello"):
    """Make a message to each of these, at example.net; ``a+b`` stands for one to both."""
    headers = {"Date": "now", "Message-ID": "<1@example.com>"}
    made = []
    for names in recipients:
        to = [f"{name}@example.net" for name in names.split("+") if name]
        made.append(EmailMessage(names, content, "sender@example.com", to, headers=headers))
    return made


def host_of(server, **options):
    """Return a host of this server, made by hand."""
    return EmailHostsBackend("127.0.0.1", server.port, **{"timeout": 20, **options})


def names_of(server):
    """Return to whom each message was that a server has accepted, as ``mails`` takes it."""
    return [
        "+".join(each.removesuffix("@example.net") for each in one.recipients)
        for one in server.accepted
    ]


@contextmanager
def told():
    """Note the subject of each message that a signal tells of, and the class of its error.

    It is ``None`` where nobody knows which message it was.
    """
    heard = []

    def note(message, error=None, **others):
        heard.append((message and message.subject, error and type(error)))

    message_sent.connect(note)
    message_failed.connect(note)
    try:
        yield heard
    finally:
        message_sent.disconnect(note)
        message_failed.disconnect(note)


def logging_to(logger, function):
    """Call a function for each record of a logger, in place of its handlers, in ``with``."""
    handler = mock.Mock(level=logging.NOTSET, handle=function)
    return mock.patch.object(logging.getLogger(logger), "handlers", [handler])


def take(*arguments):
    """Take from limits. Return 0, or the seconds after which to ask again."""
    return rate.take(*arguments).seconds


class SoftTimeLimitExceeded(TimeLimit):
    """Celery's, by its name."""

    __module__ = "billiard.exceptions"
