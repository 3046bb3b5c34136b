"""One message over one connection: its limits, and what is still said after a refusal."""

import itertools
import smtplib
import time

import pytest
from django.core.mail import EmailMessage
from scripted import HANG, any_of, at, to

from email_hosts.backends import EmailHostsBackend, can_be_retried
from email_hosts.smtp import transaction


def message(*recipients, body="World"):
    recipients = recipients or ["a@example.net"]
    return EmailMessage("Hello", body, "sender@example.com", recipients)


@pytest.fixture
def backend(serve):
    """Make a connection to a server with this script, which is ``backend.at``."""

    def backend(script=None, **options):
        backend.at = serve(script)
        return EmailHostsBackend("127.0.0.1", backend.at.port, **{"timeout": 20, **options})

    return backend


@pytest.fixture
def at_once():
    """Fail if the test has waited for a timeout of its connections."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("megabytes", "seconds", "is_sent"),
    [(0.5, 18, True), (0.5, 22, False), (2.5, 55, True), (2.5, 65, False)],
)
def test_body_has_the_timeout_for_each_megabyte(
    megabytes, seconds, is_sent, backend, monkeypatch
):
    """A server that takes it bit by bit does not hold up the sender for ever."""
    body = int(megabytes * 2**20 / 64) * f"{'x' * 63}\n"
    step = seconds / (len(body) / transaction.MAX_RECORD)
    monkeypatch.setattr(transaction, "clock", itertools.count(0, step).__next__)
    connection = backend()
    if is_sent:
        assert connection.send_messages([message(body=body)]) == 1
    else:
        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out") as caught:
            connection.send_messages([message(body=body)])
        assert can_be_retried(caught.value)
    assert len(backend.at.accepted) == is_sent


@pytest.mark.usefixtures("at_once")
def test_quit_is_not_waited_for_as_long_as_another_reply(backend):
    assert backend(at("QUIT", HANG)).send_messages([message()]) == 1


def test_commands_are_not_written_after_a_refusal(backend):
    """Those alone are that the server has before its answer."""
    recipients = [f"{number}@example.net" for number in range(1000)]
    with backend(at("MAIL", "550 no")) as connection:
        with pytest.raises(smtplib.SMTPSenderRefused):
            connection.send_messages([message(*recipients)])
        assert connection.send_messages([message()]) == 1
    written = sum(map(len, backend.at.commands))
    assert written < 1.1 * transaction.MAX_BYTES_IN_FLIGHT


@pytest.mark.usefixtures("at_once")
def test_nothing_is_waited_for_after_a_goodbye(backend):
    """The server says no more, and leaves the connection open."""
    script = any_of(at("MAIL", None, "421 bye"), at("RCPT", None, HANG))
    with backend(script) as connection:
        connection.send_messages([message()])
        with pytest.raises(smtplib.SMTPSenderRefused):
            connection.send_messages([message()])


def test_go_ahead_after_450_to_everybody_leaves_the_connection_in_step(backend):
    """RFC 2920, 3.1: the server gets an empty message."""
    script = any_of(to("no@", "450 later"), at("DATA", "354 go ahead"))
    batch = [message("no@example.net"), message()]
    assert backend(script, fail_silently=True).send_messages(batch) == 1
    assert backend.at.connections == 1
    assert [one.recipients for one in backend.at.accepted] == [(), ("a@example.net",)]
