"""Connections that are kept from one send to the next."""

from __future__ import annotations

import gc
import inspect
import os
import smtplib
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock, ServerFactory, ServeScript, run_python
from django.core.mail import EmailMessage
from django.core.signals import request_finished
from django.test import override_settings
from scripted import BODY, CLOSE, HANG, RESET, Script, ScriptedServer, at, shut

from email_hosts.backends import EmailHostsBackend, get_connection
from email_hosts.smtp.pool import MAX_PARKED, pool


def message(recipient: str = "a@example.net") -> EmailMessage:
    return EmailMessage("Subject", "Hello", "sender@example.com", [recipient])


def host(server: Any, **options: Any) -> EmailHostsBackend:
    options = {"conn_max_age": 60, "timeout": 5, **options}
    return EmailHostsBackend("127.0.0.1", server.port, **options)


def parked() -> int:
    return sum(map(len, pool._parked.values()))


def test_dsn_switches_it_on(serve: ServeScript) -> None:
    server = serve()
    dsn = f"smtp://127.0.0.1:{server.port}?conn_max_age=2.5&conn_max_messages=3"
    with override_settings(EMAIL_HOSTS={"shop": dsn}):
        for _ in range(4):
            connection: Any = get_connection("shop")
            connection.send_messages([message()])
    assert (connection.conn_max_age, connection.conn_max_messages) == (2.5, 3)
    assert server.connections == 2


def test_is_off_by_default(serve: ServeScript) -> None:
    server = serve()
    for _ in range(2):
        host(server, conn_max_age=None).send_messages([message()])
    assert (server.connections, parked()) == (2, 0)


def test_next_send_uses_the_connection_again(serve: ServeScript) -> None:
    server = serve()
    for _ in range(5):
        assert host(server).send_messages([message()]) == 1
    assert (server.connections, len(server.accepted), parked()) == (1, 5, 1)


def test_send_over_a_held_connection_takes_two_round_trips(serve: ServeScript) -> None:
    server = serve()
    host(server).send_messages([message()])
    before = server.turns
    host(server).send_messages([message()])
    assert server.turns - before == 2


def test_connection_is_used_no_longer_than_its_age(serve: ServeScript, clock: Clock) -> None:
    server = serve()
    for seconds in (0, 59, 1, 30):
        clock.now += seconds
        host(server).send_messages([message()])
    assert server.connections == 2


def test_connection_is_used_for_no_more_than_its_messages(serve: ServeScript) -> None:
    server = serve()
    for _ in range(4):
        host(server, conn_max_messages=4).send_messages([message(), message()])
    assert server.connections == 2
    assert server.commands.count("QUIT") == 2


def test_other_login_is_another_host(serve: ServeScript) -> None:
    server = serve(at("AUTH", "235 welcome"), extensions=["AUTH PLAIN"])
    for login in ({}, {"username": "other", "password": "x"}):
        host(server, **login).send_messages([message()])
    assert server.connections == 2


class TestKey:
    """A connection is shared by hosts that would make the same one, and use it as long."""

    OPTIONS: dict[str, Any] = {
        "host": "other.example.com",
        "port": 2525,
        "username": "other",
        "password": "other",
        "use_tls": True,
        "use_ssl": True,
        "timeout": 5,
        "ssl_keyfile": "other.pem",
        "ssl_certfile": "other.pem",
        "ssl_cafile": "other.pem",
        "local_hostname": "other.example.com",
        "conn_max_age": 61,
        "conn_max_messages": 5,
    }
    # These concern the message.
    OTHERS: dict[str, Any] = {
        "fail_silently": True,
        "default_from_email": "other@example.com",
        "server_email": "other@example.com",
        "alias": "other",
    }

    def key(self, **options: Any) -> Any:
        options = {"host": "smtp.example.com", "port": 25, "conn_max_age": 60, **options}
        return EmailHostsBackend(**options)._pool_key

    def test_no_option_is_forgotten(self) -> None:
        known = inspect.signature(EmailHostsBackend).parameters
        assert {*self.OPTIONS, *self.OTHERS} == {*known} - {"others"}

    @pytest.mark.parametrize("name", OPTIONS)
    def test_other_option_is_another_host(self, name: str) -> None:
        assert self.key(**{name: self.OPTIONS[name]}) != self.key()

    @pytest.mark.parametrize("name", OTHERS)
    def test_what_concerns_the_message_is_not(self, name: str) -> None:
        assert self.key(**{name: self.OTHERS[name]}) == self.key()


def test_expired_connections_are_closed_after_a_request(
    serve: ServeScript, clock: Clock
) -> None:
    server = serve()
    host(server).send_messages([message()])
    clock.now += 59
    request_finished.send(sender=None)
    assert parked() == 1
    clock.now += 1
    request_finished.send(sender=None)
    assert parked() == 0


def test_expired_connections_are_closed_by_other_hosts_too(
    serve: ServeScript, clock: Clock
) -> None:
    servers = [serve(), serve()]
    host(servers[0]).send_messages([message()])
    clock.now += 60
    host(servers[1]).send_messages([message()])
    assert parked() == 1


def test_at_most_ten_are_parked(serve: ServeScript) -> None:
    server = serve()
    connections = [host(server) for _ in range(MAX_PARKED + 2)]
    for connection in connections:
        connection.open()
    for connection in connections:
        connection.close()
    assert (server.connections, parked()) == (12, 10)


def test_one_that_is_parked_is_taken_by_one_only(serve: ServeScript) -> None:
    server = serve()
    with host(server):
        pass
    with host(server) as first, host(server) as second:
        assert first.connection is not second.connection
    assert server.connections == 2


def test_connection_after_a_refusal_is_parked(serve: ServeScript) -> None:
    server = serve(at("MAIL", "550 no"))
    with pytest.raises(smtplib.SMTPSenderRefused):
        host(server).send_messages([message()])
    host(server).send_messages([message()])
    assert server.connections == 1


@pytest.mark.parametrize("script", [at(BODY, CLOSE), at(BODY, HANG), at("MAIL", "421 later")])
def test_connection_after_another_error_is_not(script: Script, serve: ServeScript) -> None:
    server = serve(script)
    with pytest.raises(smtplib.SMTPException):
        host(server, timeout=0.5).send_messages([message()])
    assert parked() == 0


def test_connection_with_a_line_that_nobody_asked_for_is_not_parked(
    serve: ServeScript,
) -> None:
    server = serve(at(BODY, "250 accepted\r\n421 and that was it"))
    assert host(server).send_messages([message()]) == 1
    assert parked() == 0


def test_tls_connection_is_parked(
    start_server: ServerFactory, tls: ssl.SSLContext, cafile: Path
) -> None:
    server = start_server(context=tls)
    for _ in range(2):
        host(server, use_tls=True, ssl_cafile=str(cafile)).send_messages([message()])
    assert (len(server.received), parked()) == (2, 1)


def test_connection_of_the_parent_is_not_used_by_the_child(serve: ServeScript) -> None:
    server = serve()
    connection = host(server)
    connection.open()
    inherited = connection.connection
    connection._held.pid = -1
    assert connection.send_messages([message()]) == 1
    assert connection.connection is not inherited
    assert (server.connections, parked()) == (2, 1)
    assert "QUIT" not in server.commands


def test_interrupted_send_leaves_nothing_parked(
    serve: ServeScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    connection = host(server)

    def interrupt(self: smtplib.SMTP) -> None:
        raise KeyboardInterrupt

    with connection:
        monkeypatch.setattr(smtplib.SMTP, "getreply", interrupt)
        with pytest.raises(KeyboardInterrupt):
            connection.send_messages([message()])
        monkeypatch.undo()
    assert parked() == 0


class TestDeadConnection:
    """One that died while it was parked costs a reconnect, and never a message."""

    @pytest.fixture
    def server(self, serve: ServeScript) -> ScriptedServer:
        """A server that has accepted one message, over a connection that is parked now."""
        server = serve()
        host(server).send_messages([message("first@example.net")])
        assert parked() == 1
        return server

    def assert_sent_once(self, server: ScriptedServer, batch: list[EmailMessage]) -> None:
        assert host(server).send_messages(batch) == len(batch)
        recipients = [one.recipients for one in server.accepted[1:]]
        assert recipients == [tuple(message.to) for message in batch]

    def test_ended_by_the_server(self, server: ScriptedServer) -> None:
        server.disconnect()
        self.assert_sent_once(server, [message(), message("b@example.net")])

    def test_with_a_421_to_read(self, server: ScriptedServer) -> None:
        server._clients[0].sendall(b"421 too long idle\r\n")
        self.assert_sent_once(server, [message()])


@pytest.mark.parametrize("fault", [CLOSE, RESET, HANG, "421 too many"])
@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelining", "stepwise"])
@pytest.mark.parametrize("batch", [1, 2])
def test_taken_connection_that_breaks_before_the_body_is_replaced(
    fault: str, step: str, extensions: list[str], batch: int, serve: ServeScript
) -> None:
    server = serve(at(step, None, fault), extensions=extensions)
    options = {"timeout": 0.3 if fault == HANG else 20}
    host(server, **options).send_messages([message("first@example.net")])
    messages = [message(f"{i}@example.net") for i in range(batch)]
    assert host(server, **options).send_messages(messages) == batch
    assert [one.recipients for one in server.accepted] == [
        ("first@example.net",),
        *((f"{i}@example.net",) for i in range(batch)),
    ]
    assert server.connections == 2


def test_second_message_of_a_taken_connection_goes_over_the_next(serve: ServeScript) -> None:
    server = serve(at("MAIL", None, None, CLOSE))
    host(server).send_messages([message("first@example.net")])
    assert host(server).send_messages([message("a@x.net"), message("b@x.net")]) == 2
    assert len(server.accepted) == 3


def test_reconnect_is_tried_once(serve: ServeScript) -> None:
    server = serve(at("MAIL", None, CLOSE, CLOSE))
    host(server).send_messages([message()])
    with pytest.raises(smtplib.SMTPServerDisconnected):
        host(server).send_messages([message()])
    assert server.connections == 2


@pytest.mark.parametrize("fault", [CLOSE, RESET, HANG])
def test_taken_connection_that_breaks_after_the_body_is_an_error(
    fault: str, serve: ServeScript
) -> None:
    server = serve(at(BODY, None, fault))
    options = {"timeout": 0.3 if fault == HANG else 20}
    host(server, **options).send_messages([message()])
    with pytest.raises(smtplib.SMTPServerDisconnected):
        host(server, **options).send_messages([message()])
    assert server.connections == 1


@pytest.mark.parametrize("fail_silently", [True, False])
def test_server_that_has_gone_is_an_error(serve: ServeScript, fail_silently: bool) -> None:
    server = serve(at("MAIL", None, CLOSE))
    host(server, fail_silently=fail_silently).send_messages([message()])
    shut(server._listener)
    connection = host(server, fail_silently=fail_silently)
    try:
        sent = connection.send_messages([message()])
    except ConnectionRefusedError:
        assert not fail_silently
    else:
        assert (sent, fail_silently) == (0, True)
    assert connection.connection is None


def test_threads_share_the_connections(serve: ServeScript) -> None:
    server = serve()

    def send(number: int) -> int:
        connection = host(server, timeout=30, conn_max_messages=400)
        return connection.send_messages([message(f"{number}@example.net")])

    with ThreadPoolExecutor(MAX_PARKED) as threads:
        assert sum(threads.map(send, range(400))) == 400
    assert len({one.recipients for one in server.accepted}) == 400
    assert server.connections == parked() <= MAX_PARKED


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_nothing_leaks_over_many_sends_and_threads(serve: ServeScript) -> None:
    """10,000 sends from 200 threads, in a process of their own."""
    server = serve()
    run_python("-c", LEAKS, str(server.port))
    assert len(server.accepted) == 10_000


LEAKS = """
import gc, os, sys, threading
import django
from django.core.mail import EmailMessage
from email_hosts.backends import EmailHostsBackend
from email_hosts.smtp.pool import pool
django.setup()

def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))

def send(times):
    for number in range(times):
        host = EmailHostsBackend("127.0.0.1", int(sys.argv[1]), conn_max_age=60, timeout=60)
        message = EmailMessage("Subject", "Hello", "a@example.com", [f"{number}@example.net"])
        assert host.send_messages([message]) == 1

before = descriptors()
threads = [threading.Thread(target=send, args=[50]) for _ in range(200)]
for thread in threads: thread.start()
for thread in threads: thread.join()
after = descriptors()
assert after <= before + 10, (before, after)
pool.close_all()
assert descriptors() == before, (before, descriptors())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_parent_and_child_both_go_on_sending(
    start_server: ServerFactory, tls: ssl.SSLContext, cafile: Path
) -> None:
    """A process with a parked TLS connection forks; it is the parent's alone."""
    server = start_server(context=tls, login=("user", "secret"))
    dsn = (
        f"submission://user:secret@127.0.0.1:{server.port}?conn_max_age=60&ssl_cafile={cafile}"
    )
    shown = run_python("-c", FORKS, dsn)
    senders = [mail.message["Subject"] for mail in server.received]
    assert sorted(senders) == ["child"] * 3 + ["parent"] * 4
    # The parent needed one connection, the child one of its own.
    assert shown.split() == ["parent", "True"]


FORKS = """
import os, sys
import django
from django.core.mail import EmailMessage
from email_hosts.backends import connection_from_dsn
from email_hosts.smtp.pool import pool
django.setup()

def send(name):
    message = EmailMessage(name, "Hello", "a@example.com", ["b@example.net"])
    connection_from_dsn(sys.argv[1]).send_messages([message])

def held():
    return [held.connection for parked in pool._parked.values() for held in parked]

send("parent")
before = held()
child = os.fork()
if not child:
    status = 1
    try:
        assert held() == []
        for _ in range(3): send("child")
        status = 0
    finally:
        os._exit(status)
assert os.waitpid(child, 0)[1] == 0
for _ in range(3): send("parent")
print("parent", held() == before)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize(
    ("owner", "use"),
    [
        ("pool.pool", "take('smtp.example.com')"),
        ("failover._health('safe')", "order(('shop',), rotate=True)"),
    ],
    ids=["pool", "failover"],
)
def test_lock_that_a_thread_of_the_parent_holds_is_free_in_the_child(
    owner: str, use: str
) -> None:
    run_python("-W", "ignore", "-c", FORKS_WITH_A_LOCK.format(owner=owner, use=use))


FORKS_WITH_A_LOCK = """
import os, signal, threading
from email_hosts.smtp import pool
from email_hosts.backends import failover

is_held, end = threading.Event(), threading.Event()

def hold():
    with {owner}._lock:
        is_held.set()
        end.wait()

threading.Thread(target=hold).start()
is_held.wait()
child = os.fork()
if not child:
    signal.alarm(20)  # ends it if it waits for the lock
    {owner}.{use}
    os._exit(0)
end.set()
assert os.waitpid(child, 0)[1] == 0
"""


def test_signal_handler_may_send_while_its_thread_uses_the_pool(serve: ServeScript) -> None:
    server = serve()
    with pool._lock:
        assert host(server).send_messages([message()]) == 1
    assert parked() == 1


def test_forgotten_connections_are_closed_without_a_word(serve: ServeScript) -> None:
    """What a forked child does."""
    server = serve()
    host(server).send_messages([message()])
    pool.forget()
    assert parked() == 0
    host(server).send_messages([message()])
    assert "QUIT" not in server.commands


def test_process_says_goodbye_at_its_end(serve: ServeScript) -> None:
    server = serve()
    code = LEAKS.partition("before =")[0] + "send(1)"
    run_python("-c", code, str(server.port))
    for thread in server._serving:
        thread.join(timeout=10)
    assert server.commands[-1] == "QUIT"


def test_discarded_connections_leave_nothing(serve: ServeScript) -> None:
    server = serve()
    with override_settings(EMAIL_HOSTS={"shop": f"smtp://127.0.0.1:{server.port}"}):
        get_connection("shop")
        gc.collect()
        before = len(gc.get_objects())
        for _ in range(1000):
            get_connection("shop", timeout=5)
        gc.collect()
        assert len(gc.get_objects()) - before < 50
