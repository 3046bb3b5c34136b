"""Pipelining: the results of smtplib, in fewer round trips, whatever a server makes of it."""

import itertools
import os
import smtplib
import socket
import time
from collections import Counter
from functools import partial
from typing import Any
from unittest import mock

import pytest
from conftest import either_way, host_of, mails, names_of
from django.core.mail.backends.smtp import EmailBackend
from roundtrips import RoundTrips
from scripted import AND_CLOSE, BODY, CLOSE, HANG, RESET, always, any_of, at, to
from tools.benchmarks import __main__ as benchmarks
from tools.benchmarks.ways import BATCH, WAYS

from email_hosts.backends import can_be_retried
from email_hosts.retry import NOT_SENT, PERHAPS, delivery_of
from email_hosts.smtp import transaction
from email_hosts.smtp.connection import SMTP, open_socket
from email_hosts.smtp.pace import Pace, pace_of
from email_hosts.smtp.pipelining import Transmission
from email_hosts.smtp.transaction import PATIENCE, Envelope

PIPELINING = ("PIPELINING", "SIZE 10000000")
STEPWISE = ("SIZE 10000000",)
END = b"\r\n.\r\n"
LARGE = "x" * 20_000_000
TWENTY = "+".join(f"x{number}" for number in range(20))
THOUSAND = "+".join(map(str, range(1000)))


def djangos(server, **options):
    # Without an alias, Django 6.1 warns.
    return EmailBackend("127.0.0.1", server.port, timeout=20, alias="x", **options)


def result(backend, batch):
    """Return what sending the batch returns, or the error that it raises."""
    try:
        return ("sent", backend.send_messages(batch))
    except smtplib.SMTPServerDisconnected as error:
        return (type(error),)
    except (smtplib.SMTPException, ValueError) as error:
        return (type(error), *error.args)


class Watched:
    """Takes the place of a connection's socket, and calls a function where that does a thing.

    ``sends`` and ``has_sent`` get the data, ``reads`` nothing.
    """

    def __init__(self, connection, sends=id, has_sent=id, reads=tuple):
        self.sends, self.has_sent, self.reads = sends, has_sent, reads
        self.sock = connection.sock
        connection.sock, connection.file = self, None

    def __getattr__(self, name):
        return getattr(self.sock, name)

    def send(self, data):
        self.sends(bytes(data))
        size = self.sock.send(data)
        self.has_sent(bytes(data))
        return size

    def recv_into(self, buffer):
        self.reads()
        return self.sock.recv_into(buffer)


# What the server does, and what it is sent. How a lost connection is lost (end, reset,
# silence) makes no difference here; test_failover has all of them at each step.
FAULTS: Any = {
    "none": (lambda: at("none"), "a b c"),
    "nobody to send to": (lambda: at("none"), "+ a + b +"),
    "bad address": (lambda: at("none"), "a a@b@c d"),
    "EHLO refused": (lambda: at("EHLO", "550 no"), "a b"),
    "EHLO and HELO no": (lambda: any_of(at("EHLO", "502 x"), at("HELO", "502 x")), "a b"),
    "one RCPT refused": (lambda: to("b@", "550 no"), "a+b+c d"),
    "RCPT forwarded": (lambda: to("b@", "251 forwarded"), "a+b d"),
    "RCPT unverified": (lambda: to("b@", "252 maybe"), "a+b d"),
    "RCPT closing": (lambda: to("b@", "421 later"), "a+b+c d"),
    "RCPT out of order": (lambda: to("b@", "503 no"), "a+b c"),
    "RSET refused": (lambda: any_of(at("MAIL", "550 no"), at("RSET", "500 no")), "a b"),
    "MAIL refused and close": (lambda: always("MAIL", "550 no" + AND_CLOSE), "a b c"),
    "RCPT refused and close": (lambda: to("a@", "550 no" + AND_CLOSE), "a b c"),
    "all refused and close": (lambda: any_of(to("<x", "550 no"), at("DATA", CLOSE)), TWENTY),
    "twenty refused and goodbye": (
        lambda: any_of(to("<x", "550 no"), to("z", "421 bye" + AND_CLOSE)),
        f"{TWENTY}+z+b",
    ),
}
for step in ("MAIL", "RCPT", "DATA", BODY):
    for reply in ("550 no", "451 later"):
        FAULTS[f"{reply} to {step}"] = (partial(at, step, reply), "a b c")
        FAULTS[f"{reply} to a second {step}"] = (partial(at, step, None, reply), "a b c")
    for reply in ("221 bye", "421 later", "502 no", "what?", CLOSE):
        FAULTS[f"{reply} to {step}"] = (partial(always, step, reply), "a b")


def both(serve, extensions, fault, **options):
    """Yield the result of Django's backend and of ours, and what the servers have taken."""
    make_script, recipients = FAULTS[fault]
    for make in (djangos, host_of):
        server = serve(make_script(), extensions=extensions)
        backend = make(server, **options)
        yield result(backend, mails(*recipients.split())), server.accepted
        # Django 4.2 leaves the connection open after an error.
        getattr(backend.connection, "close", lambda: None)()


@either_way
@pytest.mark.parametrize("fault", FAULTS)
def test_result_is_that_of_django(fault, extensions, serve):
    theirs, ours = both(serve, extensions, fault)
    assert ours == theirs


@either_way
@pytest.mark.parametrize("fault", FAULTS)
def test_list_goes_on_where_errors_are_ignored(fault, extensions, serve):
    """As many messages are delivered as by Django's backend, or more. None comes twice."""
    (_, theirs), (result, ours) = both(serve, extensions, fault, fail_silently=True)
    assert Counter(theirs) <= Counter(ours)
    assert max(Counter(ours).values(), default=1) == 1
    assert result[1:] == (len(ours),) or fault == "bad address"


@pytest.mark.parametrize("content", ["", ".", ".\n..\n.a\n\n.", "é\n.é", "x\r\n.\r\ny"])
def test_content_is_that_of_django_byte_by_byte(content, serve):
    servers = [serve(), serve()]
    for make, server in zip((djangos, host_of), servers, strict=True):
        make(server).send_messages(mails("a", "b", content=content))
    assert servers[1].accepted == servers[0].accepted
    assert len(servers[0].accepted) == 2


@either_way
@pytest.mark.parametrize("code", [450, 550])
def test_recipient_that_is_there_twice_is_refused_all_the_same(code, extensions, serve):
    """Smtplib counts one refusal, and two recipients."""
    script = any_of(to("@", f"{code} no"), at("DATA", "354 go ahead"))
    server = serve(script, extensions=extensions)
    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        host_of(server).send_messages(mails("a+a"))
    assert can_be_retried(caught.value) is (code == 450)
    assert [one for one in server.accepted if one.recipients] == []


@either_way
@pytest.mark.parametrize("replies", [(None, "452 too many"), ("452 not yet", None)])
def test_recipient_that_is_there_twice_and_accepted_once_is_accepted(
    replies, extensions, serve
):
    server = serve(at("RCPT", *replies), extensions=extensions)
    host = host_of(server)
    assert host.send_messages(mails("a+a")) == 1
    assert len(server.accepted[0].recipients) == 1
    assert host.refused_recipients == {}


@pytest.mark.parametrize(
    ("extensions", "fastest", "recipients", "expected"),
    [
        (PIPELINING, Pace.AHEAD, "a+b+c+d+e", 2),
        (PIPELINING, Pace.SINGLE, "a+b+c+d+e", 8),
        (STEPWISE, Pace.AHEAD, "a+b+c+d+e", 8),
        (PIPELINING, Pace.AHEAD, "a b c d e f g h i j", 11),
        (PIPELINING, Pace.GROUPED, "a b c d e f g h i j", 20),
        ((*PIPELINING, "BURL imap"), Pace.AHEAD, "a b c d e f g h i j", 20),  # Dovecot
    ],
)
def test_round_trips_are_those_of_the_pace(extensions, fastest, recipients, expected, serve):
    """Counted at the client, over a connection that has been used."""
    server = serve(extensions=extensions)
    pace_of(f"127.0.0.1:{server.port}").slow_down(fastest)
    with host_of(server) as connection:
        connection.send_messages(mails("first"))
        with RoundTrips() as trips:
            connection.send_messages(mails(*recipients.split()))
    assert trips.count == expected
    assert names_of(server) == ["first", *recipients.split()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "to_one", "to_twenty"),
    [
        # TCP, TLS, banner, EHLO, STARTTLS, EHLO, AUTH; MAIL, RCPT, DATA, body; QUIT
        ("Django, a new connection each", 12, 31),
        ("email_hosts, a new connection each", 10, 10),
        ("Django, one open connection", 4, 23),
        ("smtplib, one open connection", 4, 23),
        ("email_hosts, conn_max_age", 2, 2),
        ("email_hosts, batches of 25", (BATCH + 1) / BATCH, (BATCH + 1) / BATCH),
        ("email_hosts, parallel=4", (BATCH + 1) / BATCH, (BATCH + 1) / BATCH),
    ],
)
def test_round_trips_per_mail(way, to_one, to_twenty):
    """As Speed in the README says."""
    with mock.patch.dict(os.environ), benchmarks.servers([0]) as at:
        found = [benchmarks.round_trips(WAYS[way], at[0], to) for to in (1, 20)]
    assert found == [to_one, to_twenty]


def test_bytes_in_flight_are_bounded(serve):
    """And yet a thousand recipients do not take many round trips."""
    written: list[bytes] = []
    with host_of(serve()) as backend, RoundTrips() as trips:
        Watched(backend.connection, sends=written.append)
        backend.send_messages(mails(THOUSAND))
    commands = [data for data in written if data.startswith((b"MAIL", b"RCPT", b"DATA"))]
    assert max(map(len, commands)) <= transaction.MAX_BYTES_IN_FLIGHT
    assert max(map(len, written)) == transaction.MAX_RECORD
    assert trips.count <= 25


def test_commands_are_not_written_after_a_refusal(serve):
    """Those alone are that the server has before its answer."""
    server = serve(at("MAIL", "550 no"))
    with host_of(server) as backend:
        with pytest.raises(smtplib.SMTPSenderRefused):
            backend.send_messages(mails(THOUSAND))
        assert backend.send_messages(mails("a")) == 1
    assert sum(map(len, server.commands)) < 1.1 * transaction.MAX_BYTES_IN_FLIGHT


def test_each_group_is_one_write(serve):
    """And so a TLS record: a server may stop reading at the end of the body."""
    written: list[bytes] = []
    with host_of(serve()) as backend:
        backend.connection.ehlo()
        Watched(backend.connection, sends=written.append)
        backend.send_messages(mails("a", "b"))
    assert [data[:4] for data in written[:4]] == [b"MAIL", b"Cont", b"MAIL", b"Cont"]


class TestSurprise:
    """What a server may do after it refused something in a group."""

    @pytest.mark.parametrize("refused", [to("a@", "450 no"), at("MAIL", "550 no")])
    def test_go_ahead_for_nobody_is_answered_with_an_empty_message(self, refused, serve):
        """RFC 2920, 3.1."""
        server = serve(any_of(refused, at("DATA", "354 go ahead")))
        assert host_of(server, fail_silently=True).send_messages(mails("a", "b")) == 1
        assert server.connections == 1
        assert names_of(server) == ["", "b"]

    @pytest.mark.parametrize("doubtful", ["250 yes", "252 maybe", "354 go ahead"])
    def test_go_ahead_for_somebody_perhaps_ends_the_connection(self, doubtful, serve):
        go_ahead = any_of(to("@", doubtful), always("DATA", "354 go ahead"))
        server = serve(any_of(always("MAIL", "550 no"), go_ahead))
        with host_of(server) as backend, pytest.raises(smtplib.SMTPSenderRefused):
            backend.send_messages(mails("a"))
        assert server.accepted == []

    @pytest.mark.parametrize("line", ["250 accepted", "450 later", "what?"])
    def test_line_before_the_body_is_not_taken_for_the_reply_to_it(self, line, serve):
        server = serve(always("DATA", f"354 go ahead\r\n{line}"))
        with pytest.raises(smtplib.SMTPServerDisconnected, match="more than") as caught:
            host_of(server).send_messages(mails("a"))
        assert delivery_of(caught.value) == NOT_SENT
        assert server.accepted == []


class TestRefusalBeforeTheEnd:
    """What a server has said counts, although it then ends the connection."""

    @pytest.mark.parametrize("end", ["421 bye", "421 bye" + AND_CLOSE, CLOSE, RESET])
    @either_way
    def test_of_some_is_kept_while_the_others_are_offered_again(self, end, extensions, serve):
        """Where the session was parked, at any pace."""
        server = serve(to("<x", "550 no"), extensions=extensions)
        backend = host_of(server, conn_max_age=60)
        backend.send_messages(mails("first"))
        server.script = any_of(to("<x", "550 no"), at("RCPT", end))
        assert backend.send_messages(mails(f"{TWENTY}+z+b")) == 1
        assert len(backend.refused_recipients) == 20
        assert names_of(server) == ["first", "z+b"]
        assert sum("<x0@" in command for command in server.commands) == 1
        assert server.connections == 2

    def test_that_a_reset_destroys_is_asked_for_again(self, serve):
        """It is for good, which "connection lost" would not tell."""
        server = serve(at("RCPT", None, None, RESET, "550 5.1.1 no user" + AND_CLOSE))
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            host_of(server).send_messages(mails(*"abcd"))
        assert names_of(server) == ["a", "b"]
        assert server.connections == 2

    def test_of_some_is_told_although_the_rest_is_lost(self, serve):
        backend = host_of(serve(any_of(to("<x", "550 no"), to("z@", CLOSE))))
        assert result(backend, mails(f"{TWENTY}+z")) == (smtplib.SMTPServerDisconnected,)
        assert len(backend.refused_recipients) == 20

    @either_way
    @pytest.mark.parametrize("reply", ["552 too large", "451 later"])
    def test_of_a_body_is_read_when_writing_it_fails(self, reply, extensions, serve):
        server = serve(at("CONTENT", reply + AND_CLOSE), extensions=extensions)
        with pytest.raises(smtplib.SMTPDataError) as caught:
            host_of(server).send_messages(mails("a", content=LARGE))
        assert str(caught.value.smtp_code) == reply[:3]
        assert can_be_retried(caught.value) is (reply[0] == "4")
        assert server.connections == 1

    @pytest.mark.parametrize(
        ("moment", "end", "to_whom", "said", "told", "connections"),
        [
            ("has_sent", b"", "x", b"550", (smtplib.SMTPRecipientsRefused, NOT_SENT), 1),
            # The body may be incomplete: that is no reply to it.
            ("has_sent", END, "a", b"250", (smtplib.SMTPServerDisconnected, PERHAPS), 1),
            # And so may the commands, although all have their replies. They are sent again.
            ("has_sent", b"", "a", b"354", None, 2),
            ("sends", b"", "a", b"", None, 2),
        ],
    )
    def test_is_read_when_writing_fails(
        self, moment, end, to_whom, said, told, connections, serve
    ):
        def break_it(data):
            if data.endswith(end):
                sock = open_socket(backend.connection)
                assert not said or said in sock.recv(65536, socket.MSG_PEEK)
                raise BrokenPipeError

        server = serve(to("x@", "550 no"))
        error = None
        with host_of(server) as backend:
            Watched(backend.connection, **{moment: break_it})
            try:
                backend.send_messages(mails(to_whom))
            except smtplib.SMTPException as caught:
                error = caught
        assert told == (error and (type(error), delivery_of(error)))
        assert server.connections == connections


def says_once(*replies):
    """Answer as if a group was one command."""
    return any_of(at("MAIL", *replies), at("RCPT", *replies[:-1], HANG))


TOO_EARLY, GOODBYE = "554 SMTP synchronization error" + AND_CLOSE, "421 bye" + AND_CLOSE
NO_USER, SIX = always("RCPT", "550 no"), ("abcdef", "abcdef", 2)

# What a server does with commands in groups, what it is sent (one word for each call), how
# many arrive, over how many connections, and the fastest pace that is worth trying then.
PACES: Any = {
    "takes all": (lambda: at("none"), "abc def", "abcdef", 2, Pace.AHEAD),
    "refuses both": (lambda: at("MAIL", None, *["503 x"] * 2), "abcd", "abcd", 3, Pace.SINGLE),
    "and a recipient": (lambda: any_of(at("MAIL", "503 x"), NO_USER), "a", "", 2, Pace.SINGLE),
    "answers something else": (lambda: at("DATA", "250 ok"), "a", "a", 2, Pace.SINGLE),
    "says why": (lambda: always("RCPT", "550 5.5.1 order"), "a", "", 2, Pace.AHEAD),
    # It may look only now and then, as Exim does.
    "says so later": (lambda: at("MAIL", None, TOO_EARLY), "a b", "ab", 3, Pace.SINGLE),
    "refuses the message": (lambda: at("MAIL", None, "550 no"), "ab", "a", 1, Pace.AHEAD),
    "refuses an address later": (lambda: to("b@", "501 5.1.3"), "a b", "a", 2, Pace.AHEAD),
    "is silent": (lambda: always("MAIL", HANG), "a", "", 2, Pace.AHEAD),
    "closes later": (lambda: at("MAIL", None, CLOSE), "a b c", "abc", 4, Pace.AHEAD),
    "is silent later": (lambda: at("RCPT", None, HANG), "a b", "a", 2, Pace.AHEAD),
    "swallows later": (lambda: at("MAIL", None, None, HANG), "abc", "abc", 2, Pace.GROUPED),
    # Some servers take so many messages in a session, and no more.
    "says goodbye later": (lambda: at("MAIL", None, None, None, GOODBYE), *SIX, Pace.AHEAD),
    # What would change nothing is not waited for.
    "says no more": (partial(says_once, None, "421 bye"), "a b", "a", 2, Pace.AHEAD),
    "says nothing to QUIT": (lambda: at("QUIT", HANG), "a", "a", 1, Pace.AHEAD),
    # What was written behind a body may be why it ended the session.
    "closes at a body": (lambda: at(BODY, CLOSE), "abc", "bc", 2, Pace.GROUPED),
    "says goodbye to the last": (lambda: at(BODY, "421 bye"), "a", "", 1, Pace.AHEAD),
    "closes at a body later": (lambda: at(BODY, None, CLOSE), "abc", "ac", 2, Pace.GROUPED),
    # Groups that they cannot take: chasquid, VPOP3, proxies.
    "refuses once": (partial(says_once, None, "503 no"), *SIX, Pace.GROUPED),
    "takes the first": (lambda: at("RCPT", HANG), *SIX, Pace.SINGLE),
    "refuses the rest": (lambda: at("RCPT", "502 no"), *SIX, Pace.SINGLE),
}
# The error is the server's if the slowest pace gets the same: no pace is to blame.
for code in (500, 501, 502, 503, 504, 553, 555):
    for step in ("MAIL", "RCPT", "DATA"):
        refuses = partial(always, step, f"{code} no")
        PACES[f"{code} to {step}"] = (refuses, "a", "", 2, Pace.AHEAD)
# Behind a body, nobody has the message, whatever happens.
for step in ("MAIL", "RCPT", "DATA"):
    for action in ("503 wait", "500 what?", "421 bye", CLOSE, RESET, HANG):
        fails = partial(at, step, None, action)
        PACES[f"{action} to {step} behind"] = (fails, "abc", "abc", 2, Pace.GROUPED)

# Some take a group for one command, and some end the session.
for reply in (
    *("500 5.5.1 Pipelining not supported", "501 5.5.4 Syntax error", "553 bad address"),
    *("555 unsupported parameter", "451 4.3.0 try again later"),
):
    PACES[f"{reply} to a group"] = (partial(says_once, reply), *SIX, Pace.SINGLE)
for end in ("550 5.7.1 no" + AND_CLOSE, TOO_EARLY, GOODBYE, CLOSE, RESET):
    PACES[f"{end} to a group"] = (partial(at, "MAIL", end), *SIX, Pace.SINGLE)


@pytest.mark.parametrize("name", PACES)
def test_pace_of_a_server_is_found_out_and_remembered(name, serve, monkeypatch):
    monkeypatch.setitem(PATIENCE, Pace.GROUPED, 0.4)  # what is swallowed is waited for
    monkeypatch.setitem(PATIENCE, Pace.AHEAD, 0.2)
    make_script, sends, arrive, connections, fastest = PACES[name]
    server = serve(make_script())
    timeout = 0.3 if "silent" in name else 20
    began = time.monotonic()
    for names in sends.split():
        host_of(server, fail_silently=True, timeout=timeout).send_messages(mails(*names))
    assert time.monotonic() - began < 15
    assert "".join(names_of(server)) == arrive
    assert server.connections == connections
    assert pace_of(f"127.0.0.1:{server.port}").fastest is fastest


@pytest.mark.parametrize("other", ["550 no", None])
def test_pace_is_doubted_if_one_command_was_not_understood(other, serve):
    """Whatever the server then says to the others."""
    server = serve(at("RCPT", "503 no", other))
    assert host_of(server).send_messages(mails("a+b")) == 1
    assert names_of(server) == ["a+b"]


@pytest.mark.parametrize("is_new", [True, False])
def test_pace_that_is_new_is_waited_for_a_shorter_time(is_new, serve):
    timeouts = []
    with host_of(serve(), timeout=33) as backend:
        backend.send_messages(mails(*"a"[is_new:]))
        backend.connection.ehlo()
        limit = open_socket(backend.connection).gettimeout
        Watched(backend.connection, reads=lambda: timeouts.append(limit()))
        backend.send_messages(mails("b"))
        before_the_body = PATIENCE[Pace.GROUPED] if is_new else 33
        of_the_send = dict.fromkeys(
            itertools.dropwhile(lambda seconds: seconds == 0, timeouts)
        )
        assert [*of_the_send] == [*dict.fromkeys([before_the_body, 0, 33])]


@pytest.mark.parametrize(
    ("megabytes", "seconds", "is_sent"),
    [(0.5, 18, True), (0.5, 22, False), (2.5, 55, True), (2.5, 65, False)],
)
def test_body_has_the_timeout_per_megabyte(megabytes, seconds, is_sent, serve, monkeypatch):
    """A server that takes it bit by bit does not hold up the sender for ever."""
    content = int(megabytes * 2**20 / 64) * f"{'x' * 63}\n"
    step = seconds / (len(content) / transaction.MAX_RECORD)
    monkeypatch.setattr(transaction, "clock", itertools.count(0, step).__next__)
    server = serve()
    sent = result(host_of(server), mails("a", content=content))
    assert sent == (("sent", 1) if is_sent else (smtplib.SMTPServerDisconnected,))
    assert len(server.accepted) == is_sent


@either_way
def test_debug_level_shows_all_that_is_said(extensions, serve, capsys, monkeypatch):
    with host_of(serve(extensions=extensions)) as backend:
        backend.send_messages(mails("a"))
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(smtplib.SMTP, "debuglevel", 1)
        backend.send_messages(mails("a", "b"))
    shown = capsys.readouterr().err
    for said in ("send: b'MAIL FROM:", "RCPT TO:<a@", "RCPT TO:<b@", "Hello", "354 go"):
        assert said in shown
    assert "send: b''" not in shown


class TestEnvelopes:
    """What is below Django's part: they may be anything, and are asked for in time."""

    @pytest.fixture
    def over(self, serve):
        """Send envelopes over a connection to such a server. Return it, and the errors."""

        def over(envelopes, extensions=PIPELINING, **options):
            server = serve(extensions=extensions)
            with SMTP("127.0.0.1", server.port, timeout=20) as connection:
                Watched(connection, **options)
                sending = Transmission(envelopes, "server", look_ahead=True)
                results = sending.over(connection, was_parked=False, may_have_ended=False)
                return server, [result.error for result in results]

        return over

    def test_content_is_stuffed_and_ended_as_none_of_django_needs_it(self, over):
        """RFC 5321, 4.5.2. This server does not take the period away."""
        server, _ = over(iter([Envelope("a@b", ["c@d"], b".no end")]))
        assert server.accepted[0].content == b"..no end"

    @pytest.mark.parametrize(("extensions", "size"), [(["SIZE 99"], " size=7"), ([], "")])
    def test_size_is_told_to_a_server_that_has_a_limit(self, extensions, size, over):
        server, _ = over(iter([Envelope("a@b", ["c@d"], b"Hello\r\n")]), extensions)
        assert server.commands[1] == f"MAIL FROM:<a@b>{size}"

    @pytest.mark.parametrize("name", ["\rRSET\r", "\nRSET\n", "\r\nRSET\r\n", "ü"])
    @pytest.mark.parametrize("position", [0, 1])
    def test_address_that_cannot_be_written_is_told_in_its_turn(self, position, name, over):
        """Django lets none through, and yet it must not become a command."""
        names = ["a"]
        names.insert(position, name)
        server, errors = over(Envelope(each, [f"{each}@"], b"Hello\r\n") for each in names)
        error = errors.pop(position)
        assert isinstance(error, ValueError)
        assert name == "ü" or str(error) == "an address has a line break"
        assert errors == [None]
        assert len(server.accepted) == 1
        assert not any("RSET" in command for command in server.commands)

    def test_ring_while_they_are_made_into_commands_is_raised(self, over):
        """Nothing has been written."""
        ringing: Any = mock.MagicMock(__iter__=mock.Mock(side_effect=TimeoutError))
        with pytest.raises(TimeoutError) as caught:
            over(iter([Envelope("s@example.com", ringing, b"")]))
        assert can_be_retried(caught.value)

    def test_next_is_made_while_the_server_is_busy(self, over):
        """Between the write of a body, which is then forgotten, and the reply to it."""
        events: list[object] = []

        class Content(bytes):
            def __del__(self):
                events.append("forgotten")

        def coming():
            for number in range(4):
                events.append(number)
                yield Envelope("s@example.com", ["a@"], Content(b"Hello\r\n"))

        over(
            coming(),
            sends=lambda data: events.extend(["body"] * data.endswith(END)),
            reads=lambda: events.append("waits"),
        )
        body = events.index("body")
        meanwhile = events[body : events.index("waits", body)]
        assert meanwhile == ["body", "forgotten", 1, 2]  # one more, in reserve
