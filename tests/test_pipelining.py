"""Pipelining: the results of smtplib, in fewer round trips."""

import select
import smtplib
import socket
import threading
from collections import Counter

import pytest
from django.core.mail import EmailMessage
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

either_way = pytest.mark.parametrize(
    "extensions", [PIPELINING, STEPWISE], ids=["pipelining", "stepwise"]
)


def messages(*recipients, content="Hello"):
    """Make a message to each of these; ``a+b`` stands for one to both."""
    headers = {"Date": "now", "Message-ID": "<1@example.com>"}
    addresses = [
        [f"{name}@example.net" for name in names.split("+") if name] for names in recipients
    ]
    return [
        EmailMessage("Subject", content, "sender@example.com", to, headers=headers)
        for to in addresses
    ]


def envelopes(*names):
    return (Envelope("s@example.com", [f"{name}@"], b"Hello\r\n") for name in names)


def transmission(coming, *, look_ahead=True):
    return Transmission(coming, "server", look_ahead=look_ahead)


def send(connection, *names):
    return transmission(envelopes(*names)).over(connection)


def ours(server, **options):
    return EmailHostsBackend("127.0.0.1", server.port, **{"timeout": 20, **options})


def djangos(server, **options):
    # Without an alias, Django 6.1 warns.
    return EmailBackend(
        **{"host": "127.0.0.1", "port": server.port, "timeout": 20, "alias": "x", **options}
    )


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
        self.sock, self.sends, self.has_sent, self.reads = (
            connection.sock,
            sends,
            has_sent,
            reads,
        )
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
    "EHLO and HELO refused": (
        lambda: any_of(at("EHLO", "502 no"), at("HELO", "502 no")),
        "a b",
    ),
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
        yield result(backend, messages(*recipients.split())), server.accepted
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
        backend.send_messages(messages(recipients.split()[0]))
        assert backend.connection is None
    assert server.accepted == []


@pytest.mark.parametrize(
    "content", ["", ".", ".\n..\n.a\n\n.", "a" * 2000, "é\n.é", "x\r\n.\r\ny"]
)
def test_content_is_that_of_django_byte_by_byte(content, serve):
    servers = [serve(), serve()]
    for make, server in zip((djangos, ours), servers, strict=True):
        make(server).send_messages(messages("a", "b", content=content))
    assert servers[1].accepted == servers[0].accepted
    assert len(servers[0].accepted) == 2


@pytest.mark.parametrize(
    "address",
    [
        *["a@x.net", "a.b+c_d-e@mail.x.net", "o'brien@x.net", '"a b"@x.net', "a@[127.0.0.1]"],
        *["a", "a..b@x.net", "a@b@c", "Name <a@x.net>", "a@x.net (comment)", "a@x.net\\"],
    ],
)
def test_address_is_written_as_smtplib_does(address, serve):
    envelope = Envelope(address, [address], b"Hello\r\n")
    commands = []
    for kind in (smtplib.SMTP, SMTP):
        server = serve()
        with kind("127.0.0.1", server.port, timeout=20) as connection:
            if kind is SMTP:
                list(transmission(iter([envelope])).over(connection))
            else:
                connection.sendmail(*envelope[:3])
        commands.append([command.upper() for command in server.commands[1:]])
    assert commands[0] == commands[1]


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

    with SMTP("127.0.0.1", serve().port, timeout=20) as connection:
        list(transmission(coming()).over(connection))
    assert max(most) == 1
    assert alive == []


class TestRoundTrips:
    """Counted at the client."""

    def trips(self, server, batch):
        """Return how many this batch takes, over a connection that has been used."""
        with ours(server) as connection:
            connection.send_messages(messages("first"))
            with RoundTrips() as trips:
                assert connection.send_messages(batch) == len(batch)
        return trips.count

    @pytest.mark.parametrize(
        ("extensions", "recipients", "expected"),
        [(PIPELINING, 1, 2), (PIPELINING, 20, 2), (STEPWISE, 1, 4), (STEPWISE, 20, 23)],
    )
    def test_of_a_message(self, extensions, recipients, expected, serve):
        batch = messages("+".join(map(str, range(recipients))))
        assert self.trips(serve(extensions=extensions), batch) == expected

    def test_of_a_batch(self, serve):
        assert self.trips(serve(), messages(*map(str, range(25)))) == 26

    def test_of_a_thousand_recipients_stay_few(self, serve):
        server = serve()
        assert self.trips(server, messages("+".join(map(str, range(1000))))) < 25
        assert len(server.accepted[1].recipients) == 1000


@pytest.mark.parametrize(("extensions", "made"), [(PIPELINING, [1, 2]), (STEPWISE, [1])])
def test_next_message_is_made_while_the_server_is_busy(extensions, made, serve):
    """Between the write of a body and the reply to it. With PIPELINING, one is in reserve."""
    events: list[object] = []

    def coming():
        for number, envelope in enumerate(envelopes(*"abcd")):
            events.append(number)
            yield envelope

    with SMTP("127.0.0.1", serve(extensions=extensions).port, timeout=20) as connection:
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
        backend.send_messages(messages("+".join(map(str, range(1000)))))
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
        ours(server).send_messages(messages("a+a"))
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
                connection.send_messages(messages("a"))
            assert connection.send_messages(messages("b")) == 1
        assert server.connections == 1
        assert [one.recipients for one in server.accepted] == [(), ("b@example.net",)]

    @pytest.mark.parametrize("doubtful", ["250 yes", "252 maybe", "354 go ahead"])
    def test_go_ahead_for_somebody_perhaps_ends_the_connection(self, doubtful, serve):
        script = any_of(
            always("MAIL", "550 no"), to("@", doubtful), always("DATA", "354 go ahead")
        )
        server = serve(script)
        with ours(server) as backend, pytest.raises(smtplib.SMTPSenderRefused):
            backend.send_messages(messages("a"))
        assert server.accepted == []

    @pytest.mark.parametrize("line", ["250 accepted", "450 later", "what?"])
    def test_line_before_the_body_is_not_taken_for_the_reply_to_it(self, line, serve):
        server = serve(always("DATA", f"354 go ahead\r\n{line}"))
        with pytest.raises(
            smtplib.SMTPServerDisconnected, match="more than the repl"
        ) as caught:
            ours(server).send_messages(messages("a"))
        assert delivery_of(caught.value) == NOT_SENT
        assert server.accepted == []

    def test_connection_that_is_lost_before_the_body(self, serve):
        def wait_for_the_reset(data):
            if data == b"DATA\r\n":
                poll = select.poll()
                poll.register(open_socket(connection).fileno(), 0)
                poll.poll(20_000)

        server = serve(at("CONTENT", RESET), extensions=STEPWISE)
        with SMTP("127.0.0.1", server.port, timeout=20) as connection:
            Watched(connection, has_sent=wait_for_the_reset)
            (result,) = send(connection, "a")
        assert "ended the connection" in str(result.error)
        assert delivery_of(result.error) == NOT_SENT

    def test_body_that_is_not_read_is_not_sent(self, serve):
        end = threading.Event()

        def script(step, argument):
            return CLOSE if step == "CONTENT" and end.wait(20) else None

        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out") as caught:
            ours(serve(script), timeout=0.3).send_messages(
                messages("a", content="x" * 20_000_000)
            )
        end.set()
        assert delivery_of(caught.value) == NOT_SENT

    def test_refused_body_ends_what_is_ahead(self, serve):
        server = serve(at(BODY, "554 spam"))
        with ours(server) as backend, pytest.raises(smtplib.SMTPDataError):
            backend.send_messages(messages("a", "b"))
        server.wait_for_clients_to_go()
        assert server.accepted == []
        assert "RCPT TO:<b@example.net>" in server.commands


class TestRefusalBeforeTheEnd:
    """What a server has said counts, although it then ends the connection."""

    TWENTY = "+".join(f"x{number}" for number in range(20))

    @pytest.mark.parametrize("end", ["421 bye", "421 bye" + AND_CLOSE, CLOSE, RESET])
    @either_way
    def test_of_some_is_kept_while_the_others_are_offered_again(self, end, extensions, serve):
        """Where the session was parked, at any pace."""
        ends = iter([end])
        script = any_of(
            to("<x", "550 no"),
            lambda step, argument: next(ends, None) if "z@" in argument else None,
        )
        server = serve(script, extensions=extensions)
        with ours(server, conn_max_age=60) as backend:
            backend.send_messages(messages("first"))
        backend = ours(server, conn_max_age=60)
        assert backend.send_messages(messages(f"{self.TWENTY}+z+b")) == 1
        assert len(backend.refused_recipients) == 20
        assert server.accepted[1].recipients == ("z@example.net", "b@example.net")
        assert sum("<x0@" in command for command in server.commands) == 1
        assert server.connections == 2

    @pytest.mark.parametrize("end", ["421 bye" + AND_CLOSE, CLOSE, RESET])
    def test_of_all_is_the_error(self, end, serve):
        server = serve(any_of(to("<x", "550 no"), at("DATA", end)))
        with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
            ours(server).send_messages(messages(self.TWENTY))
        assert len(caught.value.recipients) == 20
        assert not can_be_retried(caught.value)
        assert server.connections == 1

    @pytest.mark.parametrize("fail_silently", [False, True])
    def test_of_some_is_told_although_the_rest_is_lost(self, fail_silently, serve):
        server = serve(any_of(to("<x", "550 no"), to("z@", CLOSE)))
        backend = ours(server, fail_silently=fail_silently)
        if fail_silently:
            assert backend.send_messages(messages(f"{self.TWENTY}+z", "b")) == 1
        else:
            with pytest.raises(smtplib.SMTPServerDisconnected) as caught:
                backend.send_messages(messages(f"{self.TWENTY}+z", "b"))
            assert can_be_retried(caught.value)
        assert len(backend.refused_recipients) == 20
        assert server.connections == 2 + fail_silently

    @either_way
    @pytest.mark.parametrize("reply", ["552 too large", "451 later"])
    def test_of_a_body_is_read_when_writing_it_fails(self, reply, extensions, serve):
        server = serve(at("CONTENT", reply + AND_CLOSE), extensions=extensions)
        with pytest.raises(smtplib.SMTPDataError) as caught:
            ours(server).send_messages(messages("a", content="x" * 20_000_000))
        assert str(caught.value.smtp_code) == reply[:3]
        assert can_be_retried(caught.value) is (reply[0] == "4")
        assert server.connections == 1

    def test_of_a_list_is_for_one_message_alone(self, serve):
        server = serve(at("CONTENT", "552 too large" + AND_CLOSE))
        batch = messages("a", "b", content="x" * 20_000_000)[:1] + messages("b", "c")
        assert ours(server, fail_silently=True).send_messages(batch) == 2

    def test_of_commands_is_read_when_writing_them_fails(self, serve):
        server = serve(to("<x", "550 no"))

        def break_when_all_is_there(data):
            wait_for_bytes(backend.connection, b"550 no")
            raise BrokenPipeError

        with ours(server) as backend:
            Watched(backend.connection, has_sent=break_when_all_is_there)
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                backend.send_messages(messages("x"))
        assert server.connections == 1

    def test_goodbye_is_no_reply_to_a_body_that_may_be_complete(self, serve):
        """250 is not read, either: it would be that of a message which is not complete."""
        server = serve()

        def break_at_the_end(data):
            if data.endswith(END):
                wait_for_bytes(connection, b"250")
                raise BrokenPipeError

        with SMTP("127.0.0.1", server.port, timeout=20) as connection:
            Watched(connection, has_sent=break_at_the_end)
            (result,) = send(connection, "a")
        assert isinstance(result.error, smtplib.SMTPServerDisconnected)
        assert delivery_of(result.error) == PERHAPS


def wait_for_bytes(connection, expected):
    """Wait until the server has sent this, without taking it."""
    assert expected in open_socket(connection).recv(65536, socket.MSG_PEEK)


class TestPace:
    """How fast a server takes commands is found out, and remembered."""

    def test_that_works_is_not_doubted_for_a_lost_connection(self, serve):
        server = serve(at("MAIL", None, CLOSE))
        for names in (["a"], ["b"], ["c"]):
            assert ours(server).send_messages(messages(*names)) == 1
        assert server.connections == 4
        with ours(server) as connection:
            connection.open()
            connection.connection.ehlo()
            with RoundTrips() as trips:
                connection.send_messages(messages("d"))
        assert trips.count == 2

    def test_that_works_is_not_doubted_for_silence(self, serve):
        server = serve(at("RCPT", None, HANG))
        ours(server).send_messages(messages("a"))
        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out") as caught:
            ours(server, timeout=0.2).send_messages(messages("b"))
        assert can_be_retried(caught.value)
        assert server.connections == 2

    def test_that_has_worked_is_waited_for_as_long_as_any(self, serve):
        timeouts = []
        with SMTP("127.0.0.1", serve().port, timeout=33) as connection:
            list(send(connection, "a"))
            limit = open_socket(connection).gettimeout
            Watched(connection, reads=lambda: timeouts.append(limit()))
            list(send(connection, "b"))
        assert set(timeouts) - {0} == {33}  # 0: a look at what is there

    @pytest.mark.parametrize("timeout", [None, 33])
    def test_that_is_new_is_waited_for_a_shorter_time(self, timeout, serve):
        timeouts = []
        with SMTP("127.0.0.1", serve().port, timeout=20) as connection:
            connection.ehlo()
            open_socket(connection).settimeout(timeout)
            limit = open_socket(connection).gettimeout
            Watched(connection, reads=lambda: timeouts.append(limit()))
            list(send(connection, "a"))
            assert limit() == timeout
        assert timeouts[0] == PATIENCE[Pace.GROUPED]
        assert timeouts[-1] == timeout

    @pytest.mark.parametrize("code", [500, 501, 502, 503, 504, 553, 555])
    @pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
    def test_is_not_to_blame_if_the_slowest_gets_the_same(self, code, step, serve):
        """The error is the server's, and the next message is sent as fast as before."""
        server = serve(lambda name, argument: f"{code} no" if name == step else None)
        with pytest.raises(smtplib.SMTPException):
            ours(server).send_messages(messages("a"))
        assert server.connections == 2
        assert pace_of(f"127.0.0.1:{server.port}").fastest is Pace.AHEAD

    @pytest.mark.parametrize(
        ("text", "connections"),
        [("550 5.1.1 unknown", 1), ("550 5.5.1 wrong order", 2), ("521 No pipelining", 2)],
    )
    def test_that_is_new_is_doubted_for_what_a_refusal_says(self, text, connections, serve):
        server = serve(always("RCPT", text))
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            ours(server).send_messages(messages("a"))
        assert server.connections == connections

    def test_that_is_new_is_doubted_for_an_answer_to_something_else(self, serve):
        server = serve(at("DATA", "250 ok"))
        assert ours(server).send_messages(messages("a")) == 1
        assert server.connections == 2

    def test_that_has_worked_is_doubted_if_the_refusal_says_so(self, serve):
        """A server may look only now and then, as Exim does."""
        server = serve(at("MAIL", None, "554 SMTP synchronization error" + AND_CLOSE))
        for name in "ab":
            assert ours(server).send_messages(messages(name)) == 1
        assert server.connections == 3
        assert pace_of(f"127.0.0.1:{server.port}").fastest is Pace.SINGLE

    def test_that_has_worked_is_not_doubted_for_a_recipient(self, serve):
        server = serve(to("b@", "501 5.1.3 bad address"))
        ours(server).send_messages(messages("a"))
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            ours(server).send_messages(messages("b"))
        assert server.connections == 2

    def test_goodbye_to_what_is_written_ahead_costs_a_connection(self, serve):
        """Some servers take so many messages in a session, and no more."""
        server = serve(at("MAIL", None, None, None, "421 too many" + AND_CLOSE))
        assert ours(server).send_messages(messages(*"abcdef")) == 6
        assert server.connections == 2
        assert pace_of(f"127.0.0.1:{server.port}").fastest is Pace.AHEAD

    @pytest.mark.parametrize("action", [CLOSE, "503 wait", HANG])
    def test_costs_two_connections_at_most(self, action, serve):
        server = serve(always("MAIL", action))
        batch = messages("a")
        with pytest.raises(smtplib.SMTPException):
            ours(server, timeout=0.1).send_messages(batch)
        assert server.connections == 2

    def test_of_a_list_costs_two_connections_at_most(self, serve):
        """Ahead, in a group, and one by one."""
        server = serve(at("MAIL", None, "503 wait", "503 wait"))
        assert ours(server).send_messages(messages(*"abcd")) == 4
        assert server.connections == 3

    def test_is_that_of_each_server(self, serve):
        bad, good = serve(at("MAIL", "503 wait")), serve()
        for server in (bad, good):
            ours(server).send_messages(messages("a"))
        assert pace_of(f"127.0.0.1:{bad.port}").fastest is Pace.SINGLE
        assert pace_of(f"127.0.0.1:{good.port}").fastest is Pace.AHEAD

    def test_body_that_ends_the_session_before_the_next_is_offered_in_a_group(self, serve):
        """What was written behind the body may be why it ended."""
        server = serve(at(BODY, None, CLOSE))
        backend = ours(server, fail_silently=True)
        assert backend.send_messages(messages(*"abc")) == 2
        # The first envelope behind a body had worked.
        assert pace_of(f"127.0.0.1:{server.port}").fastest is Pace.AHEAD
        other = serve(at(BODY, CLOSE))
        ours(other, fail_silently=True).send_messages(messages(*"abc"))
        assert pace_of(f"127.0.0.1:{other.port}").fastest is Pace.GROUPED


class TestTransmission:
    """Envelopes are asked for in time, and each has one result."""

    def test_asks_for_nothing_early_unless_it_may(self, serve):
        asked = []

        def coming():
            for envelope in envelopes(*"abc"):
                asked.append(envelope)
                yield envelope

        with SMTP("127.0.0.1", serve().port, timeout=20) as connection:
            sending = transmission(coming(), look_ahead=False)
            counts = [len(asked) for _ in sending.over(connection)]
        assert counts == [1, 2, 3]
        assert sending.is_over
        assert sending.current is None

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
        assert [result.error for result in results] == [None, error, None]
        assert results[1].envelope.message == "mine"
        assert [one.recipients for one in server.accepted] == [("a@",), ("c@",)]
        assert not any("b@" in command for command in server.commands)

    @pytest.mark.parametrize("kind", [smtplib.SMTP, SMTP])
    def test_is_over_where_there_is_nothing(self, kind, serve):
        with kind("127.0.0.1", serve().port, timeout=20) as connection:
            sending = transmission(iter(()))
            assert list(sending.over(connection)) == []
        assert sending.is_over

    def test_error_of_the_iterator_is_raised_in_its_turn(self, serve):
        def coming():
            yield from envelopes("a")
            raise LookupError

        with SMTP("127.0.0.1", serve().port, timeout=20) as connection:
            results = transmission(coming()).over(connection)
            assert next(results).error is None
            with pytest.raises(LookupError):
                next(results)
            assert connection.noop()[0] == 250

    def test_connection_that_is_closed_after_the_last_leaves_nothing(self, serve):
        server = serve(at(BODY, "421 bye"))
        with SMTP("127.0.0.1", server.port, timeout=20) as connection:
            sending = transmission(envelopes("a"))
            (result,) = sending.over(connection)
        assert result.error.smtp_code == 421
        assert sending.is_over

    @pytest.mark.parametrize("error", [KeyboardInterrupt, LookupError])
    def test_interruption_ends_the_connection(self, error, serve):
        def interrupt():
            raise error

        with SMTP("127.0.0.1", serve().port, timeout=20) as connection:
            connection.ehlo()
            Watched(connection, reads=interrupt)
            sending = transmission(envelopes("a"))
            with pytest.raises(error):
                next(sending.over(connection))
            assert sending.current.recipients == ["a@"]
            assert connection.sock is None

    def test_caller_that_stops_leaves_no_command_without_a_reply(self, serve):
        with SMTP("127.0.0.1", serve().port, timeout=20) as connection:
            results = send(connection, *"abc")
            next(results)
            results.close()
            assert connection.sock is None

    @pytest.mark.parametrize("error", [TimeoutError("rings"), KeyError("rings")])
    def test_ring_while_the_envelope_is_made_into_commands(self, error, serve, monkeypatch):
        """Nothing has been written."""

        def ring(address):
            raise error

        monkeypatch.setattr(transaction, "quoted", ring)
        with SMTP("127.0.0.1", serve().port, timeout=20) as connection:
            with pytest.raises(type(error), match="rings") as caught:
                list(send(connection, "a"))
            assert can_be_retried(caught.value) is isinstance(error, OSError)
            assert connection.sock is None


@pytest.mark.parametrize("fail_silently", [True, False])
def test_address_that_cannot_be_written_is_raised_as_by_django(
    fail_silently, serve, monkeypatch
):
    """Only errors of mail are ignored."""

    def refuse(address):
        raise ValueError("no such address")

    monkeypatch.setattr(transaction, "quoted", refuse)
    with pytest.raises(ValueError, match="no such address"):
        ours(serve(), fail_silently=fail_silently).send_messages(messages("a"))


class TestDebugLevel:
    """``set_debuglevel`` shows the commands of a message, as smtplib does."""

    @either_way
    @pytest.mark.parametrize("is_global", [True, False])
    def test_shows_all_that_is_said(self, extensions, is_global, serve, capsys, monkeypatch):
        server = serve(extensions=extensions)
        if is_global:
            monkeypatch.setattr(smtplib.SMTP, "debuglevel", 1)
        with ours(server) as backend:
            if not is_global:
                backend.connection.set_debuglevel(1)
            backend.send_messages(messages("a", "b"))
        shown = capsys.readouterr().err
        for said in ("MAIL FROM:", "RCPT TO:<a@", "RCPT TO:<b@", "DATA", "Hello", "354 go"):
            assert said in shown
        assert "send: b''" not in shown

    def test_is_off_by_default(self, serve, capsys):
        ours(serve()).send_messages(messages("a"))
        assert capsys.readouterr().err == ""


class TestWritingAhead:
    """The next envelope travels behind a body. No message is lost where that is not taken."""

    def writes_ahead(self, server):
        """Whether it does, to this server: three messages take four round trips, or six."""
        with ours(server) as connection:
            connection.send_messages(messages("first"))
            with RoundTrips() as trips:
                connection.send_messages(messages("1", "2", "3"))
        assert trips.count in (4, 6)
        return trips.count == 4

    def test_is_a_write_of_its_own(self, serve):
        """And so a TLS record: a server may stop reading at the end of the body."""
        written: list[bytes] = []
        with SMTP("127.0.0.1", serve().port, timeout=20) as connection:
            Watched(connection, sends=written.append)
            list(send(connection, "a", "b"))
        assert [data[:4] for data in written] == [b"MAIL", b"Hell", b"MAIL", b"Hell"]

    @pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
    @pytest.mark.parametrize(
        "action", ["503 wait", "500 what?", "421 bye", CLOSE, RESET, HANG]
    )
    def test_that_is_not_taken_costs_no_message(self, step, action, serve, monkeypatch):
        monkeypatch.setitem(PATIENCE, Pace.AHEAD, 0.2)
        server = serve(at(step, None, action))
        timeout = 0.2 if action == HANG and step != "MAIL" else 20
        assert ours(server, timeout=timeout).send_messages(messages("a", "b", "c")) == 3
        names = [one.recipients for one in server.accepted]
        assert names == [("a@example.net",), ("b@example.net",), ("c@example.net",)]
        assert server.connections == 2

    @pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
    def test_that_is_swallowed_is_not_waited_for_long(self, step, serve, monkeypatch):
        monkeypatch.setitem(PATIENCE, Pace.AHEAD, 0.2)
        server = serve(at(step, None, HANG))
        timeouts = []
        with SMTP("127.0.0.1", server.port, timeout=20) as connection:
            limit = open_socket(connection).gettimeout
            Watched(connection, reads=lambda: timeouts.append(limit()))
            sending = transmission(envelopes("a", "b"))
            assert [result.error for result in sending.over(connection)] == [None]
        assert timeouts[-1] == 0.2
        assert not sending.is_over

    def test_that_is_not_taken_is_not_tried_again(self, serve):
        faulty, other = serve(at("MAIL", None, "503 wait")), serve()
        ours(faulty).send_messages(messages("a", "b"))
        assert not self.writes_ahead(faulty)
        assert self.writes_ahead(other)

    def test_that_is_not_taken_is_remembered_of_a_thousand_servers(self, serve):
        servers = [serve(at("MAIL", None, "503 wait")) for _ in range(2)]
        for server in servers:
            ours(server).send_messages(messages("a", "b"))
        for number in range(999):
            pace_of(f"{number}.example.com:25")
        assert [self.writes_ahead(server) for server in reversed(servers)] == [False, True]

    def test_that_is_refused_is_an_answer(self, serve):
        server = serve(at("MAIL", None, "550 no"))
        with ours(server) as connection:
            with pytest.raises(smtplib.SMTPSenderRefused):
                connection.send_messages(messages("a", "b"))
            assert connection.connection.sock.gettimeout() == 20
        assert server.connections == 1
        assert self.writes_ahead(server)

    @pytest.mark.parametrize("action", [CLOSE, "421 bye", "what?"])
    def test_behind_a_body_that_ends_the_connection_is_offered_again(self, action, serve):
        server = serve(at(BODY, action))
        assert ours(server, fail_silently=True).send_messages(messages("a", "b", "c")) == 2
        names = [one.recipients for one in server.accepted]
        assert names == [("b@example.net",), ("c@example.net",)]

    def test_that_breaks_does_not_hide_the_reply_to_the_body(self, serve):
        server = serve()
        connection = SMTP("127.0.0.1", server.port, timeout=0.5)

        written = []

        def break_at_the_second_group(data):
            written.append(data[:4])
            if written.count(b"MAIL") > 1:
                raise BrokenPipeError

        Watched(connection, sends=break_at_the_second_group)
        sending = transmission(envelopes("a", "b"))
        (first,) = sending.over(connection)
        assert first[1:] == ({}, None)
        assert sending.current.recipients == ["b@"]
        assert len(server.accepted) == 1

    def test_to_a_server_that_has_gone_meanwhile_is_an_error(self, serve):
        server = serve(any_of(at("MAIL", None, "503 wait"), at("banner", None, "554 gone")))
        with pytest.raises(smtplib.SMTPConnectError) as caught:
            ours(server).send_messages(messages("a", "b"))
        assert can_be_retried(caught.value)
        assert len(server.accepted) == 1


@pytest.mark.parametrize("line_break", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("position", [0, 1])
def test_line_break_in_an_address_is_an_error_in_its_turn(position, line_break, serve):
    """Django lets none through, and yet it must not become a command."""
    server = serve()
    names = ["a"]
    names.insert(position, f"{line_break}RSET{line_break}")
    with SMTP("127.0.0.1", server.port, timeout=5) as connection:
        errors = [result.error for result in send(connection, *names)]
    assert isinstance(errors.pop(position), ValueError)
    assert errors == [None]
    assert len(server.accepted) == 1
    assert not any("RSET" in command for command in server.commands)


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
        ours(server, conn_max_age=60).send_messages(messages("first"))

        def ring(data):
            if is_due(data):
                raise error

        with ours(server, conn_max_age=60) as backend:
            Watched(backend.connection, has_sent=ring)
            return backend.send_messages(messages("a"))

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

    def test_after_the_body_leaves_it_open_too(self, error, serve):
        written: list[bytes] = []

        def ring():
            if written and written[-1].endswith(END):
                raise error

        with SMTP("127.0.0.1", serve().port, timeout=20) as connection:
            Watched(connection, sends=written.append, reads=ring)
            result = next(send(connection, "a"))
            assert "rings" in str(result.error)
            assert not can_be_retried(result.error)
            assert connection.sock is None

    def test_while_the_next_message_is_made_is_for_that(self, error, serve):
        def coming():
            yield from envelopes("a")
            raise error

        with SMTP("127.0.0.1", serve().port, timeout=20) as connection:
            results = transmission(coming()).over(connection)
            assert next(results).error is None
            with pytest.raises(OSError, match="rings") as caught:
                next(results)
        assert caught.value is error


def test_connection_in_step_is_used_again(serve):
    server = serve(any_of(at("MAIL", "550 no"), to("x@", "550 no")))
    with ours(server) as connection:
        for recipients in ("a", "x", "b+x", "c"):
            result(connection, messages(recipients))
    assert server.connections == 1
    assert [one.recipients for one in server.accepted] == [
        ("b@example.net",),
        ("c@example.net",),
    ]


def test_lost_connection_is_opened_again_by_the_next_send(serve):
    server = serve(at("MAIL", CLOSE, CLOSE))
    with ours(server) as connection:
        with pytest.raises(smtplib.SMTPServerDisconnected):
            connection.send_messages(messages("a"))
        assert connection.send_messages(messages("b")) == 1


class TestQuotedAddress:
    """A plain address needs no parser, and any other is quoted as smtplib does."""

    @pytest.mark.parametrize(
        "address",
        [
            *("a@b.example", "first.last+tag@sub-domain.example.com", "a_b-c@127", "A@B"),
            *("", "<>", "a", "a@", "@b", "a@b@c", "a..b@c", ".a@c", "a.@c", "a@b..c", "a@.b"),
            *(
                "<a@b>",
                "Name <a@b.example>",
                '"a b"@c.example',
                "a b@c.example",
                "a@[127.0.0.1]",
            ),
            *("a@b.example\n", "a@b.example\r\nRCPT TO:<c@d>", "ü@b.example", "a@ü.example"),
            *("a@b.example ", " a@b.example", "a(c)@b.example", "a@b.example(c)", "a,b@c"),
        ],
    )
    def test_is_smtplibs(self, address):
        assert transaction.quoted(address) == smtplib.quoteaddr(address)

    def test_plain_one_is_not_parsed(self, monkeypatch, serve):
        calls: Counter[str] = Counter()

        def counted(address):
            calls[address] += 1
            return f"<{address}>"

        monkeypatch.setattr(smtplib, "quoteaddr", counted)
        batch = [
            EmailMessage("Subject", "Hello", sender, ["someone@example.net"])
            for sender in ("s@example.com", "'quoted'@example.com")
        ]
        ours(serve()).send_messages(batch)
        assert calls == {"'quoted'@example.com": 1}
