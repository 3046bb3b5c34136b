"""Signals tell what has become of each message, and change nothing."""

from __future__ import annotations

import json
import logging
import smtplib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.test import override_settings
from django.utils.log import AdminEmailHandler
from scripted import BODY, CLOSE, always, any_of, at, to

from email_hosts.backends import (
    EmailHostsBackend,
    FailoverBackend,
    HostBackend,
    RoutingBackend,
    can_be_retried,
    connection_from_dsn,
    get_connection,
)
from email_hosts.exceptions import AllHostsFailed, EmailHostDoesNotExist, InvalidEmailHost
from email_hosts.signals import message_failed, message_sent
from email_hosts.testing import real_hosts


class Told(NamedTuple):
    """What a receiver was told: of which message, which host, and an error or ``None``."""

    subject: str | None
    alias: str | None
    error: type | None = None


class Receivers:
    """Receivers of both signals, and what they got."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.then: Callable[[], object] = lambda: None

    def receive(self, signal: Any, **told: Any) -> None:
        """Note what a signal says, and do what else the test wants."""
        self.got.append({"signal": signal, "thread": threading.current_thread(), **told})
        self.then()

    @property
    def told(self) -> list[Told]:
        """What they were told, in this order."""
        return [
            Told(
                each["message"] and each["message"].subject,
                each["alias"],
                type(each["error"]) if each["signal"] is message_failed else None,
            )
            for each in self.got
        ]

    @contextmanager
    def connected(self) -> Iterator[Receivers]:
        """Let them receive."""
        for signal in (message_sent, message_failed):
            signal.connect(self.receive)
        yield self
        for signal in (message_sent, message_failed):
            signal.disconnect(self.receive)


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    with Receivers().connected() as receivers:
        yield receivers


@pytest.fixture(params=[["PIPELINING"], []], ids=["pipelining", "stepwise"])
def extensions(request):
    return request.param


@pytest.fixture(params=[list, iter], ids=["list", "generator"])
def kind(request):
    """What the messages come in."""
    return request.param


def messages(number: int = 3, body: str = "Hello") -> list[EmailMessage]:
    """Return messages with the subjects "0", "1" and so on."""
    return [EmailMessage(str(i), body, to=[f"{i}@example.net"]) for i in range(number)]


def subjects(server: Any) -> list[str]:
    """Return the subjects of what a server has accepted."""
    return [
        line.partition(": ")[2]
        for one in server.accepted
        for line in one.content.decode().splitlines()
        if line.startswith("Subject: ")
    ]


@contextmanager
def logging_to(name: str, handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def raising(error: Any) -> Callable[..., Any]:
    """Return a function that raises this."""

    def fail(*args: Any, **options: Any) -> None:
        raise error

    return fail


@pytest.fixture
def connect_to(serve, extensions):
    """Start a server with this script; return it and a connection to it, the host ``shop``."""

    def connect_to(script: Any = None, query: str = "", **options: Any) -> Any:
        server = serve(script, extensions=extensions)
        dsn = f"smtp://127.0.0.1:{server.port}?timeout=20{query}"
        with override_settings(EMAIL_HOSTS={"shop": dsn}):
            return server, get_connection("shop", **options)

    return connect_to


@pytest.fixture
def connect(connect_to):
    return lambda *args, **options: connect_to(*args, **options)[1]


class TestHost:
    """One SMTP host."""

    @pytest.mark.parametrize(
        ("replies", "bad", "fail_silently", "errors"),
        [
            ([], None, False, [None, None, None]),
            ([None, "554 spam"], None, False, [None, smtplib.SMTPDataError]),
            ([None, "554 spam"], None, True, [None, smtplib.SMTPDataError, None]),
            ([], 1, False, [None, LookupError]),
            # The second one has been made when the first is refused. It has no turn.
            (["554 spam"], 1, False, [smtplib.SMTPDataError]),
        ],
    )
    def test_each_message_is_told_in_its_turn(
        self, replies, bad, fail_silently, errors, connect, kind, receivers
    ):
        batch = messages()
        if bad:
            batch[bad].message = raising(LookupError)
        connection, raised = connect(at(BODY, *replies), fail_silently=fail_silently), None
        try:
            connection.send_messages(kind(batch))
        except (smtplib.SMTPDataError, LookupError) as error:
            raised = error
        told = [Told(str(i), "shop", error) for i, error in enumerate(errors)]
        assert receivers.told == told
        assert raised is receivers.got[-1].get("error")
        for each, message in zip(receivers.got, batch, strict=False):
            assert each["message"] is message
            assert (each["sender"], each.get("refused", {})) == (EmailHostsBackend, {})

    def test_recipients_who_do_not_get_it_are_told(self, connect, receivers):
        message = EmailMessage("0", "", to=["a@example.net", "b@example.net"])
        connect(to("<b@example.net>", "550 no user")).send_messages([message])
        (told,) = receivers.got
        assert told["refused"] == {"b@example.net": (550, b"no user")}

    def test_login_in_a_reply_is_starred_out(self, connect, receivers):
        replies = {"AUTH": "235 welcome", "RCPT": "550 Kx7vQz9 must not send there"}
        connection = connect(lambda step, argument: replies.get(step))
        connection.username = connection.password = "Kx7vQz9"
        with pytest.raises(smtplib.SMTPException):
            connection.send_messages(messages(1))
        assert "Kx7vQz9" not in str(receivers.got[0]["error"])

    @pytest.mark.parametrize("fail_silently", [False, True])
    def test_first_message_is_told_where_the_host_cannot_be_reached(
        self, connect, kind, receivers, fail_silently
    ):
        connection = connect(fail_silently=fail_silently)
        connection.port = 1
        with nullcontext() if fail_silently else pytest.raises(ConnectionRefusedError):
            assert connection.send_messages(kind(messages())) == 0
        assert receivers.told == [Told("0", "shop", ConnectionRefusedError)]

    def test_message_is_told_where_the_host_cannot_be_reached_again(self, connect, receivers):
        """A connection that was kept breaks, and so does the new one."""
        script = any_of(at("MAIL", None, CLOSE), at("banner", None, "421 busy"))
        connection = connect(script, "&conn_max_age=60")
        connection.send_messages(messages(1))
        with pytest.raises(smtplib.SMTPConnectError):
            connection.send_messages(messages(2))
        assert receivers.told[1:] == [Told("0", "shop", smtplib.SMTPConnectError)]

    def test_error_of_the_iterable_is_nobodys(self, connect, receivers):
        def coming() -> Iterator[EmailMessage]:
            yield from messages(1)
            raise LookupError

        with pytest.raises(LookupError):
            connect().send_messages(coming())
        assert receivers.told == [Told("0", "shop")]

    def test_message_without_recipients_is_none(self, connect, kind, receivers):
        batch = messages()
        batch[0].to = batch[2].to = []
        assert connect().send_messages(kind(batch)) == 1
        assert receivers.told == [Told("1", "shop")]

    def test_replaced_open_says_nothing(self, connect, receivers):
        connection = connect(fail_silently=True)
        connection.open = lambda: None
        assert connection.send_messages(messages()) == 0
        assert receivers.told == []

    def test_dsn_from_elsewhere_has_no_key(self, serve, receivers):
        with real_hosts():
            connection = connection_from_dsn(f"smtp://127.0.0.1:{serve().port}")
        connection.send_messages(messages(1))
        assert receivers.told == [Told("0", None)]


class TestSeveralConnections:
    """``parallel``: the caller's thread calls the receivers."""

    @pytest.fixture
    def connect(self, serve):
        def connect(script: Any = None, **options: Any) -> Any:
            server = serve(script)
            hosts = {"shop": f"smtp://127.0.0.1:{server.port}?timeout=20&parallel=3"}
            with override_settings(EMAIL_HOSTS=hosts):
                return get_connection("shop", **options)

        return connect

    @pytest.mark.parametrize("number", [1, 200])
    def test_each_message_is_told_once(self, connect, number, kind, receivers):
        connection = connect(to("<0@example.net>", "550 no"), fail_silently=True)
        assert connection.send_messages(kind(messages(number))) == number - 1
        told = [Told(str(i), "shop") for i in range(1, number)]
        told += [Told("0", "shop", smtplib.SMTPRecipientsRefused)]
        assert {*receivers.told} == {*told}
        assert len(receivers.got) == number
        assert {told["thread"] for told in receivers.got} == {threading.current_thread()}

    @pytest.mark.parametrize(
        ("script", "error"),
        [
            (to("<0@example.net>", "550 no"), smtplib.SMTPRecipientsRefused),
            (always("banner", "421 busy"), smtplib.SMTPConnectError),
        ],
    )
    def test_error_is_told(self, connect, script, error, receivers):
        with pytest.raises(error) as caught:
            connect(script).send_messages(messages(30))
        told = receivers.told
        assert [each.error for each in told if each.error] == [error]
        assert {each.subject for each in told if not each.error} == {
            message.subject for message in caught.value.sent
        }

    def test_receiver_that_ends_the_process_breaks_no_message(self, connect, receivers):
        receivers.then = raising(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            connect().send_messages(messages(30))
        assert len(receivers.told) == 1


class TestList:
    """What is told of a list, in a signal, in a log or on an error, comes when it is over."""

    @pytest.mark.parametrize(
        ("kind", "query", "counts"),
        [
            (list, "", [5] * 6),
            (list, "?parallel=2", [5] * 6),
            (iter, "", [1, 1, 2, 3, 4, 5]),  # after each message
        ],
    )
    def test_is_told_at_its_end(self, kind, query, counts, serve, receivers):
        """The first message has a record in the log, too."""
        server, found = serve(to("no@", "550 no")), []
        receivers.then = lambda: found.append(len(server.accepted))
        handler = logging.Handler()
        handler.emit = lambda record: receivers.then()  # type: ignore[method-assign]
        batch = messages(5)
        batch[0].cc = ["no@example.net"]
        hosts = {"shop": f"smtp://127.0.0.1:{server.port}{query}"}
        with override_settings(EMAIL_HOSTS=hosts), logging_to("email_hosts", handler):
            get_connection("shop").send_messages(kind(batch))
        assert found == counts

    @pytest.mark.parametrize("fault", ["MAIL", "RCPT", "DATA", BODY, "bad", "banner"])
    @pytest.mark.parametrize("extensions", [["PIPELINING"], []])
    def test_error_has_what_was_sent_and_what_was_not(self, fault, extensions, serve):
        number = 0 if fault == "banner" else 2
        server = serve(at(fault, *[None] * number, "550 no"), extensions=extensions)
        batch = messages(5)
        if fault == "bad":
            batch[2].extra_headers["X"] = "a\nb"
        dsn = f"smtp://127.0.0.1:{server.port}"
        with (
            override_settings(EMAIL_HOSTS={"shop": dsn}),
            pytest.raises((OSError, ValueError)) as caught,
        ):
            get_connection("shop").send_messages(tuple(batch))
        error: Any = caught.value
        assert (error.sent, error.unsent) == (batch[:number], batch[number:])
        assert subjects(server) == ["0", "1"][:number]


class TestFailover:
    @pytest.fixture
    def hosts(self, serve, settings):
        """Let ``shop`` and ``spare`` be hosts, and ``safe`` both as one."""

        def hosts(shop: Any = None, spare: Any = None, query: str = "") -> list[Any]:
            servers = [serve(shop), serve(spare)]
            first, second = (f"smtp://127.0.0.1:{server.port}" for server in servers)
            several = f"failover:shop,spare{query}"
            settings.EMAIL_HOSTS = {"shop": first, "spare": second, "safe": several}
            return servers

        return hosts

    @pytest.mark.parametrize("query", ["", "?_default_from_email=safe@example.com"])
    @pytest.mark.parametrize(
        ("step", "error"),
        [("banner", smtplib.SMTPConnectError), ("MAIL", smtplib.SMTPSenderRefused)],
    )
    def test_host_that_failed_and_host_that_sent_are_told(
        self, hosts, step, error, query, receivers, new_message
    ):
        hosts(at(step, "451 later"), query=query)
        message = new_message(subject="0")
        get_connection("safe").send_messages([message])
        assert receivers.told == [Told("0", "shop", error), Told("0", "spare")]
        assert all(told["message"] is message for told in receivers.got)

    def test_each_host_is_told_where_all_fail(self, hosts, receivers):
        hosts(at("MAIL", "451 later"), at("banner", "451 later"))
        with pytest.raises(AllHostsFailed):
            get_connection("safe").send_messages(messages(1))
        assert receivers.told == [
            Told("0", "shop", smtplib.SMTPSenderRefused),
            Told("0", "spare", smtplib.SMTPConnectError),
        ]

    def test_host_that_does_not_exist_is_told_by_its_key(self, hosts, receivers, settings):
        hosts()
        settings.EMAIL_HOSTS["safe"] = "failover:nobody,spare"
        get_connection("safe").send_messages(messages(1))
        assert receivers.told == [
            Told("0", "nobody", EmailHostDoesNotExist),
            Told("0", "spare"),
        ]

    def test_error_that_is_final_is_told_once(self, hosts, receivers):
        hosts(at(BODY, "554 spam"))
        with pytest.raises(smtplib.SMTPDataError):
            get_connection("safe").send_messages(messages(1))
        assert receivers.told == [Told("0", "shop", smtplib.SMTPDataError)]

    @pytest.mark.parametrize("step", ["MAIL", BODY])
    def test_receiver_that_ends_the_process_brings_no_second_delivery(
        self, hosts, step, receivers
    ):
        receivers.then = raising(KeyboardInterrupt)
        servers = hosts(at(step, "451 later") if step == "MAIL" else None)
        with pytest.raises(KeyboardInterrupt) as caught:
            get_connection("safe").send_messages(messages(1))
        assert not can_be_retried(caught.value)
        assert [len(server.accepted) for server in servers] == [step == BODY, step == "MAIL"]


class TestRouter:
    @pytest.fixture
    def hosts(self, serve, settings, closed_port):
        settings.EMAIL_HOSTS = {
            "shop": f"smtp://127.0.0.1:{serve().port}",
            "down": f"smtp://127.0.0.1:{closed_port}",
        }

    def send(self, router: Callable[[Any], Any], number: int = 1) -> None:
        with real_hosts(), override_settings(EMAIL_HOSTS_ROUTER=router):
            RoutingBackend().send_messages(messages(number))

    @pytest.mark.parametrize(
        ("key", "error"), [("down", ConnectionRefusedError), ("none", EmailHostDoesNotExist)]
    )
    def test_first_message_is_told_where_a_host_cannot_be_reached(
        self, hosts, key, error, receivers
    ):
        with pytest.raises(error):
            self.send(lambda message: "shop" if message.subject == "0" else key, 3)
        assert receivers.told == [Told("0", "shop"), Told("1", key, error)]

    @pytest.mark.parametrize(("key", "alias"), [("down", "down"), (None, None)])
    def test_connection_of_the_router_is_told(self, hosts, key, alias, receivers, settings):
        def router(message: EmailMessage) -> BaseEmailBackend:
            dsn = settings.EMAIL_HOSTS["down"]
            return get_connection(key) if key else connection_from_dsn(dsn)

        with pytest.raises(ConnectionRefusedError):
            self.send(router)
        assert receivers.told == [Told("0", alias, ConnectionRefusedError)]


class Backend(BaseEmailBackend):
    """Somebody's backend, which says that it took so many, or raises an error."""

    def __init__(self, outcome: Any, opening: Exception | None = None) -> None:
        super().__init__()
        self.outcome = outcome
        self.opening = opening

    def open(self) -> None:
        assert self.opening
        raise self.opening

    def send_messages(self, email_messages: Any) -> Any:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class TestWrappedBackend:
    """A backend that is not ours says how many messages of a list it took, and not which."""

    @pytest.mark.parametrize(
        ("number", "outcome", "told"),
        [
            (3, 3, [Told("0", "own"), Told("1", "own"), Told("2", "own")]),
            (1, 1, [Told("0", "own")]),
            (3, LookupError(), [Told(None, "own", LookupError)]),
            (1, LookupError(), [Told("0", "own", LookupError)]),
            (0, 0, []),
        ],
    )
    def test_tells_what_is_known(self, number, outcome, told, receivers):
        host = HostBackend(Backend(outcome), alias="own", default_from_email="own@example.com")
        batch = messages(number)
        with pytest.raises(LookupError) if isinstance(outcome, Exception) else nullcontext():
            host.send_messages(batch)
        assert receivers.told == told
        given = [told["message"] for told in receivers.got if told["message"]]
        assert given == batch[: len(given)]

    def test_message_without_recipients_is_none(self, receivers):
        batch = messages(2)
        batch[0].to = []
        for count in (1, 2):  # some backends count it, and some do not
            HostBackend(Backend(count), alias="own").send_messages(batch)
        assert receivers.told == [Told("1", "own")] * 2

    def test_generator_whose_first_message_finds_it_closed(self, receivers):
        host = HostBackend(Backend(1, opening=LookupError()), alias="own")
        with pytest.raises(LookupError):
            host.send_messages(iter(messages(2)))
        assert receivers.told == [Told("0", "own", LookupError)]

    @pytest.mark.parametrize("is_host", [True, False])
    def test_message_that_cannot_be_redirected_is_told(self, is_host, receivers):
        backend = FailoverBackend("shop") if is_host else Backend(3)
        host = HostBackend(backend, alias="own", redirect_to="qa@example.com")
        batch: list[Any] = messages()
        batch[1].merge_data = {"1@example.net": {}}
        with pytest.raises(InvalidEmailHost, match="merge_data"):
            host.send_messages(batch)
        assert receivers.told[-1] == Told("1", "own", InvalidEmailHost)


class TestOutbox:
    """While tests run: so a test can see its receivers at work."""

    def test_each_message_is_told_with_its_host(self, receivers, mailoutbox):
        batch = messages(3)
        batch[2].extra_headers["X"] = "a\nb"
        with pytest.raises(ValueError, match=r"[Hh]eader"):
            get_connection("shop").send_messages(batch)
        assert receivers.told[:2] == [Told("0", "shop"), Told("1", "shop")]
        assert [told["message"] for told in receivers.got] == batch
        assert receivers.got[2]["alias"] == "shop"


class Broken(logging.Handler):
    """A log that raises what happens to it."""

    def emit(self, record: logging.LogRecord) -> None:
        raise LookupError


class TestReceiver:
    """It never changes what becomes of the mail."""

    fail = staticmethod(raising(RuntimeError("no such counter")))

    def test_that_raises_is_logged(self, connect, receivers, caplog, settings):
        settings.ADMINS = []  # whom Django would mail it to
        receivers.then = self.fail
        second = Receivers()
        with second.connected(), pytest.raises(smtplib.SMTPDataError) as caught:
            connect(at(BODY, None, "451 later")).send_messages(messages())
        assert can_be_retried(caught.value)
        assert second.told == receivers.told
        records = [record for record in caplog.records if record.name == "django.dispatch"]
        assert ["no such counter" in record.getMessage() for record in records] == [True] * 2

    def test_is_not_needed_for_the_log_to_fail(self, connect, receivers, caplog):
        receivers.then = self.fail
        with logging_to("django.dispatch", Broken()):
            assert connect().send_messages(messages(1)) == 1
        assert "receivers of message_sent could not be called: LookupError" in caplog.messages

    def test_whose_error_is_mailed_hears_nothing_of_that_mail(
        self, connect, receivers, settings
    ):
        """Else it would go on without end."""
        settings.EMAIL_HOSTS_ROUTER = lambda message: "shop"
        settings.ADMINS = ["admin@example.com"]
        handler = AdminEmailHandler()
        alerts: list[Any] = []
        handler.send_mail = lambda *args, **options: alerts.append(  # type: ignore[method-assign]
            get_connection("shop").send_messages(messages(1))
        )
        receivers.then = self.fail
        with logging_to("django.dispatch", handler):
            assert connect().send_messages(messages(2)) == 2
        assert alerts == [1, 1]
        assert len(receivers.told) == 2

    @pytest.mark.parametrize("is_open", [True, False])
    @pytest.mark.parametrize("fault", ["554 spam", CLOSE])
    def test_may_send_over_the_same_connection(self, connect_to, is_open, fault, receivers):
        """Another one is opened for it, whatever becomes of this one."""
        server, connection = connect_to(at(BODY, None, fault), fail_silently=True)
        if is_open:
            connection.open()
        receivers.then = lambda: connection.send_messages(messages(1, body="of the receiver"))
        assert connection.send_messages(messages()) == 2
        assert bool(connection.connection) is is_open
        connection.close()
        assert [told.subject for told in receivers.told] == ["0", "1", "2"]
        of_receiver = [b"of the receiver" in one.content for one in server.accepted]
        assert (of_receiver.count(False), of_receiver.count(True)) == (2, 3)

    def test_may_change_what_it_gets(self, receivers, mailoutbox, caplog):
        """And put it into a queue, as JSON."""
        receivers.then = lambda: json.dumps(receivers.got[-1]["refused"].setdefault("x", []))
        get_connection("shop").send_messages(messages(2))
        assert [told["refused"] for told in receivers.got] == [{"x": []}] * 2
        assert caplog.messages == []

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_that_ends_the_process_ends_what_is_left(self, connect_to, error, receivers):
        receivers.then = raising(error)
        server, connection = connect_to()
        with pytest.raises(error) as caught:
            connection.send_messages(iter(messages()))
        assert not can_be_retried(caught.value)
        assert receivers.told == [Told("0", "shop")]
        assert subjects(server) == ["0"]
        assert connection.connection is None

    def test_that_ends_the_process_hears_of_the_next_send(self, connect, receivers):
        receivers.then = raising(KeyboardInterrupt)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                connect().send_messages(messages(1))
        assert receivers.told == [Told("0", "shop")] * 2

    @pytest.mark.parametrize("then", [lambda: None, raising(KeyboardInterrupt)])
    def test_gets_an_error_without_a_traceback(self, connect, then, receivers, closed_port):
        """It would show what frames hold that are still at work. Afterwards it is back."""
        tracebacks: list[Any] = []

        def look() -> None:
            tracebacks.append(receivers.got[-1]["error"].__traceback__)
            then()

        receivers.then = look
        connection = connect()
        connection.port = closed_port
        with pytest.raises((ConnectionRefusedError, KeyboardInterrupt)):
            connection.send_messages(messages())
        assert tracebacks == [None]
        assert receivers.got[0]["error"].__traceback__ is not None
