"""Several hosts as one: never twice, never lost in silence."""

import gc
import itertools
import logging
import smtplib
from collections import Counter
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from conftest import interrupted_at_each_call, needs_mailers
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.test import override_settings
from scripted import BODY, CLOSE, HANG, RESET, ScriptedServer, always, any_of, at, to

from email_hosts import mailers, rate
from email_hosts.backends import (
    FailoverBackend,
    can_be_retried,
    failover,
    get_connection,
    parallel,
    smtp,
)
from email_hosts.exceptions import AllHostsFailed, InvalidEmailHost
from email_hosts.smtp import pipelining, transaction
from email_hosts.smtp.pool import pool

ROUTER = "email_hosts.backends.RoutingBackend"
GARBAGE = "what?"
TOO_LARGE = "552 too large"
NEXT, CALLER, HERE = "the next host has it", "the caller gets an error", "this host has it"
UNSURE = "one of the first two"  # depends on how much had been written


@pytest.fixture(autouse=True)
def nobody_waits_for_quit(monkeypatch):
    """Let a server that hangs on QUIT not hold up the tests."""
    monkeypatch.setattr("email_hosts.smtp.connection.QUIT_TIMEOUT", 0.05)


def faults():
    """Give each step, what happens there, and what has to come of it."""
    broken = (CLOSE, RESET, HANG)
    for step in ("banner", "EHLO", "AUTH", "MAIL"):
        for action in (*broken, "421 later", "451 later", "554 no", GARBAGE):
            yield step, action, NEXT
    for step in ("RCPT", "DATA"):
        for action in (*broken, "421 later", "451 later", GARBAGE):
            yield step, action, NEXT
        yield step, "554 no", CALLER
    for action in broken:
        yield "CONTENT", action, UNSURE
    for action in (*broken, "554 no", GARBAGE):
        yield BODY, action, CALLER
    for action in ("421 later", "451 later"):
        yield BODY, action, NEXT
    for action in (*broken, "421 later", "554 no", GARBAGE):
        yield "QUIT", action, HERE


def dsns(servers, hanging=-1):
    """Return ``EMAIL_HOSTS``: a host for each server or port, and all of them as one."""
    found = {
        f"h{i}": f"smtp://u:p@127.0.0.1:{getattr(server, 'port', server)}"
        f"?timeout={0.3 if i == hanging else 20}&_default_from_email=h{i}@example.com"
        for i, server in enumerate(servers)
    }
    return {**found, "all": f"failover:{','.join(found)}"}


def messages(count):
    return [EmailMessage("Hello", "World", to=[f"m{i}@example.net"]) for i in range(count)]


def send(settings, batch, key="all", **options):
    with override_settings(EMAIL_HOSTS=settings):
        return get_connection(key, **options).send_messages(batch)


def deliveries(servers):
    """Return recipient and sender of all that was accepted, anywhere."""
    return [
        (recipient, one.sender)
        for server in servers
        if isinstance(server, ScriptedServer)
        for one in server.accepted
        for recipient in one.recipients
    ]


@pytest.fixture
def serve_auth(serve):
    """Start a server that takes any login."""

    def start(script=None, *, pipelining=True):
        def with_auth(step, argument):
            reply = script and script(step, argument)
            return reply or ("235 welcome" if step == "AUTH" else None)

        return serve(with_auth, extensions=["AUTH PLAIN", *["PIPELINING"] * pipelining])

    return start


@pytest.mark.parametrize(("step", "action", "outcome"), list(faults()))
@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "stepwise"])
def test_message_reaches_one_host_or_the_caller_gets_an_error(
    step, action, outcome, pipelining, serve_auth, closed_port
):
    faulty = serve_auth(always(step, action), pipelining=pipelining)
    servers = [closed_port, faulty, serve_auth()]
    expected = [f"m{i}@example.net" for i in range(3)]
    try:
        settings = dsns(servers, hanging=1 if action == HANG else -1)
        assert send(settings, messages(3)) == 3
    except OSError:
        assert outcome in (CALLER, UNSURE)
        expected = []
    else:
        assert outcome != CALLER
    got = deliveries(servers)
    assert [recipient for recipient, _ in got] == expected
    place = 1 + (outcome in (NEXT, UNSURE))
    assert {sender for _, sender in got} <= {f"h{place}@example.com"}


@pytest.mark.parametrize("banner", ["421 too busy", CLOSE, HANG])
def test_kept_connection_that_cannot_be_replaced_is_for_the_next(banner, serve_auth):
    """It has died while it was parked, and the server takes no other."""
    faulty = serve_auth(any_of(at("MAIL", None, CLOSE), at("banner", None, banner)))
    servers = [faulty, serve_auth()]
    settings = dsns(servers, hanging=0 if banner == HANG else -1)
    settings["h0"] += "&conn_max_age=60"
    for _ in range(2):
        assert send(settings, messages(1)) == 1
    assert [len(server.accepted) for server in servers] == [1, 1]


def test_fault_of_one_recipient_is_not_one_of_the_host(serve_auth):
    servers = [serve_auth(to("bad@", "550 no")), serve_auth()]
    message = EmailMessage("Hello", "World", to=["good@example.net", "bad@example.net"])
    assert send(dsns(servers), [message]) == 1
    assert deliveries(servers) == [("good@example.net", "h0@example.com")]


def test_tls_that_fails_is_for_the_next(start_server, tls, serve):
    untrusted, plain = start_server(context=tls), serve()
    settings = {
        "a": f"submission://127.0.0.1:{untrusted.port}",
        "b": f"submission://127.0.0.1:{plain.port}",
        "c": f"submissions://127.0.0.1:{plain.port}?timeout=0.2",
        "d": f"submissions://127.0.0.1:{plain.port}?ssl_cafile=/no/such/file",
        "e": f"smtp://127.0.0.1:{plain.port}",
        "all": "failover:a,b,c,d,e",
    }
    assert send(settings, messages(1)) == 1
    assert len(plain.accepted) == 1


def test_fault_in_a_batch_moves_the_rest_to_the_next(serve_auth):
    servers = [serve_auth(at("MAIL", None, "451 later")), serve_auth()]
    assert send(dsns(servers), messages(4)) == 4
    assert deliveries(servers) == [
        ("m0@example.net", "h0@example.com"),
        *((f"m{i}@example.net", "h1@example.com") for i in (1, 2, 3)),
    ]
    assert [server.connections for server in servers] == [1, 1]


def test_error_for_a_list_tells_what_was_sent(serve_auth):
    servers = [serve_auth(to("m2@", "550 no")), serve_auth()]
    batch = messages(4)
    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        send({**dsns(servers), "nested": "failover:all"}, batch, "nested")
    error: Any = caught.value
    assert (error.sent, error.unsent) == (batch[:2], batch[2:])


def test_error_of_all_hosts_tells_what_was_sent(serve_auth):
    """The same message may be in a list twice."""
    servers = [serve_auth(to("m1@", "451 later")), serve_auth(to("m1@", "451 later"))]
    first, second = messages(2)
    with pytest.raises(AllHostsFailed) as caught:
        send(dsns(servers), [first, first, second, first])
    error: Any = caught.value
    assert (error.sent, error.unsent) == ([first, first], [second, first])


def test_error_of_the_caller_does_not_mark_the_host_as_down(serve_auth):
    servers = [serve_auth(at(BODY, "554 spam")), serve_auth()]
    with pytest.raises(smtplib.SMTPDataError):
        send(dsns(servers), messages(1))
    with pytest.raises(ValueError, match=r"[Ii]nvalid|Header"):
        send(dsns(servers), [EmailMessage("Hello", to=["a@b\nc@d"])])
    assert send(dsns(servers), messages(1)) == 1
    assert [len(server.accepted) for server in servers] == [1, 0]


@pytest.mark.parametrize("retry", [60, 0.5])
def test_host_that_failed_comes_back_after_retry(retry, serve_auth, clock):
    servers = [serve_auth(at("MAIL", "451 later")), serve_auth()]
    settings = {**dsns(servers), "all": f"failover:h0,h1?retry={retry}"}
    counts = []
    for seconds in (0, retry * 0.9, retry * 0.2):
        clock.now += seconds
        send(settings, messages(1))
        counts.append([len(server.accepted) for server in servers])
    assert counts == [[0, 1], [0, 2], [1, 2]]


def test_host_that_takes_a_message_is_not_down_any_more(serve_auth, clock, monkeypatch):
    """It is asked again although it is down, because the other one has its limit."""
    servers = [serve_auth(at("MAIL", "451 later")), serve_auth()]
    settings = dsns(servers)
    settings["h1"] += "&rate=1/m"
    counts = []
    for seconds in (1e9, 1e9, 1e9 + 120):
        monkeypatch.setattr(rate, "clock", lambda: seconds)  # noqa: B023
        send(settings, messages(1))
        counts.append([len(server.accepted) for server in servers])
    assert counts == [[0, 1], [1, 1], [2, 1]]


def test_host_that_has_its_limit_is_not_down(serve_auth, clock, monkeypatch):
    servers = [serve_auth(), serve_auth()]
    settings = dsns(servers)
    settings["h0"] += "&rate=1/m"
    for seconds in (1e9, 1e9, 1e9 + 120):
        monkeypatch.setattr(rate, "clock", lambda: seconds)  # noqa: B023
        send(settings, messages(1))
    assert [len(server.accepted) for server in servers] == [2, 1]


def test_host_that_is_down_is_the_last_resort(serve_auth, clock):
    servers = [serve_auth(at("MAIL", "451 later")), serve_auth(at("MAIL", None, "451 later"))]
    for _ in range(2):
        assert send(dsns(servers), messages(1)) == 1
    assert [len(server.accepted) for server in servers] == [1, 1]


def test_all_hosts_failed_tells_of_each(serve_auth, closed_port, caplog):
    servers = [closed_port, serve_auth(at("AUTH", "535 u is not allowed"))]
    with pytest.raises(AllHostsFailed) as caught:
        send(dsns(servers), messages(1))
    assert isinstance(caught.value, smtplib.SMTPException)
    assert {key: type(error) for key, error in caught.value.errors.items()} == {
        "h0": ConnectionRefusedError,
        "h1": smtplib.SMTPAuthenticationError,
    }
    assert str(caught.value) == (
        'host "all": all hosts failed: h0 (ConnectionRefusedError), '
        "h1 (SMTPAuthenticationError)"
    )
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, 'host "all": host "h0" failed: ConnectionRefusedError'),
        (logging.WARNING, 'host "all": host "h1" failed: SMTPAuthenticationError 535'),
    ]


def test_failure_may_be_ignored(closed_port, caplog):
    with override_settings(EMAIL_HOSTS=dsns([closed_port])):
        connection = get_connection("all", fail_silently=True)
        assert connection.send_messages(messages(2)) == 0
    assert caplog.messages[-1] == 'host "all": AllHostsFailed, ignored by fail_silently'


class TestRoundRobin:
    """Each message starts at the next host."""

    def test_takes_turns_across_connections(self, serve_auth):
        servers = [serve_auth() for _ in range(3)]
        settings = {**dsns(servers), "all": "roundrobin:h0,h1,h2"}
        for count in (1, 2, 3):
            send(settings, messages(count))
        assert [len(server.accepted) for server in servers] == [2, 2, 2]

    @pytest.mark.parametrize("start", [0, 1])
    def test_begins_at_random(self, start, serve_auth, monkeypatch):
        monkeypatch.setattr("random.randrange", lambda count: start)
        servers = [serve_auth(), serve_auth()]
        send({**dsns(servers), "all": "roundrobin:h0,h1"}, messages(1))
        assert len(servers[start].accepted) == 1

    def test_asks_what_is_down_last(self, serve_auth, closed_port):
        servers = [closed_port, serve_auth()]
        assert send({**dsns(servers), "all": "roundrobin:h0,h1"}, messages(4)) == 4
        assert len(servers[1].accepted) == 4


def test_members_may_be_several_hosts_themselves(serve_auth, closed_port):
    servers = [closed_port, serve_auth()]
    settings = {**dsns(servers), "down": "failover:h0", "all": "failover:down,h1"}
    assert send(settings, messages(1)) == 1
    assert deliveries(servers) == [("m0@example.net", "h1@example.com")]


class Signed(EmailMessage):
    """Is made but once."""

    made: Any = None

    def message(self, **options):
        self.made = self.made or super().message(**options)
        return self.made


def test_message_that_is_made_but_once_is_made_for_each_host(serve_auth):
    servers = [serve_auth(at("DATA", "451 later")), serve_auth()]
    assert send(dsns(servers), [Signed("Hello", to=["a@example.net"])]) == 1
    assert b"From: h1@example.com" in servers[1].accepted[0].content


def test_sender_of_its_own_comes_first(serve_auth):
    servers = [serve_auth()]
    settings = {**dsns(servers), "all": "failover:h0?_default_from_email=all@example.com"}
    send(settings, messages(1))
    assert deliveries(servers) == [("m0@example.net", "all@example.com")]


class LibraryError(Exception):
    """As botocore has it: Anymail's backend for Amazon SES raises its errors when opened."""

    status_code = 401


class Unopened(BaseEmailBackend):
    def open(self) -> bool:
        raise LibraryError


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ("nobody", 'EMAIL_HOSTS["nobody"]: there is no such host; known hosts: '),
        ("empty", 'EMAIL_HOSTS["empty"]: the host is empty; known hosts: '),
        ("router", "it asks the router, so no other host can use it"),
        ("invalid", "unknown scheme 'smpt'"),
        ("provider", "LibraryError"),
    ],
)
def test_member_that_cannot_be_used_is_for_the_next_and_logged(member, reason, serve, caplog):
    """It is not the default backend."""
    spare = serve()
    hosts = {
        "empty": "",
        "router": f"backend://{ROUTER}",
        "invalid": "smpt://h",
        "provider": f"backend://{__name__}.Unopened",
        "spare": f"smtp://127.0.0.1:{spare.port}",
        "all": f"failover:{member},spare",
    }
    assert send(hosts, messages(1)) == 1
    assert len(spare.accepted) == 1
    (logged,) = caplog.messages
    assert logged.startswith(f'host "all": host "{member}" failed: ')
    assert reason in logged


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "option 'hosts' must name hosts"),
        ({"hosts": "a", "rotate": "maybe"}, "option 'rotate' must be True or False"),
        ({"hosts": "a", "rety": 5, "alias": "x"}, "unknown option 'rety'; did you mean 'r"),
    ],
)
def test_option_that_does_not_fit_is_refused(options, reason):
    with pytest.raises(InvalidEmailHost, match=reason):
        FailoverBackend(**options)


@pytest.mark.parametrize("key", ["below", "itself"])
def test_cycle_is_refused_at_each_host_above_it(key):
    hosts = {"itself": "failover:itself", "below": "failover:itself,h", "h": "smtp://h"}
    with override_settings(EMAIL_HOSTS=hosts), pytest.raises(InvalidEmailHost) as caught:
        get_connection(key)
    reason = "hosts name each other in a cycle: itself -> itself"
    assert str(caught.value) == f'EMAIL_HOSTS["{key}"]: {reason}'


def test_has_options_of_any_host(message, mailoutbox):
    backend = FailoverBackend("h", default_from_email="all@example.com")
    with override_settings(EMAIL_HOSTS={"h": "locmem:?_default_from_email=h@example.com"}):
        backend.send_messages([message])
    assert mailoutbox[0].from_email == "all@example.com"


@pytest.mark.filterwarnings("ignore:The 'connection' argument is deprecated")
def test_mail_to_admins_is_from_the_host_that_sends_it(serve_auth, closed_port):
    servers = [closed_port, serve_auth()]
    settings = {k: f"{v}&_server_email={k}@alert.example" for k, v in dsns(servers).items()}
    with override_settings(EMAIL_HOSTS={**settings, "all": "failover:h0,h1"}):
        mail.mail_admins("Alert", "!", connection=get_connection("all"))
    assert deliveries(servers) == [("admin@example.com", "h1@alert.example")]


@needs_mailers
def test_is_a_mailer(serve_auth, closed_port):  # pragma: mailers-only
    servers = [closed_port, serve_auth()]
    settings = dsns(servers)
    with override_settings(MAILERS={"default": mailers(settings)["h1"], **mailers(settings)}):
        messages(1)[0].send(using="all")
        assert deliveries(servers) == [("m0@example.net", "h1@example.com")]


class ProviderError(Exception):
    """As Anymail has it: with the status of the answer."""

    def __init__(self, status_code):
        super().__init__("the provider says no")
        self.status_code = status_code


class Provider(BaseEmailBackend):
    """Takes nothing."""

    def __init__(self, *, status, **options):
        super().__init__(**options)
        self.status = int(status)

    def send_messages(self, email_messages):
        raise ProviderError(self.status)


@pytest.mark.parametrize(("status", "goes_on"), [(503, True), (401, False)])
def test_any_backend_may_be_a_member(status, goes_on, serve_auth):
    spare = serve_auth()
    provider = f"backend://{__name__}.Provider?status={status}"
    settings = {**dsns([spare]), "provider": provider, "all": "failover:provider,h0"}
    with nullcontext() if goes_on else pytest.raises(ProviderError):
        send(settings, messages(1))
    assert len(spare.accepted) == goes_on


def test_without_a_key_it_has_the_name_of_its_hosts(caplog):
    backend = FailoverBackend(["nobody", "none"], fail_silently=True)
    with override_settings(EMAIL_HOSTS={}):
        assert backend.send_messages(messages(1)) == 0
    assert [text.partition(":")[0] for text in caplog.messages] == 3 * ['host "nobody,none"']


class TestTooLarge:
    """552 to MAIL: this host does not take such a size, and another may."""

    @pytest.mark.parametrize("key", ["all", "nested"])
    @pytest.mark.parametrize(("other", "expected"), [(TOO_LARGE, False), ("451 later", True)])
    def test_is_for_good_if_each_host_says_so(self, other, expected, key, serve_auth):
        servers = [serve_auth(at("MAIL", TOO_LARGE)), serve_auth(at("MAIL", other))]
        settings = {**dsns(servers), "nested": "failover:all"}
        with pytest.raises(AllHostsFailed) as caught:
            send(settings, messages(1), key)
        assert can_be_retried(caught.value) is expected
        assert send(settings, messages(1), key) == 1  # the hosts are asked again

    def test_does_not_end_a_kept_connection(self, serve_auth):
        server = serve_auth(at("MAIL", None, TOO_LARGE))
        settings = {"h0": dsns([server])["h0"] + "&conn_max_age=60"}
        assert send(settings, messages(3), "h0", fail_silently=True) == 2
        assert server.connections == 1


@pytest.mark.parametrize(
    ("query", "make_error"),
    [
        ("", lambda: smtplib.SMTPDataError(451, b"rings")),
        ("", lambda: ConnectionRefusedError("rings")),
        ("&conn_max_age=60", lambda: smtplib.SMTPDataError(451, b"rings")),
        ("&parallel=2", lambda: smtplib.SMTPDataError(451, b"rings")),
    ],
    ids=["451", "refused", "kept", "parallel"],
)
# Python closes a socket that nobody has any more, with a warning.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_error_of_a_signal_handler_at_any_call_sends_nothing_twice(
    query, make_error
):  # pragma: no cover (it confuses coverage)
    """Whatever its class: it does not tell what the server has."""
    with ScriptedServer() as first, ScriptedServer() as second:
        servers = (first, second)
        hosts = {
            name: f"smtp://127.0.0.1:{server.port}?timeout=20{query}"
            for name, server in zip("ab", servers, strict=True)
        }
        settings = {**hosts, "all": "failover:a,b"}
        numbers = itertools.count()

        def send_another():
            failover._healths.clear()  # the first host has each message first
            message = EmailMessage("Hello", "World", to=[f"{next(numbers)}@example.net"])
            with suppress(Exception):
                send(settings, [message])

        code = (pipelining, transaction, smtp, parallel)
        times = interrupted_at_each_call(send_another, *code, make_error=make_error)
        for _ in times:
            pool.close_all()
        for server in servers:
            server.wait_for_clients_to_go()
    accepted = [one for server in servers for one in server.accepted]
    assert max(Counter(one.recipients for one in accepted).values()) == 1
    assert all(one.content for one in accepted)
    assert next(numbers) > 50
    gc.collect()  # the connections that nobody has
