"""Whatever a server answers, a send ends: in success, or in an ``OSError``.

``tox -e fuzz`` tries for minutes what this tries for seconds.
"""

import socket
import threading
from contextlib import suppress
from typing import NamedTuple

import pytest
from django.core.mail import EmailMessage
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scripted import shut

from email_hosts.backends import EmailHostsBackend
from email_hosts.retry import NOT_SENT, delivery_of
from email_hosts.smtp.pool import pool

pytestmark = pytest.mark.fuzz

END = b"the end\r\n.\r\n"


class Conversation(NamedTuple):
    """What a server says: before it reads anything, and then each time it has read."""

    answers: list[bytes]
    is_silent: bool  # after that; else it ends the connection


class Talker:
    """A server that says its piece to whoever connects, and does not listen."""

    def __init__(self):
        self.conversation = Conversation([], is_silent=False)
        self.received = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        shut(self._listener)
        self._thread.join()

    def _listen(self):
        with self._listener, suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, suppress(OSError):
                    self._talk(client)

    def _talk(self, client):
        received = b""
        for answer in self.conversation.answers:
            client.sendall(answer)
            received += client.recv(65536)
            self.received = received
        if self.conversation.is_silent:
            client.makefile("rb").read()  # until the client has had enough


@pytest.fixture(scope="module")
def server():
    """One for all examples."""
    with Talker() as talker:
        yield talker


EXTENSIONS = [
    *["PIPELINING", "SIZE", "SIZE 1", "SIZE x", "8BITMIME", "SMTPUTF8", "STARTTLS", "=", ""],
    *["AUTH", "AUTH PLAIN", "AUTH LOGIN CRAM-MD5", "AUTH=LOGIN", "AUTH X PLAIN", "auth= \xff"],
]
CODES = st.sampled_from([200, 220, 221, 235, 250, 251, 334, 354, 421, 450, 503, 535, 550, 999])


def reply(code, lines):
    """Return a reply of so many lines."""
    *first, last = lines
    text = "".join(f"{code}-{line}\r\n" for line in first) + f"{code} {last}\r\n"
    return text.encode("latin-1")


TEXTS = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=20)
EHLO = st.builds(reply, st.just(250), st.lists(st.sampled_from(EXTENSIONS), min_size=1))
REPLIES = st.one_of(
    st.sampled_from([b"220 hi\r\n", b"250 ok\r\n", b"354 go\r\n", b"334 \r\n", b"235 in\r\n"]),
    EHLO,
    st.builds(reply, CODES, st.lists(TEXTS, min_size=1, max_size=3)),
    st.builds(reply, st.integers(-99, 99999), st.lists(TEXTS, min_size=1, max_size=3)),
    st.binary(max_size=40),
    st.sampled_from([b"\r\n", b"250\r\n", b"250-", b"2", b"x" * 9000, b"250-x\r\n" * 20000]),
)
# Several at once, as they come after a group of commands.
ANSWERS = st.lists(st.lists(REPLIES, min_size=1, max_size=4).map(b"".join), max_size=9)
# Many go wrong at once; these do so late.
GREETED = st.builds(lambda ehlo, rest: [b"220 hi\r\n", ehlo, *rest], EHLO, ANSWERS)
SILENT = st.sampled_from([False, False, False, True])  # which takes the longest
CONVERSATIONS = st.builds(Conversation, ANSWERS | GREETED, SILENT)

LOGIN = {"username": "user", "password": "secret"}
OPTIONS = [{}, LOGIN, {"use_tls": True, **LOGIN}, {"use_ssl": True}, {"conn_max_age": 60}]
GROUP = b"250 ok\r\n250 ok\r\n354 go\r\n"


# The server is one for all examples, and told before each what to say.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CONVERSATIONS, st.sampled_from(OPTIONS))
@example(
    Conversation([b"220 hi\r\n", reply(250, ["", "PIPELINING"]), GROUP, b"250 ok\r\n"], False),
    {"conn_max_age": 60},
)
@example(Conversation([b"220 hi\r\n", reply(250, ["", "PIPELINING"]), GROUP], True), {})
@example(
    Conversation([b"220 hi\r\n", reply(250, ["", "AUTH CRAM-MD5"]), b"334 \xff\r\n"], False),
    LOGIN,
)
def test_send_ends_in_success_or_an_oserror(server, conversation, options):
    server.conversation, server.received = conversation, b""
    backend = EmailHostsBackend("127.0.0.1", server.port, timeout=0.2, **options)
    message = EmailMessage("Hello", "the end", "a@example.com", ["b@example.net"])
    try:
        assert backend.send_messages([message]) == 1
        assert END in server.received
        backend.send_messages([message])  # over what was parked, if it was
    except OSError as error:
        if delivery_of(error) == NOT_SENT:
            assert not server.received.endswith(END)
    finally:
        pool.close_all()
