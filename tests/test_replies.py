"""Whatever a server answers, a send ends: in success, or in an ``OSError``.

``tox -e fuzz`` tries for minutes what this tries for seconds.
"""

from functools import partial
from types import SimpleNamespace

import pytest
from conftest import mails
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scripted import ScriptedServer

from email_hosts.backends import EmailHostsBackend
from email_hosts.retry import NOT_SENT, delivery_of
from email_hosts.smtp.pool import pool

pytestmark = pytest.mark.fuzz

END = b"the end\r\n.\r\n"


class Conversation:
    """What a server says: before it reads anything, and then each time it has read."""

    def __init__(self, answers, is_silent=False):
        self.answers = answers
        self.is_silent = is_silent  # after that; else it ends the connection
        self.received = b""

    def with_client(self, client):
        received = b""
        for answer in self.answers:
            client.sendall(answer)
            received += client.recv(65536)
            self.received = received
        if self.is_silent:
            client.makefile("rb").read()  # until the client has had enough


class Talker(ScriptedServer):
    """Says its piece to whoever connects, and does not listen."""

    conversation = Conversation([])

    def dialogue(self, client):
        return SimpleNamespace(run=partial(self.conversation.with_client, client))


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

LOGIN = {"username": "user", "password": "secret"}
OPTIONS = [{}, LOGIN, {"use_tls": True, **LOGIN}, {"use_ssl": True}, {"conn_max_age": 60}]
PIPELINING = [b"220 hi\r\n", reply(250, ["", "PIPELINING"]), b"250 ok\r\n250 ok\r\n354 go\r\n"]
CHALLENGE = [b"220 hi\r\n", reply(250, ["", "AUTH CRAM-MD5"]), b"334 \xff\r\n"]


# The server is one for all examples, and told before each what to say.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.builds(Conversation, ANSWERS | GREETED, SILENT), st.sampled_from(OPTIONS))
@example(Conversation([*PIPELINING, b"250 ok\r\n"]), {"conn_max_age": 60})
@example(Conversation(PIPELINING, is_silent=True), {})
@example(Conversation(CHALLENGE), LOGIN)
def test_send_ends_in_success_or_an_oserror(server, conversation, options):
    server.conversation = conversation
    backend = EmailHostsBackend("127.0.0.1", server.port, timeout=0.2, **options)
    batch = mails("a", content="the end")
    try:
        assert backend.send_messages(batch) == 1
        assert END in conversation.received
        backend.send_messages(batch)  # over what was parked, if it was
    except OSError as error:
        if delivery_of(error) == NOT_SENT:
            assert not conversation.received.endswith(END)
    finally:
        pool.close_all()
