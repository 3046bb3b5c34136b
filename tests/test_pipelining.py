"""Pipelining: the results of smtplib, in fewer round trips."""

import smtplib
import socket
import time
from collections import Counter
from functools import partial
from typing import Any

import pytest
from conftest import mails
from django.core.mail.backends.smtp import EmailBackend
from roundtrips import RoundTrips
from scripted import AND_CLOSE, BODY, CLOSE, HANG, RESET, always, any_of, at, to

from email_hosts.backends import EmailHostsBackend, can_be_retried
from email_hosts.retry import NOT_SENT, PERHAPS, delivery_of
from email_hosts.smtp import transaction
from email_hosts.smtp.connection import SMTP, open_socket
from email_hosts.smtp.pace import Pace, pace_of
from email_hosts.smtp.pipelining import Envelope, Transmission
from email_hosts.smtp.transaction import PATIENCE

PIPELINING = ("PIPELINING", "SIZE 10000000")
STEPWISE = ("SIZE 10000000",)
END = b"\r\n.\r\n"
LARGE = "x" * 20_000_000

either_way = pytest.mark.parametrize(
    "extensions", [PIPELINING, STEPWISE], ids=["pipelining", "stepwise"]
)


def envelopes(*names):
    return (Envelope("s@example.com", [f"{name}@"], b"Hello\r\n") for name in names)


def transmission(coming, *, look_ahead=True):
    return Transmission(coming, "server", look_ahead=look_ahead)


def send(connection, *names):
    return transmission(envelopes(*names)).over(connection)


def smtp(server):
    return SMTP("127.0.0.1", server.port, timeout=20)


def ours(server, **options):
    return EmailHostsBackend("127.0.0.1", server.port, **{"timeout": 20, **options})


def djangos(server, **options):
    # Without an alias, Django 6.1 warns.
    return EmailBackend(
        host="127.0.0.1", port=server.port, **{"timeout": 20, "alias": "x", **options}
    )


def names_of(server):
    """Return to whom each message was, which the server has accepted."""
    return [
        "+".join(each.removesuffix("@example.net") for each in one.recipients)
        for one in server.accepted
    ]


def result(backend, batch):
    """Return what sending the batch returns, or the error that it raises."""
    try:
        return ("sent", backend.send_messages(batch))
    except smtplib.SMTPRecipientsRefused as error:
        return (type(error), error.recipients)
    except (smtplib.SMTPResponseException, ValueError) as error:
        return (type(error), *error.args)
    except smtplib.SMTPServerDisconnected as error:
        return (type(error),)


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


NO_RSET = always("RSET", "502 no")

# What the server does, and what it is sent. How a lost connection is lost (end, reset,
# silence) makes no difference here; test_failover has all of them at each step.
FAULTS = {
    "none": (lambda: at("none"), "a b c"),
    "nobody to send to": (lambda: at("none"), "+ a + b +"),
    "bad address": (lambda: at("none"), "a a@b@c d"),
    "EHLO refused": (lambda: at("EHLO", "502 no"), "a b"),
    "EHLO and HELO no": (lambda: any_of(at("EHLO", "502 x"), at("HELO", "502 x")), "a b"),
    "banner refused": (lambda: at("banner", "554 no"), "a"),
    "banner close": (lambda: at("banner", CLOSE), "a"),
    "MAIL refused": (lambda: at("MAIL", "550 no"), "a b"),
    "second MAIL refused": (lambda: at("MAIL", None, "550 no"), "a b c"),
    "MAIL closing": (lambda: always("MAIL", "421 later"), "a b"),
    "MAIL garbage": (lambda: always("MAIL", "what?"), "a b"),
    "MAIL close": (lambda: always("MAIL", CLOSE), "a b"),
    "one RCPT refused": (lambda: to("b@", "550 no"), "a+b+c d"),
    "one RCPT delayed": (lambda: to("b@", "450 later"), "a+b+c d"),
    "RCPT forwarded": (lambda: to("b@", "251 forwarded"), "a+b d"),
    "RCPT unverified": (lambda: to("b@", "252 maybe"), "a+b d"),
    "all RCPT refused": (lambda: to("@", "550 no"), "a+b c"),
    "RCPT of the second refused": (lambda: to("c@", "550 no"), "a c d"),
    "RCPT closing": (lambda: to("b@", "421 later"), "a+b+c d"),
    "RCPT close": (lambda: to("b@", CLOSE), "a+b+c d"),
    "RCPT garbage": (lambda: always("RCPT", "what?\r\n250 fine"), "a b"),
    "DATA refused": (lambda: at("DATA", "451 later"), "a b"),
    "DATA closing": (lambda: always("DATA", "421 later"), "a b"),
    "DATA close": (lambda: always("DATA", CLOSE), "a b"),
    "body refused": (lambda: at(BODY, "554 spam"), "a b c"),
    "second body refused": (lambda: at(BODY, None, "554 spam"), "a b c"),
    "body delayed": (lambda: at(BODY, "451 later"), "a b"),
    "body closing": (lambda: at(BODY, "421 later"), "a b"),
    "body close": (lambda: at(BODY, CLOSE), "a b"),
    "second body close": (lambda: at(BODY, None, CLOSE), "a b c"),
    "body garbage": (lambda: at(BODY, "what?"), "a b"),
    "RSET refused": (lambda: any_of(at("MAIL", "550 no"), at("RSET", "500 no")), "a b"),
    "RSET close": (lambda: any_of(at("MAIL", "550 no"), at("RSET", CLOSE)), "a b"),
    "no RSET after MAIL": (lambda: any_of(at("MAIL", "550 no"), NO_RSET), "a b c"),
    "no RSET after RCPT": (lambda: any_of(to("a@", "550 no"), NO_RSET), "a b c"),
    "no RSET after DATA": (lambda: any_of(at("DATA", "554 no"), NO_RSET), "a b c"),
    "no RSET after a body": (lambda: any_of(at(BODY, "554 no"), NO_RSET), "a b c"),
    "MAIL refused and close": (lambda: always("MAIL", "550 no" + AND_CLOSE), "a b c"),
    "RCPT refused and close": (lambda: to("a@", "550 no" + AND_CLOSE), "a b c"),
    "MAIL out of order": (lambda: always("MAIL", "503 no"), "a b"),
    "RCPT out of order": (lambda: to("b@", "503 no"), "a+b c"),
    "DATA out of order": (lambda: always("DATA", "502 no"), "a b"),
    "MAIL goodbye": (lambda: always("MAIL", "221 bye"), "a b"),
    "all refused and close": (
        lambda: any_of(to("<x", "550 no"), at("DATA", CLOSE)),
        "+".join(f"x{i}" for i in range(20)),
    ),
    "twenty refused and goodbye": (
        lambda: any_of(to("<x", "550 no"), to("z", "421 bye" + AND_CLOSE)),
        "+".join([*(f"x{i}" for i in range(20)), "z", "b"]),
    ),
}

# Who knows what follows? Where Django goes on, the connection is closed.
UNTRUSTED = {"MAIL garbage", "RCPT garbage", "body garbage", "RSET refused"}


def both(serve, extensions, fault, **options):
    """Yield the result of Django's backend and of ours, and what the servers have taken."""
    make_script, recipients = FAULTS[fault]
    for make in (djangos, ours):
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


@either_way
@pytest.mark.parametrize("fault", sorted(UNTRUSTED))
def test_connection_is_not_trusted_after_a_line_that_is_no_reply(fault, extensions, serve):
    make_script, recipients = FAULTS[fault]
    server = serve(make_script(), extensions=extensions)
    with ours(server, fail_silently=True) as backend:
        backend.send_messages(mails(recipients.split()[0]))
        assert backend.connection is None
    assert server.accepted == []


@pytest.mark.parametrize(
    "content", ["", ".", ".\n..\n.a\n\n.", "a" * 2000, "é\n.é", "x\r\n.\r\ny"]
)
def test_content_is_that_of_django_byte_by_byte(content, serve):
    servers = [serve(), serve()]
    for make, server in zip((djangos, ours), servers, strict=True):
        make(server).send_messages(mails("a", "b", content=content))
    assert servers[1].accepted == servers[0].accepted
    assert len(servers[0].accepted) == 2


PLAIN = ["a@b.example", "first.last+tag@sub-domain.example.com", "a_b-c@127", "A@B"]
ODD = [
    *("", "<>", "a", "a@", "@b", "a@b@c", "a..b@c", ".a@c", "a.@c", "a@b..c", "a@.b"),
    *("<a@b>", "Name <a@b.example>", '"a b"@c.example', "a b@c.example", "a@[127.0.0.1]"),
    *("a@b.example ", " a@b.example", "a(c)@b.example", "a@b.example(c)", "a,b@c", "a@x\\"),
]


def test_addresses_are_written_as_by_smtplib(serve):
    said = []
    for kind in (smtplib.SMTP, SMTP):
        server = serve(extensions=STEPWISE)
        with kind("127.0.0.1", server.port, timeout=20) as connection:
            coming = (Envelope(each, [each], b"Hello\r\n") for each in PLAIN + ODD)
            list(transmission(coming).over(connection))
        said.append([command.upper() for command in server.commands])
    assert said[0] == said[1]
    assert len(said[0]) > 2 * len(PLAIN + ODD)


@pytest.mark.parametrize("name", ["\rRSET\r", "\nRSET\n", "\r\nRSET\r\n", "ü"])
@pytest.mark.parametrize("position", [0, 1])
def test_address_that_cannot_be_written_is_an_error_in_its_turn(position, name, serve):
    """Django lets none through, and yet it must not become a command."""
    server = serve()
    names = ["a"]
    names.insert(position, name)
    with smtp(server) as connection:
        errors = [result.error for result in send(connection, *names)]
    assert isinstance(errors.pop(position), ValueError)
    assert errors == [None]
    assert len(server.accepted) == 1
    assert not any("RSET" in command for command in server.commands)


def test_content_is_forgotten_once_it_is_sent(serve):
    """The messages of a list may be large: one waits for its turn, and one is made."""
    alive: list[int] = []
    most = []

    class Content(bytes):
        def __del__(self):
            alive.remove(len(self))

    def coming():
        for size in range(10, 15):
            most.append(len(alive))
            alive.append(size)
            yield Envelope("s@example.com", ["a@x.net"], Content(b"x" * size))

    with smtp(serve()) as connection:
        list(transmission(coming()).over(connection))
    assert max(most) == 1
    assert alive == []


THOUSAND = ["+".join(map(str, range(1000)))]


def trips(server, *recipients):
    """Count round trips of a list at the client, over a connection that has been used."""
    with ours(server) as connection:
        connection.send_messages(mails("first"))
        with RoundTrips() as trips:
            assert connection.send_messages(mails(*recipients)) == len(recipients)
    return trips.count


@pytest.mark.parametrize(
    ("extensions", "recipients", "expected"),
    [
        (PIPELINING, "a", 2),
        (PIPELINING, "a+b+c+d+e", 2),
        (STEPWISE, "a", 4),
        (STEPWISE, "a+b+c+d+e", 8),
        (PIPELINING, "a b c d e f g h i j", 11),
    ],
)
def test_round_trips_are_few(extensions, recipients, expected, serve):
    assert trips(serve(extensions=extensions), *recipients.split()) == expected


def test_round_trips_of_a_thousand_recipients_are_few(serve):
    server = serve()
    assert trips(server, *THOUSAND) < 25
    assert names_of(server) == ["first", *THOUSAND]


@pytest.mark.parametrize(("extensions", "made"), [(PIPELINING, [1, 2]), (STEPWISE, [1])])
def test_next_message_is_made_while_the_server_is_busy(extensions, made, serve):
    """Between the write of a body and the reply to it. With PIPELINING, one is in reserve."""
    events: list[object] = []

    def coming():
        for number, envelope in enumerate(envelopes(*"abcd")):
            events.append(number)
            yield envelope

    with smtp(serve(extensions=extensions)) as connection:
        Watched(
            connection,
            sends=lambda data: events.extend(["body"] * data.endswith(END)),
            reads=lambda: events.append("waits"),
        )
        list(transmission(coming()).over(connection))
    body = events.index("body")
    meanwhile = events[body : events.index("waits", body)]
    assert [event for event in meanwhile if isinstance(event, int)] == made


def test_bytes_in_flight_are_bounded(serve):
    written: list[bytes] = []
    with ours(serve()) as backend:
        Watched(backend.connection, sends=written.append)
        backend.send_messages(mails(*THOUSAND))
    commands = [data for data in written if data.startswith((b"MAIL", b"RCPT", b"DATA"))]
    assert max(map(len, commands)) <= transaction.MAX_BYTES_IN_FLIGHT
    assert max(map(len, written)) == transaction.MAX_RECORD


@either_way
@pytest.mark.parametrize("code", [450, 550])
def test_recipient_that_is_there_twice_is_refused_all_the_same(code, extensions, serve):
    """Smtplib counts one refusal, and two recipients."""
    script = any_of(to("@", f"{code} no"), at("DATA", "354 go ahead"))
    server = serve(script, extensions=extensions)
    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        ours(server).send_messages(mails("a+a"))
    assert can_be_retried(caught.value) is (code == 450)
    assert [one for one in server.accepted if one.recipients] == []


class TestSurprise:
    """What a server may do after it refused something in a group."""

    @pytest.mark.parametrize("refused", [to("@", "550 no"), at("MAIL", "550 no")])
    def test_go_ahead_for_nobody_is_answered_with_an_empty_message(self, refused, serve):
        go_ahead = at("DATA", "354 go ahead")
        server = serve(
            any_of(lambda *each: None if "b@" in each[1] else refused(*each), go_ahead)
        )
        with ours(server) as connection:
            with pytest.raises(smtplib.SMTPException):
                connection.send_messages(mails("a"))
            assert connection.send_messages(mails("b")) == 1
        assert server.connections == 1
        assert names_of(server) == ["", "b"]

    @pytest.mark.parametrize("doubtful", ["250 yes", "252 maybe", "354 go ahead"])
    def test_go_ahead_for_somebody_perhaps_ends_the_connection(self, doubtful, serve):
        script = any_of(
            always("MAIL", "550 no"), to("@", doubtful), always("DATA", "354 go ahead")
        )
        server = serve(script)
        with ours(server) as backend, pytest.raises(smtplib.SMTPSenderRefused):
            backend.send_messages(mails("a"))
        assert server.accepted == []

    @pytest.mark.parametrize("line", ["250 accepted", "450 later", "what?"])
    def test_line_before_the_body_is_not_taken_for_the_reply_to_it(self, line, serve):
        server = serve(always("DATA", f"354 go ahead\r\n{line}"))
        with pytest.raises(smtplib.SMTPServerDisconnected, match="more than") as caught:
            ours(server).send_messages(mails("a"))
        assert delivery_of(caught.value) == NOT_SENT
        assert server.accepted == []


def wait_for_bytes(connection, expected):
    """Wait until the server has sent this, without taking it."""
    assert expected in open_socket(connection).recv(65536, socket.MSG_PEEK)


class TestRefusalBeforeTheEnd:
    """What a server has said counts, although it then ends the connection."""

    TWENTY = "+".join(f"x{number}" for number in range(20))

    @pytest.mark.parametrize("end", ["421 bye", "421 bye" + AND_CLOSE, CLOSE, RESET])
    @either_way
    def test_of_some_is_kept_while_the_others_are_offered_again(self, end, extensions, serve):
        """Where the session was parked, at any pace."""
        server = serve(any_of(to("<x", "550 no")), extensions=extensions)
        backend = ours(server, conn_max_age=60)
        backend.send_messages(mails("first"))
        ends = iter([end])
        at_z = lambda step, argument: next(ends, None) if "z@" in argument else None  # noqa: E731
        server.script = any_of(to("<x", "550 no"), at_z)
        assert backend.send_messages(mails(f"{self.TWENTY}+z+b")) == 1
        assert len(backend.refused_recipients) == 20
        assert names_of(server) == ["first", "z+b"]
        assert sum("<x0@" in command for command in server.commands) == 1
        assert server.connections == 2

    @pytest.mark.parametrize("fail_silently", [False, True])
    def test_of_some_is_told_although_the_rest_is_lost(self, fail_silently, serve):
        server = serve(any_of(to("<x", "550 no"), to("z@", CLOSE)))
        backend = ours(server, fail_silently=fail_silently)
        sent = result(backend, mails(f"{self.TWENTY}+z", "b"))
        assert sent == (("sent", 1) if fail_silently else (smtplib.SMTPServerDisconnected,))
        assert len(backend.refused_recipients) == 20
        assert server.connections == 2 + fail_silently

    @either_way
    @pytest.mark.parametrize("reply", ["552 too large", "451 later"])
    def test_of_a_body_is_read_when_writing_it_fails(self, reply, extensions, serve):
        server = serve(at("CONTENT", reply + AND_CLOSE), extensions=extensions)
        with pytest.raises(smtplib.SMTPDataError) as caught:
            ours(server).send_messages(mails("a", content=LARGE))
        assert str(caught.value.smtp_code) == reply[:3]
        assert can_be_retried(caught.value) is (reply[0] == "4")
        assert server.connections == 1

    def test_of_a_list_is_for_one_message_alone(self, serve):
        server = serve(at("CONTENT", "552 too large" + AND_CLOSE))
        batch = mails("a", content=LARGE) + mails("b", "c")
        assert ours(server, fail_silently=True).send_messages(batch) == 2

    def test_of_commands_is_read_when_writing_them_fails(self, serve):
        server = serve(to("<x", "550 no"))

        def break_when_all_is_there(data):
            wait_for_bytes(backend.connection, b"550 no")
            raise BrokenPipeError

        with ours(server) as backend:
            Watched(backend.connection, has_sent=break_when_all_is_there)
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                backend.send_messages(mails("x"))
        assert server.connections == 1

    def test_goodbye_is_no_reply_to_a_body_that_may_be_complete(self, serve):
        """250 is not read, either: it would be that of a message which is not complete."""

        def break_at_the_end(data):
            if data.endswith(END):
                wait_for_bytes(connection, b"250")
                raise BrokenPipeError

        with smtp(serve()) as connection:
            Watched(connection, has_sent=break_at_the_end)
            (result,) = send(connection, "a")
        assert isinstance(result.error, smtplib.SMTPServerDisconnected)
        assert delivery_of(result.error) == PERHAPS


def behind(action):
    """Do this with the first envelope behind a body."""
    return at("MAIL", None, action)


# What a server does with commands in groups, what it is sent (one word for each call), how
# many arrive, over how many connections, and the fastest pace that is worth trying then.
PACES: Any = {
    "takes all": (lambda: at("none"), "abc def", "abcdef", 2, Pace.AHEAD),
    "refuses what is behind": (lambda: behind("503 wait"), "ab", "ab", 2, Pace.GROUPED),
    "and a group": (lambda: at("MAIL", None, *["503 x"] * 2), "abcd", "abcd", 3, Pace.SINGLE),
    "refuses a group": (lambda: at("MAIL", "503 wait"), "a", "a", 2, Pace.SINGLE),
    "refuses a group and a recipient": (
        lambda: any_of(at("MAIL", "503 wait"), always("RCPT", "550 no")),
        *("a", "", 2, Pace.SINGLE),
    ),
    "refuses a recipient": (lambda: always("RCPT", "550 5.1.1 who"), "a", "", 1, Pace.AHEAD),
    "says why": (lambda: always("RCPT", "550 5.5.1 order"), "a", "", 2, Pace.AHEAD),
    "says so": (lambda: always("RCPT", "521 No pipelining"), "a", "", 2, Pace.AHEAD),
    "refuses the message": (lambda: behind("550 no"), "ab", "a", 1, Pace.AHEAD),
    "refuses an address later": (lambda: to("b@", "501 5.1.3"), "a b", "a", 2, Pace.AHEAD),
    "closes": (lambda: always("MAIL", CLOSE), "a", "", 2, Pace.AHEAD),
    "is silent": (lambda: always("MAIL", HANG), "a", "", 2, Pace.AHEAD),
    "closes later": (lambda: behind(CLOSE), "a b c", "abc", 4, Pace.AHEAD),
    "is silent later": (lambda: at("RCPT", None, HANG), "a b", "a", 2, Pace.AHEAD),
    "swallows later": (lambda: at("MAIL", None, None, HANG), "abc", "abc", 2, Pace.GROUPED),
    "says goodbye later": (  # some servers take so many messages in a session, and no more
        lambda: at("MAIL", None, None, None, "421 too many" + AND_CLOSE),
        *("abcdef", "abcdef", 2, Pace.AHEAD),
    ),
    # What was written behind a body may be why it ended the session, until that has worked.
    "closes at a body": (lambda: at(BODY, CLOSE), "abc", "bc", 2, Pace.GROUPED),
    "says goodbye to it": (lambda: at(BODY, "421 bye"), "abc", "bc", 2, Pace.GROUPED),
    "makes no sense": (lambda: at(BODY, "what?"), "abc", "bc", 2, Pace.GROUPED),
    "says goodbye to the last": (lambda: at(BODY, "421 bye"), "a", "", 1, Pace.AHEAD),
    "closes at a body later": (lambda: at(BODY, None, CLOSE), "abc", "ac", 2, Pace.AHEAD),
}
# The error is the server's if the slowest pace gets the same: no pace is to blame.
for code in (500, 501, 502, 503, 504, 553, 555):
    for step in ("MAIL", "RCPT", "DATA"):
        PACES[f"{code} to {step}"] = (
            partial(always, step, f"{code} no"),
            *("a", "", 2, Pace.AHEAD),
        )
# Behind a body, nobody has the message, whatever happens.
for step in ("MAIL", "RCPT", "DATA"):
    for action in ("503 wait", "500 what?", "421 bye", CLOSE, RESET, HANG):
        PACES[f"{action} to {step} behind"] = (
            partial(at, step, None, action),
            *("abc", "abc", 2, Pace.GROUPED),
        )


@pytest.mark.parametrize("name", PACES)
def test_pace_of_a_server_is_found_out_and_remembered(name, serve, monkeypatch):
    make_script, sends, arrive, connections, fastest = PACES[name]
    monkeypatch.setitem(PATIENCE, Pace.AHEAD, 0.2)
    server = serve(make_script())
    timeout = 0.3 if "silent" in name else 20
    began = time.monotonic()
    for names in sends.split():
        ours(server, fail_silently=True, timeout=timeout).send_messages(mails(*names))
    assert time.monotonic() - began < 15
    assert "".join(names_of(server)) == arrive
    assert server.connections == connections
    assert pace_of(f"127.0.0.1:{server.port}").fastest is fastest


class TestPace:
    def test_is_remembered_of_a_thousand_servers(self, serve):
        servers = [serve(behind("503 wait")) for _ in range(2)]
        for server in servers:
            ours(server).send_messages(mails("a", "b"))
        for number in range(999):
            pace_of(f"{number}.example.com:25")
        assert [trips(server, *"123") for server in reversed(servers)] == [6, 4]

    @pytest.mark.parametrize("is_new", [True, False])
    @pytest.mark.parametrize("timeout", [None, 33])
    def test_that_is_new_is_waited_for_a_shorter_time(self, timeout, is_new, serve):
        timeouts = []
        with smtp(serve()) as connection:
            list(send(connection, *"a"[is_new:]))
            connection.ehlo()
            open_socket(connection).settimeout(timeout)
            limit = open_socket(connection).gettimeout
            Watched(connection, reads=lambda: timeouts.append(limit()))
            list(send(connection, "b"))
            assert limit() == timeout
        expected = [PATIENCE[Pace.GROUPED], timeout] if is_new else [timeout]
        assert [*dict.fromkeys(timeouts)] == [expected[0], 0, *expected[1:]]  # 0: a look

    def test_that_is_new_is_doubted_for_an_answer_to_something_else(self, serve):
        server = serve(at("DATA", "250 ok"))
        assert ours(server).send_messages(mails("a")) == 1
        assert server.connections == 2

    def test_that_has_worked_is_doubted_if_the_refusal_says_so(self, serve):
        """A server may look only now and then, as Exim does."""
        server = serve(at("MAIL", None, "554 SMTP synchronization error" + AND_CLOSE))
        for name in "ab":
            assert ours(server).send_messages(mails(name)) == 1
        assert server.connections == 3
        assert pace_of(f"127.0.0.1:{server.port}").fastest is Pace.SINGLE

    def test_ahead_is_a_write_of_its_own(self, serve):
        """And so a TLS record: a server may stop reading at the end of the body."""
        written: list[bytes] = []
        with smtp(serve()) as connection:
            Watched(connection, sends=written.append)
            list(send(connection, "a", "b"))
        assert [data[:4] for data in written] == [b"MAIL", b"Hell", b"MAIL", b"Hell"]

    def test_ahead_that_breaks_does_not_hide_the_reply_to_the_body(self, serve):
        server = serve()
        written = []

        def break_at_the_second_group(data):
            written.append(data[:4])
            if written.count(b"MAIL") > 1:
                raise BrokenPipeError

        with smtp(server) as connection:
            Watched(connection, sends=break_at_the_second_group)
            sending = transmission(envelopes("a", "b"))
            (first,) = sending.over(connection)
        assert first[1:] == ({}, None)
        assert sending.current.recipients == ["b@"]
        assert len(server.accepted) == 1

    def test_of_a_server_that_has_gone_meanwhile_is_an_error(self, serve):
        server = serve(any_of(behind("503 wait"), at("banner", None, "554 gone")))
        with pytest.raises(smtplib.SMTPConnectError) as caught:
            ours(server).send_messages(mails("a", "b"))
        assert can_be_retried(caught.value)
        assert len(server.accepted) == 1


class TestTransmission:
    """Envelopes are asked for in time, and each has one result."""

    @pytest.mark.parametrize("kind", [smtplib.SMTP, SMTP])
    @pytest.mark.parametrize("look_ahead", [True, False])
    def test_error_of_an_envelope_is_its_result(self, kind, look_ahead, serve):
        error = LookupError("no template")
        first, second, third = envelopes(*"abc")
        second = second._replace(error=error, message="mine")
        server = serve()
        with kind("127.0.0.1", server.port, timeout=20) as connection:
            sending = transmission(iter([first, second, third]), look_ahead=look_ahead)
            results = list(sending.over(connection))
            assert list(sending.over(connection)) == []
        assert sending.is_over
        assert [result.error for result in results] == [None, error, None]
        assert results[1].envelope.message == "mine"
        assert names_of(server) == ["a@", "c@"]
        assert not any("b@" in command for command in server.commands)

    @pytest.mark.parametrize("error", [LookupError, SystemExit])
    def test_error_of_the_iterator_is_raised_in_its_turn(self, error, serve):
        def coming():
            yield from envelopes("a")
            raise error

        with smtp(serve()) as connection:
            results = transmission(coming()).over(connection)
            assert next(results).error is None
            with pytest.raises(error):
                next(results)
            assert connection.noop()[0] == 250

    def test_caller_that_stops_leaves_no_command_without_a_reply(self, serve):
        with smtp(serve()) as connection:
            results = send(connection, *"abc")
            next(results)
            results.close()
            assert connection.sock is None

    @pytest.mark.parametrize("error", [TimeoutError("rings"), KeyError("rings")])
    def test_ring_while_the_envelope_is_made_into_commands(self, error, serve):
        """Nothing has been written."""

        class Ringing(list[str]):
            def __iter__(self):
                raise error

        with smtp(serve()) as connection:
            coming = iter([Envelope("s@example.com", Ringing(), b"")])
            with pytest.raises(type(error), match="rings") as caught:
                list(transmission(coming).over(connection))
            assert can_be_retried(caught.value) is isinstance(error, OSError)
            assert connection.sock is None


@either_way
@pytest.mark.parametrize("is_global", [True, False])
def test_debug_level_shows_all_that_is_said(extensions, is_global, serve, capsys, monkeypatch):
    """As smtplib does."""
    server = serve(extensions=extensions)
    ours(server).send_messages(mails("a"))
    assert capsys.readouterr().err == ""
    if is_global:
        monkeypatch.setattr(smtplib.SMTP, "debuglevel", 1)
    with ours(server) as backend:
        if not is_global:
            backend.connection.set_debuglevel(1)
        backend.send_messages(mails("a", "b"))
    shown = capsys.readouterr().err
    for said in ("MAIL FROM:", "RCPT TO:<a@", "RCPT TO:<b@", "DATA", "Hello", "354 go"):
        assert said in shown
    assert "send: b''" not in shown


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("rings"),
        ConnectionRefusedError("rings"),
        smtplib.SMTPSenderRefused(450, b"rings", "x@example.com"),
        smtplib.SMTPRecipientsRefused({"x@example.net": (450, b"rings")}),
    ],
    ids=lambda error: type(error).__name__,
)
class TestSignalHandler:
    """Whatever it raises does not tell how far the message has got; the moment does."""

    def send(self, server, error, is_due):
        """Send over a connection that was parked. It rings when something is written."""
        ours(server, conn_max_age=60).send_messages(mails("first"))

        def ring(data):
            if is_due(data):
                raise error

        with ours(server, conn_max_age=60) as backend:
            Watched(backend.connection, has_sent=ring)
            return backend.send_messages(mails("a"))

    def test_before_the_end_of_the_body_costs_a_connection(self, error, serve):
        server = serve()
        assert self.send(server, error, lambda data: data.startswith(b"MAIL")) == 1
        assert (server.connections, len(server.accepted)) == (2, 2)

    def test_at_the_end_of_the_body_leaves_it_open_who_has_the_message(self, error, serve):
        server = serve()
        with pytest.raises(smtplib.SMTPServerDisconnected, match="rings") as caught:
            self.send(server, error, lambda data: data.endswith(END))
        assert not can_be_retried(caught.value)
        assert server.wait_for(2)
        assert server.connections == 1


def test_connection_in_step_is_used_again(serve):
    server = serve(any_of(at("MAIL", "550 no"), to("x@", "550 no")))
    with ours(server) as connection:
        for recipients in ("a", "x", "b+x", "c"):
            result(connection, mails(recipients))
    assert server.connections == 1
    assert names_of(server) == ["b", "c"]


def test_lost_connection_is_opened_again_by_the_next_send(serve):
    server = serve(at("MAIL", CLOSE, CLOSE))
    with ours(server) as connection:
        with pytest.raises(smtplib.SMTPServerDisconnected):
            connection.send_messages(mails("a"))
        assert connection.send_messages(mails("b")) == 1
