"""Pipelining: the results of smtplib, in fewer round trips."""

import select
import smtplib
import threading
from collections import Counter
from itertools import product

import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from roundtrips import RoundTrips
from scripted import BODY, CLOSE, HANG, RESET, any_of, at, to

from email_hosts.backends import EmailHostsBackend, can_be_retried
from email_hosts.smtp import pipelining
from email_hosts.smtp.connection import SMTP, open_socket
from email_hosts.smtp.errors import body_was_sent
from email_hosts.smtp.pipelining import Envelope, Envelopes

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


def send(connection, *names):
    return pipelining.send(connection, Envelopes(envelopes(*names)), "server")


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
    "MAIL closing": (lambda: at("MAIL", "421 later"), "a b"),
    "MAIL garbage": (lambda: at("MAIL", "what?"), "a b"),
    "MAIL close": (lambda: at("MAIL", CLOSE), "a b"),
    "one RCPT refused": (lambda: to("b@", "550 no"), "a+b+c d"),
    "one RCPT delayed": (lambda: to("b@", "450 later"), "a+b+c d"),
    "RCPT forwarded": (lambda: to("b@", "251 forwarded"), "a+b d"),
    "RCPT unverified": (lambda: to("b@", "252 maybe"), "a+b d"),
    "all RCPT refused": (lambda: to("@", "550 no"), "a+b c"),
    "RCPT of the second refused": (lambda: to("c@", "550 no"), "a c d"),
    "RCPT closing": (lambda: to("b@", "421 later"), "a+b+c d"),
    "RCPT close": (lambda: to("b@", CLOSE), "a+b+c d"),
    "RCPT garbage": (lambda: at("RCPT", "what?\r\n250 fine"), "a b"),
    "DATA refused": (lambda: at("DATA", "451 later"), "a b"),
    "DATA closing": (lambda: at("DATA", "421 later"), "a b"),
    "DATA close": (lambda: at("DATA", CLOSE), "a b"),
    "body refused": (lambda: at(BODY, "554 spam"), "a b c"),
    "second body refused": (lambda: at(BODY, None, "554 spam"), "a b c"),
    "body delayed": (lambda: at(BODY, "451 later"), "a b"),
    "body closing": (lambda: at(BODY, "421 later"), "a b"),
    "body close": (lambda: at(BODY, CLOSE), "a b"),
    "second body close": (lambda: at(BODY, None, CLOSE), "a b c"),
    "body garbage": (lambda: at(BODY, "what?"), "a b"),
    "RSET refused": (lambda: any_of(at("MAIL", "550 no"), at("RSET", "500 no")), "a b"),
    "RSET close": (lambda: any_of(at("MAIL", "550 no"), at("RSET", CLOSE)), "a b"),
}

# Who knows what follows? Where Django goes on, the connection is closed.
UNTRUSTED = {"MAIL garbage", "RCPT garbage", "body garbage", "RSET refused"}
# Where Django gives up, the message behind it is offered again: it has been written ahead.
ENDED = {"body closing", "body close", "second body close"}


@pytest.mark.parametrize(
    ("fault", "extensions", "fail_silently"),
    [
        *product(FAULTS, [PIPELINING, STEPWISE], [False]),
        *product([each for each in FAULTS if each not in UNTRUSTED], [STEPWISE], [True]),
        *product(
            [each for each in FAULTS if each not in UNTRUSTED | ENDED], [PIPELINING], [True]
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_result_is_that_of_django(fault, extensions, fail_silently, serve):
    make_script, recipients = FAULTS[fault]
    results = []
    for make in (djangos, ours):
        server = serve(make_script(), extensions=extensions)
        backend = make(server, fail_silently=fail_silently)
        results.append((result(backend, messages(*recipients.split())), server.accepted))
        # Django 4.2 leaves the connection open after an error.
        getattr(backend.connection, "close", lambda: None)()
    assert results[1] == results[0]
    assert backend.connection is None


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
                list(pipelining.send(connection, Envelopes(iter([envelope])), "server"))
            else:
                connection.sendmail(*envelope)
        commands.append([command.upper() for command in server.commands[1:]])
    assert commands[0] == commands[1]


def test_content_is_forgotten_once_it_is_sent(serve):
    """The messages of a batch may be large: there is one at a time."""
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
        list(pipelining.send(connection, Envelopes(coming()), "server"))
    assert most == [0, 1, 1, 1, 1]
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


@pytest.mark.parametrize(("extensions", "made"), [(PIPELINING, [2]), (STEPWISE, [1])])
def test_next_message_is_made_while_the_server_is_busy(extensions, made, serve):
    """Between the write of a body and the reply to it."""
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
        list(pipelining.send(connection, Envelopes(coming()), "server"))
    body = events.index("body")
    meanwhile = events[body : events.index("waits", body)]
    assert [event for event in meanwhile if isinstance(event, int)] == made


def test_bytes_in_flight_are_bounded(serve):
    written: list[bytes] = []
    with ours(serve()) as backend:
        Watched(backend.connection, sends=written.append)
        backend.send_messages(messages("+".join(map(str, range(1000)))))
    commands = [data for data in written if data.startswith((b"MAIL", b"RCPT", b"DATA"))]
    assert max(map(len, commands)) <= pipelining.MAX_BYTES_IN_FLIGHT
    assert max(map(len, written)) == pipelining.MAX_RECORD


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
        script = any_of(at("MAIL", "550 no"), to("@", doubtful), at("DATA", "354 go ahead"))
        server = serve(script)
        with ours(server) as backend, pytest.raises(smtplib.SMTPSenderRefused):
            backend.send_messages(messages("a"))
        assert server.accepted == []

    @pytest.mark.parametrize("line", ["250 accepted", "450 later", "what?"])
    def test_line_before_the_body_is_not_taken_for_the_reply_to_it(self, line, serve):
        server = serve(at("DATA", f"354 go ahead\r\n{line}"))
        with pytest.raises(
            smtplib.SMTPServerDisconnected, match="more than the repl"
        ) as caught:
            ours(server).send_messages(messages("a"))
        assert not body_was_sent(caught.value)
        assert server.accepted == []

    def test_connection_that_is_lost_before_the_body(self, serve):
        def wait_for_the_reset(data):
            poll = select.poll()
            poll.register(backend.connection.sock.fileno(), 0)
            poll.poll(20_000)

        with ours(serve(at("CONTENT", RESET))) as backend:
            Watched(backend.connection, has_sent=wait_for_the_reset)
            with pytest.raises(
                smtplib.SMTPServerDisconnected, match="reset by peer"
            ) as caught:
                backend.send_messages(messages("a"))
        assert not body_was_sent(caught.value)

    def test_body_that_is_not_read_is_not_sent(self, serve):
        end = threading.Event()

        def script(step, argument):
            return CLOSE if step == "CONTENT" and end.wait(20) else None

        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out") as caught:
            ours(serve(script), timeout=0.3).send_messages(
                messages("a", content="x" * 20_000_000)
            )
        end.set()
        assert not body_was_sent(caught.value)

    def test_refused_body_ends_what_is_ahead(self, serve):
        server = serve(at(BODY, "554 spam"))
        with ours(server) as backend, pytest.raises(smtplib.SMTPDataError):
            backend.send_messages(messages("a", "b"))
        server.wait_for_clients_to_go()
        assert server.accepted == []
        assert "RCPT TO:<b@example.net>" in server.commands


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
        monkeypatch.setattr(pipelining, "AHEAD_TIMEOUT", 0.2)
        server = serve(at(step, None, action))
        timeout = 0.2 if action == HANG and step != "MAIL" else 20
        assert ours(server, timeout=timeout).send_messages(messages("a", "b", "c")) == 3
        names = [one.recipients for one in server.accepted]
        assert names == [("a@example.net",), ("b@example.net",), ("c@example.net",)]
        assert server.connections == 2

    @pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
    def test_that_is_swallowed_is_not_waited_for_long(self, step, serve, monkeypatch):
        monkeypatch.setattr(pipelining, "AHEAD_TIMEOUT", 0.2)
        server = serve(at(step, None, HANG))
        timeouts = []
        with SMTP("127.0.0.1", server.port, timeout=20) as connection:
            limit = open_socket(connection).gettimeout
            Watched(connection, reads=lambda: timeouts.append(limit()))
            assert [outcome.offer_again for outcome in send(connection, "a", "b")] == [
                False,
                True,
            ]
        assert timeouts[-1] == 0.2

    def test_that_is_not_taken_is_not_tried_again(self, serve):
        faulty, other = serve(at("MAIL", None, "503 wait")), serve()
        ours(faulty).send_messages(messages("a", "b"))
        assert not self.writes_ahead(faulty)
        assert self.writes_ahead(other)

    def test_that_is_not_taken_is_remembered_of_so_many_servers(self, serve, monkeypatch):
        monkeypatch.setattr(pipelining, "MAX_REMEMBERED", 1)
        servers = [serve(at("MAIL", None, "503 wait")) for _ in range(2)]
        for server in servers:
            ours(server).send_messages(messages("a", "b"))
        assert [self.writes_ahead(server) for server in servers] == [True, False]

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
        first, second = send(connection, "a", "b")
        assert first == ({}, None, False)
        assert second.offer_again
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
        outcomes = send(connection, *names)
        with pytest.raises(ValueError, match="line break"):
            list(outcomes)
    assert len(server.accepted) == position
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
        class Ringing(Envelopes):
            def prepare(self, position):
                raise error

        server = serve()
        connection = SMTP("127.0.0.1", server.port, timeout=20)
        outcomes = pipelining.send(connection, Ringing(envelopes("a", "b")), "server")
        try:
            raised = next(outcomes).error
        except OSError as caught:
            assert caught is error
        else:
            assert raised is error
        assert not can_be_retried(error)
        assert connection.sock is None


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
    server = serve(at("MAIL", CLOSE))
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
        assert pipelining._quoted(address) == smtplib.quoteaddr(address)

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
