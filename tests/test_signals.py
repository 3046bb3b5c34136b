"""Signals tell what has become of each message, and change nothing."""

import json
import smtplib
from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest
from conftest import Recorder, SoftTimeLimitExceeded, either_way, logging_to, mails
from django.core.mail import EmailMessage
from scripted import BODY, CLOSE, any_of, at, to

from email_hosts.backends import EmailHostsBackend, can_be_retried, get_connection
from email_hosts.signals import message_failed, message_sent


class Receivers:
    """Receivers of both signals, and what they got."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.then: Any = lambda: None

    def receive(self, signal: Any, **told: Any) -> None:
        """Note what a signal says, and do what else the test wants."""
        assert ("error" in told) == (signal is message_failed)
        self.got.append(told)
        self.then()

    @property
    def told(self) -> str:
        """Message, host, and perhaps error that they were told of, in turn."""
        return ", ".join(
            f"{told['message'] and told['message'].subject} {told['alias']}"
            + (f" {type(told['error']).__name__}" if "error" in told else "")
            for told in self.got
        )


@pytest.fixture
def receivers():
    receivers = Receivers()
    for signal in (message_sent, message_failed):
        signal.connect(receivers.receive)
    yield receivers
    for signal in (message_sent, message_failed):
        signal.disconnect(receivers.receive)


@pytest.fixture
def start(serve, settings, closed_port):
    """Start the servers of ``shop`` and of a spare host. Others are down, or made of these."""

    def start(script: Any = None, extensions: Any = ("PIPELINING",)) -> list[Any]:
        servers = [serve(script, extensions=extensions), serve()]
        shop, spare = (f"smtp://127.0.0.1:{server.port}?timeout=20" for server in servers)
        settings.EMAIL_HOSTS = {
            "shop": shop,
            "many": f"{shop}&parallel=3",
            "spare": spare,
            "down": f"smtp://127.0.0.1:{closed_port}",
            "safe": "failover:shop,spare",
            "odd": "failover:nobody,spare",
            "hopeless": "failover:shop,down",
            "router": "backend://email_hosts.backends.RoutingBackend",
            "own": "backend://conftest.Recorder",
        }
        return servers

    return start


LOUD: dict[str, Any] = {}
SILENT = {"fail_silently": True}
SPAM = (BODY, None, "554 spam")
REFUSED, UNREACHABLE = "0 shop SMTPSenderRefused", "0 down ConnectionRefusedError"
ALL_UNREACHABLE = ", ".join(UNREACHABLE.replace("0", number) for number in "012")
SPARE = "0 spare, 1 spare, 2 spare"


class TestSignals:
    @pytest.mark.parametrize(
        ("options", "key", "fault", "told"),
        [
            (LOUD, "shop", (BODY,), "0 shop, 1 shop, 2 shop"),
            (LOUD, "shop", SPAM, "0 shop, 1 shop SMTPDataError"),
            (SILENT, "shop", SPAM, "0 shop, 1 shop SMTPDataError, 2 shop"),
            (LOUD, "down", (BODY,), UNREACHABLE),
            ({"parallel": 2}, "down", (BODY,), UNREACHABLE),
            ({"parallel": 2, **SILENT}, "down", (BODY,), ALL_UNREACHABLE),
            # Each host that fails is told.
            (LOUD, "safe", ("banner", "421 busy"), f"0 shop SMTPConnectError, {SPARE}"),
            (LOUD, "odd", (BODY,), f"0 nobody EmailHostDoesNotExist, {SPARE}"),
            (LOUD, "hopeless", ("MAIL", "451 later"), f"{REFUSED}, {UNREACHABLE}"),
            # An error that is final is told once.
            (LOUD, "safe", SPAM, "0 shop, 1 shop SMTPDataError"),
        ],
    )
    @pytest.mark.parametrize("kind", [list, iter])
    @either_way
    def test_tell_of_each_message_in_its_turn(
        self, extensions, options, key, fault, told, kind, start, receivers
    ):
        """The error of a list has the same messages."""
        start(at(*fault), extensions)
        batch = mails(*"012")
        error: Any = None
        try:
            get_connection(key, **options).send_messages(kind(batch))
        except (OSError, LookupError) as raised:
            error = raised
        assert receivers.told == told
        for each in receivers.got:
            assert each["message"] is batch[int(each["message"].subject)]
        if error and kind is list:
            number = len([each for each in receivers.got if "error" not in each])
            assert (error.sent, error.unsent) == (batch[:number], batch[number:])

    @pytest.mark.parametrize(
        ("key", "options", "told"),
        [
            ("down", {}, "0 down, 2 down, 3 down"),
            ("down", {"parallel": 2}, "0 down, 2 down, 3 down"),
            ("down", {"rate": "100/s"}, "0 down, 2 down, 3 down"),
            ("own", {}, "0 own, 2 own, 3 own"),
            ("router", {}, "0 down, 2 down, 3 down"),
            ("shop", {}, "2 shop, 3 shop"),
        ],
    )
    def test_tell_of_each_message_that_a_host_that_is_down_stops(
        self, key, options, told, start, receivers, settings, caplog, monkeypatch
    ):
        """A message without recipients is not one. The log has the error once."""
        start(any_of(at("MAIL", None, CLOSE), at("banner", None, "421 too busy")))
        monkeypatch.setattr(Recorder, "open", mock.Mock(side_effect=OSError))
        settings.EMAIL_HOSTS_ROUTER = lambda message: "down"
        batch = mails(*"0123")
        batch[1].to = []
        batch[3].recipients = mock.Mock(side_effect=LookupError)  # nobody hides it
        get_connection(key, fail_silently=True, **options).send_messages(batch)
        failed = [each for each in receivers.told.split(", ") if "Error" in each]
        assert ", ".join(each.rpartition(" ")[0] for each in failed[-3:]) == told
        assert len(caplog.messages) == 1

    @pytest.mark.parametrize(
        ("replies", "options", "told"),
        [
            ([], LOUD, "0 shop, 1 shop LookupError"),
            ([], SILENT, "0 shop, 1 shop LookupError"),
            (["554 spam"], LOUD, "0 shop SMTPDataError"),
        ],
    )
    @pytest.mark.parametrize("kind", [list, iter])
    def test_do_not_tell_of_what_is_looked_ahead(
        self, replies, options, told, kind, start, receivers
    ):
        start(at(BODY, *replies))
        batch = mails(*"012")
        batch[1].message = mock.Mock(side_effect=LookupError)
        with pytest.raises((LookupError, smtplib.SMTPDataError)) as caught:
            get_connection("shop", **options).send_messages(kind(batch))
        assert receivers.told == told
        assert receivers.got[-1]["error"] is caught.value

    def test_tell_of_refused_recipients(self, start, receivers):
        start(to("<b@example.net>", "550 no user"))
        message = EmailMessage("0", "", to=["a@example.net", "b@example.net"])
        get_connection("shop").send_messages([message])
        (told,) = receivers.got
        assert told.pop("seconds") > 0
        assert told == {
            "sender": EmailHostsBackend,
            "message": message,
            "alias": "shop",
            "refused": {"b@example.net": (550, b"no user")},
        }

    def test_tell_seconds_without_waiting_for_a_generator(self, start, receivers, clock):
        """And nothing of an error of it."""

        def script(step: str, argument: str) -> None:
            clock.now += 2 * (step == BODY)

        def coming():
            for message in mails(*"012"):
                clock.now += 100
                yield message
            raise LookupError

        start(script)
        connection: Any = get_connection("shop")
        with pytest.raises(LookupError):
            connection.send_messages(coming())
        assert [told["seconds"] for told in receivers.got] == [2, 2, 2]

    @pytest.mark.parametrize(
        ("key", "kind", "counts"),
        [("shop", list, [5] * 6), ("many", list, [5] * 6), ("shop", iter, [1, 1, 2, 3, 4, 5])],
    )
    def test_come_at_the_end_of_a_list(self, key, kind, counts, start, receivers):
        """Or after each message. So do records of the log. The first message has one."""
        server, _ = start(to("no@", "550 no"))
        found: list[int] = []
        receivers.then = lambda: found.append(len(server.accepted))
        batch = mails(*"01234")
        batch[0].cc = ["no@example.net"]
        with logging_to("email_hosts", lambda record: receivers.then()):
            get_connection(key).send_messages(kind(batch))
        assert found == counts

    def test_tell_of_what_is_in_the_outbox(self, receivers, mailoutbox):
        batch = mails(*"01")
        batch[1].extra_headers = {"X": "a\nb"}
        with pytest.raises(ValueError, match=r"[Hh]eader") as caught:
            get_connection("shop").send_messages(batch)
        assert receivers.told == f"0 shop, 1 shop {type(caught.value).__name__}"


class TestReceiver:
    """It never changes what becomes of the mail."""

    @pytest.mark.parametrize("error", [LookupError, SoftTimeLimitExceeded])
    def test_is_not_needed_for_the_log_to_fail(self, error, start, receivers, caplog):
        """A time limit in a handler of the log ends the send."""
        start()
        receivers.then = mock.Mock(side_effect=RuntimeError)
        is_limit = error is SoftTimeLimitExceeded
        ends = pytest.raises(error) if is_limit else nullcontext()
        with logging_to("django.dispatch", mock.Mock(side_effect=error)), ends:
            assert get_connection("shop").send_messages(mails("0")) == 1
        told = "receivers of message_sent could not be called: LookupError"
        assert caplog.messages == [told] * (not is_limit)

    def test_may_change_what_it_gets(self, receivers, mailoutbox, caplog):
        """And put it into a queue, as JSON."""
        receivers.then = lambda: json.dumps(receivers.got[-1]["refused"].setdefault("x", []))
        get_connection("shop").send_messages(mails(*"01"))
        assert [told["refused"] for told in receivers.got] == [{"x": []}] * 2
        assert caplog.messages == []

    @pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
    def test_that_exits_ends_what_is_left(self, error, start, receivers):
        """The next send has its signals again."""
        servers = start()
        receivers.then = mock.Mock(side_effect=error)
        for told in ("0 shop", "0 shop, 0 shop"):
            connection: Any = get_connection("safe")
            with pytest.raises(error) as caught:
                connection.send_messages(iter(mails(*"012")))
            assert not can_be_retried(caught.value)
            assert receivers.told == told
        assert [len(server.accepted) for server in servers] == [2, 0]

    def test_gets_an_error_without_a_traceback(self, start, receivers):
        """It would show what frames hold that are still at work. Afterwards it is back."""
        start()
        tracebacks: list[Any] = []

        def look() -> None:
            tracebacks.append(receivers.got[-1]["error"].__traceback__)
            raise KeyboardInterrupt

        receivers.then = look
        with pytest.raises(KeyboardInterrupt):
            get_connection("down").send_messages(mails(*"012"))
        assert tracebacks == [None]
        assert receivers.got[0]["error"].__traceback__ is not None
