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
    to = recipients or ["a@example.net"]
    return EmailMessage("Hello", body, "sender@example.com", to)


def connection(server, **options):
    return EmailHostsBackend("127.0.0.1", server.port, timeout=20, **options)


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
    megabytes, seconds, is_sent, serve, monkeypatch
):
    """A server that takes it bit by bit does not hold up the sender for ever."""
    body = int(megabytes * 2**20 / 64) * f"{'x' * 63}\n"
    step = seconds / (len(body) / transaction.MAX_RECORD)
    monkeypatch.setattr(transaction, "clock", itertools.count(0, step).__next__)
    server = serve()
    if is_sent:
        assert connection(server).send_messages([message(body=body)]) == 1
    else:
        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out") as caught:
            connection(server).send_messages([message(body=body)])
        assert can_be_retried(caught.value)
    assert len(server.accepted) == is_sent


@pytest.mark.usefixtures("at_once")
def test_quit_is_not_waited_for_as_long_as_another_reply(serve):
    assert connection(serve(at("QUIT", HANG))).send_messages([message()]) == 1


def test_commands_are_not_written_after_a_refusal(serve):
    """Those alone are that the server has before its answer."""
    recipients = [f"{number}@example.net" for number in range(1000)]
    server = serve(at("MAIL", "550 no"))
    with connection(server) as backend:
        with pytest.raises(smtplib.SMTPSenderRefused):
            backend.send_messages([message(*recipients)])
        assert backend.send_messages([message()]) == 1
    written = sum(map(len, server.commands))
    assert written < 1.1 * transaction.MAX_BYTES_IN_FLIGHT


@pytest.mark.usefixtures("at_once")
def test_nothing_is_waited_for_after_a_goodbye(serve):
    """The server says no more, and leaves the connection open."""
    script = any_of(at("MAIL", None, "421 bye"), at("RCPT", None, HANG))
    with connection(serve(script)) as backend:
        backend.send_messages([message()])
        with pytest.raises(smtplib.SMTPSenderRefused):
            backend.send_messages([message()])


def test_go_ahead_after_450_to_everybody_leaves_the_connection_in_step(serve):
    """RFC 2920, 3.1: the server gets an empty message."""
    script = any_of(to("no@", "450 later"), at("DATA", "354 go ahead"))
    batch = [message("no@example.net"), message()]
    server = serve(script)
    assert connection(server, fail_silently=True).send_messages(batch) == 1
    assert server.connections == 1
    assert [one.recipients for one in server.accepted] == [(), ("a@example.net",)]
