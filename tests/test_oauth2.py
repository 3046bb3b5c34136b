"""Hosts that log in with OAuth 2.0, from the option to the message that is accepted."""

from __future__ import annotations

import json
import logging
import pickle
import signal
import smtplib
import socket
import threading
from base64 import b64encode
from contextlib import ExitStack
from io import StringIO
from typing import Any
from unittest import mock
from urllib.parse import quote

import pytest
from conftest import needs_mailers
from django.core import mail
from django.core.mail import EmailMessage
from django.core.management import CommandError, call_command
from scripted import CLOSE, HANG, any_of, at
from servers import XOAuth2Server
from test_attacks import Stop
from test_debug import reports_of
from test_sentry import TOOLS

from email_hosts import mailers
from email_hosts.backends import EmailHostsBackend, can_be_retried, get_connection
from email_hosts.exceptions import AllHostsFailed, OAuth2Error
from email_hosts.signals import message_sent
from email_hosts.smtp import tls as tls_module
from email_hosts.smtp.pool import pool

USER = "me@example.com"
SECRET, REFRESH, TOKEN = "Kx7vQz9-secret", "Wj4bYt2-refresh", "Zq8nRp5-token"


def xoauth2(token):
    return f"user={USER}\1auth=Bearer {token}\1\1"


SECRETS = [
    encoded
    for secret in (SECRET, REFRESH, TOKEN, xoauth2(TOKEN))
    for encoded in (secret, b64encode(secret.encode()).decode().rstrip("="))
]


class Tokens:
    """A callable that gives out these tokens in turn, and the last one for ever."""

    def __init__(self, *given):
        self.given = given
        self.calls: list[tuple[str, bool]] = []

    def __call__(self, username, *, renew):
        self.calls.append((username, renew))
        return self.given[min(len(self.calls), len(self.given)) - 1]


@pytest.fixture
def start_smtp(tls):
    """Start an SMTP server that takes these tokens."""
    with ExitStack() as stack:
        yield lambda *good: stack.enter_context(XOAuth2Server(tokens=good, context=tls))


@pytest.fixture
def host(cafile):
    """Make the DSN of a host that logs in to this server."""

    def host(server, **options):
        given = {"ssl_cafile": cafile, "timeout": 20, **options}
        query = "&".join(f"{name}={quote(str(value))}" for name, value in given.items())
        return f"submission://me%40example.com@127.0.0.1:{server.port}?{query}"

    return host


@pytest.fixture
def backend(cafile):
    """Make a connection to this server that has a callable for its tokens."""

    def backend(server, oauth2, **options):
        return EmailHostsBackend(
            "127.0.0.1",
            server.port,
            **{"username": USER, "use_tls": True, "timeout": 20, **options},
            ssl_cafile=str(cafile),
            oauth2=oauth2,
        )

    return backend


def built_in(server, grant="client_credentials"):
    """Return the options of a host that asks this token server."""
    options = {"oauth2_token_url": server.url, "oauth2_client_id": "my-id"}
    if grant == "refresh_token":
        options["oauth2_refresh_token"] = REFRESH
    return {"oauth2": grant, **options, "oauth2_client_secret": SECRET}


@pytest.fixture
def message():
    return EmailMessage("Hello", "World", "a@example.com", ["b@example.net"])


token_of_a_path = Tokens("token-1")
CLIENT = ("client_id", "client_secret", "scope")


class TestSend:
    """A message is sent after a login with a token."""

    @pytest.mark.parametrize("grant", ["client_credentials", "refresh_token"])
    def test_that_is_built_in(
        self, grant, start_smtp, start_token_server, host, settings, message
    ):
        server, token_server = start_smtp("token-1"), start_token_server()
        settings.EMAIL_HOSTS = {"shop": host(server, **built_in(token_server, grant))}
        for _ in range(2):
            assert get_connection("shop").send_messages([message]) == 1
        assert server.logins == [(USER, "token-1")] * 2
        assert [form["grant_type"] for form in token_server.forms] == [grant]
        assert [(one.user, one.tls) for one in server.received] == [(USER, True)] * 2

    @pytest.mark.parametrize("oauth2", [Tokens("token-1"), f"{__name__}.token_of_a_path"])
    def test_that_one_connection_alone_has(self, oauth2, start_smtp, host, settings, message):
        server = start_smtp("token-1")
        dsn = host(server).replace("me%40example.com@", "")
        settings.EMAIL_HOSTS = {"shop": dsn}
        shop = get_connection("shop", username=USER, oauth2=oauth2)
        assert shop.send_messages([message]) == 1

    @needs_mailers
    def test_by_using(  # pragma: mailers-only
        self, start_smtp, start_token_server, host, settings
    ):
        server, token_server = start_smtp("token-1"), start_token_server()
        by_hand = mailers({"shop": host(server, **built_in(token_server))})["shop"]
        settings.MAILERS = {"shop": by_hand}
        arguments: Any = ("Hello", "World", "a@example.com", ["b@example.net"])
        assert mail.send_mail(*arguments, using="shop") == 1
        assert server.logins == [(USER, "token-1")]

    def test_over_several_connections(self, start_smtp, start_token_server, host, settings):
        server, token_server = start_smtp("token-1"), start_token_server()
        options = {"parallel": 4, **built_in(token_server)}
        settings.EMAIL_HOSTS = {"shop": host(server, **options)}
        messages = [EmailMessage(str(i), to=["a@example.net"]) for i in range(20)]
        assert get_connection("shop").send_messages(messages) == 20
        assert set(server.logins) == {(USER, "token-1")}
        assert len(token_server.forms) == 1


class TestRenewal:
    """A token that the server refuses with 535 is renewed, once."""

    @pytest.mark.parametrize(
        ("given", "logins", "error"),
        [
            (["old", "new"], ["old", "new"], None),
            ([TOKEN, f"{TOKEN}-2"], [TOKEN, f"{TOKEN}-2"], smtplib.SMTPAuthenticationError),
            ([TOKEN], [TOKEN], smtplib.SMTPAuthenticationError),  # it gets the same again
            ([TOKEN, None], [TOKEN], OAuth2Error),
        ],
    )
    def test_is_tried_once(self, given, logins, error, start_smtp, backend, message):
        server, tokens = start_smtp("new"), Tokens(*given)
        if error is None:
            assert backend(server, tokens).send_messages([message]) == 1
        else:
            with pytest.raises(error) as caught:
                backend(server, tokens).send_messages([message])
            assert type(caught.value) is error
            assert can_be_retried(caught.value)
            assert TOKEN not in f"{caught.value} {caught.value.__context__}"
        assert tokens.calls == [(USER, False), (USER, True)]
        assert server.logins == [(USER, token) for token in logins]

    def test_one_that_is_kept_is_replaced(
        self, start_smtp, start_token_server, host, settings, message
    ):
        server, token_server = start_smtp("token-1"), start_token_server()
        settings.EMAIL_HOSTS = {"shop": host(server, **built_in(token_server))}
        for good in ("token-1", "token-2", "token-2"):
            server.tokens = {good}
            get_connection("shop").send_messages([message])
        assert [token for _, token in server.logins] == [
            *("token-1", "token-1", "token-2", "token-2")
        ]
        assert len(token_server.forms) == 2

    def test_refusal_is_told_with_its_reason(self, start_smtp, backend, message):
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            backend(start_smtp("good"), Tokens(TOKEN)).send_messages([message])
        assert caught.value.smtp_code == 535
        assert b'no such token for *****: *****; {"status":"400","token":"*****"}' in (
            caught.value.smtp_error
        )
        assert can_be_retried(caught.value)

    def test_other_refusals_are_no_reason_for_it(self, serve_tls, backend, message):
        given = Tokens(TOKEN)
        server = serve_tls({"AUTH": f"454 4.7.0 later, {TOKEN}"})
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            backend(server, given, use_tls=False, use_ssl=True).send_messages([message])
        assert caught.value.args == (454, b"4.7.0 later, *****")
        assert given.calls == [(USER, False)]


@pytest.fixture
def serve_tls(serve, tls):
    """Start a scripted server that speaks TLS from the first byte, and offers XOAUTH2."""

    def start(replies, extensions=("AUTH XOAUTH2",)):
        replies = {"AUTH": "235 welcome", **replies}
        return serve(
            lambda step, argument: replies.get(step), extensions=extensions, context=tls
        )

    return start


class TestFailure:
    """A token that cannot be had is a login that failed."""

    @pytest.fixture
    def failing(self, start_smtp, start_token_server, host):
        """The DSN of a host whose token server refuses."""
        refusal = {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid"}
        return host(start_smtp(), **built_in(start_token_server(refusal)))

    def test_says_why(self, failing, settings, message, caplog):
        settings.EMAIL_HOSTS = {"shop": failing}
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            get_connection("shop").send_messages([message])
        assert str(caught.value) == (
            "no OAuth 2.0 token from 127.0.0.1: invalid_client: AADSTS7000215"
        )
        assert can_be_retried(caught.value)
        assert get_connection("shop", fail_silently=True).send_messages([message]) == 0
        assert "AADSTS7000215, ignored by fail_silently" in caplog.text

    def test_next_host_takes_over(self, failing, start_server, settings, message, caplog):
        spare = start_server()
        settings.EMAIL_HOSTS = {
            "shop": failing,
            "spare": f"smtp://127.0.0.1:{spare.port}",
            "all": "failover:shop,spare",
        }
        assert get_connection("all").send_messages([message]) == 1
        assert len(spare.received) == 1
        assert 'host "shop" failed: OAuth2Error: no OAuth 2.0 token from' in caplog.text

    def test_of_all_hosts_can_be_retried(self, failing, settings, message):
        settings.EMAIL_HOSTS = {"shop": failing, "all": "failover:shop"}
        with pytest.raises(AllHostsFailed) as caught:
            get_connection("all").send_messages([message])
        assert can_be_retried(caught.value)
        pickled = pickle.loads(pickle.dumps(caught.value))
        assert "AADSTS7000215" in str(pickled.errors["shop"])

    @pytest.mark.parametrize(
        ("has_tls", "problem"), [(True, "does not offer XOAUTH2"), (False, "STARTTLS")]
    )
    def test_server_that_cannot_do_it(
        self, has_tls, problem, start_server, tls, backend, message
    ):
        server = start_server(context=tls, login=("a", "b")) if has_tls else start_server()
        with pytest.raises(smtplib.SMTPNotSupportedError, match=problem) as caught:
            backend(server, Tokens(TOKEN)).send_messages([message])
        assert can_be_retried(caught.value)


class TestKeptConnection:
    """A token is asked for only when a connection is opened."""

    def test_needs_no_token(self, start_smtp, backend, message):
        server, given = start_smtp("token-1"), Tokens("token-1")
        for _ in range(3):
            backend(server, given, conn_max_age=60).send_messages([message])
        assert (len(given.calls), len(server.logins), len(server.received)) == (1, 1, 3)

    @pytest.mark.parametrize(
        "name", ["username", *(f"oauth2_{each}" for each in ("token_url", *CLIENT))]
    )
    def test_is_for_the_same_options(self, name):
        given = {"username": USER, **built_in_dsn()}
        assert key(given) == key(given) != key({**given, name: "http://127.0.0.1/x"})
        assert SECRET not in repr(key(given))

    def test_is_for_the_same_callable(self):
        given = {"username": USER, "oauth2": Tokens("token-1")}
        assert key(given) == key(given) != key({**given, "oauth2": Tokens("token-1")})

    def test_shows_no_token_in_a_later_reply(self, serve_tls, backend, message):
        server = serve_tls({"AUTH": "235 welcome"})
        given = Tokens(TOKEN)
        options = {"use_tls": False, "use_ssl": True, "conn_max_age": 60}
        backend(server, given, **options).send_messages([message])
        server.script = lambda step, argument: f"550 not {TOKEN}" if step == "RCPT" else None
        with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
            backend(server, given, **options).send_messages([message])
        assert [*caught.value.recipients.values()] == [(550, b"not *****")]
        assert len(given.calls) == 1


def key(options):
    """Return what the pool is asked for, for a host with these options."""
    backend = EmailHostsBackend("h", use_tls=True, conn_max_age=60, **options)
    with mock.patch.object(pool, "take") as take:
        backend.open()
    return take.call_args.args[0]


def dsn_of(options):
    query = "&".join(f"{name}={quote(value)}" for name, value in options.items())
    return f"submission://me%40example.com@127.0.0.1?{query}"


def built_in_dsn():
    return {
        "oauth2": "client_credentials",
        "oauth2_token_url": "https://login.example.com/token",
        "oauth2_client_id": "my-id",
        "oauth2_client_secret": SECRET,
    }


@pytest.mark.parametrize(
    "command",
    [["checkemailhosts", "--connect"], ["sendtestemailhosts", "shop", "a@example.net"]],
)
@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("AUTH XOAUTH2", "no OAuth 2.0 token from 127.0.0.1: invalid_client"),
        ("AUTH PLAIN", "server does not offer XOAUTH2, which 'oauth2' needs; it offers PLAIN"),
    ],
)
def test_command_tells_why_there_is_no_login(
    given, problem, command, serve_tls, start_token_server, settings, host
):
    refusal = {"error": "invalid_client", "error_description": f"no {SECRET}\nfor {USER}"}
    answers = [refusal] if "XOAUTH2" in given else []
    options = built_in(start_token_server(*answers))
    dsn = host(serve_tls({}, extensions=[given]), **options)
    settings.EMAIL_HOSTS = {"shop": dsn.replace("submission:", "submissions:")}
    out = StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(*command, stdout=out)
    text = f"{out.getvalue()} {caught.value}"
    assert problem in text
    assert not any(secret in text for secret in [*SECRETS, USER])


def test_outbox_takes_the_place_of_the_host_in_tests(mailoutbox, message):
    connection = get_connection("shop", password="", oauth2=Tokens(TOKEN))
    connection.send_messages([message])
    assert [one.sent_using for one in mailoutbox] == ["shop"]


def refuse(request):
    """Answer as a server does that repeats what it has got."""
    answer = {"error": "invalid_client", "error_description": f"{SECRET} {REFRESH}"}
    request.send_response(400)
    request.end_headers()
    request.wfile.write(json.dumps(answer).encode())


def hang_up(request):
    request.connection.shutdown(2)


def interrupt(request):
    """Interrupt the client, which is the main thread, while it waits for the answer."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
    request.rfile.read()  # until the client has gone


def give_token(request):
    request.send_response(200)
    request.end_headers()
    request.wfile.write(json.dumps({"access_token": TOKEN, "expires_in": 60}).encode())


def raise_token(username, *, renew):
    raise LookupError(TOKEN)


def bad_token(username, *, renew):
    return f"{TOKEN}\r\n"


def challenge(step, argument):
    """Refuse a login with a challenge that repeats the token."""
    if step == "AUTH":
        return f"334 {b64encode(TOKEN.encode()).decode()}"
    return f"535 no {TOKEN} {argument}" if not step else None


def at_auth(reply):
    return lambda step, argument: reply.format(argument) if step == "AUTH" else None


def interrupt_smtp(step, argument):
    if step != "AUTH":
        return None
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
    return HANG


def mail_refused(step, argument):
    answers = {"AUTH": "235 welcome", "MAIL": f"550 no {TOKEN}"}
    return answers.get(step)


# What the token server does, or the path of a callable, and what the SMTP server does.
FAILURES: dict[str, tuple[Any, Any]] = {
    "refused by the token server": (refuse, None),
    "lost by the token server": (hang_up, None),
    "interrupted at the token server": (interrupt, None),
    "callable that raises": (f"{__name__}.raise_token", None),
    "callable that returns nonsense": (f"{__name__}.bad_token", None),
    "refused": (give_token, at_auth(f"535 {{}} {TOKEN}")),
    "refused with a challenge": (give_token, challenge),
    "bad challenge": (give_token, at_auth("334 !!!notb64=a")),
    "later": (give_token, at_auth(f"454 {{}} {TOKEN}")),
    "lost": (give_token, at_auth(CLOSE)),
    "interrupted": (give_token, interrupt_smtp),
    "MAIL refused": (give_token, mail_refused),
}


def test_connection_of_a_receiver_has_a_token_of_its_own(serve, tls, backend, message):
    """A server that repeats the token of the first connection does not show it, either."""
    script = any_of(
        at("AUTH", "235 welcome", "235 welcome"), at("MAIL", None, None, f"550 no {TOKEN}")
    )
    server = serve(script, extensions=["AUTH XOAUTH2"], context=tls)
    connection = backend(server, Tokens(TOKEN, "another"), use_tls=False, use_ssl=True)

    def send_another(**told: Any) -> None:
        connection.send_messages([message])

    message_sent.connect(send_another)
    try:
        with pytest.raises(smtplib.SMTPSenderRefused, match=r"no \*\*\*\*\*"):
            connection.send_messages(iter([message, message]))
    finally:
        message_sent.disconnect(send_another)
    assert server.connections == 2


class TestSecrets:
    """No frame, text or log record of a failure shows a secret or a token."""

    @pytest.fixture(params=["http", "https"])
    def way(self, request, monkeypatch, cafile):
        """How the token server is spoken to."""
        if request.param == "https":
            monkeypatch.setenv("SSL_CERT_FILE", str(cafile))
            tls_module._context.cache_clear()
        yield request.param
        tls_module._context.cache_clear()

    @pytest.fixture
    def shop(self, failure, way, serve, tls, cafile, start_token_server, settings):
        """The host ``shop``, whose sends fail so, and ``all`` that sends through it."""
        at_token_server, at_smtp = FAILURES[failure]
        server = serve(at_smtp, extensions=["AUTH XOAUTH2"], context=tls)
        options = {"oauth2": at_token_server, "ssl_cafile": str(cafile), "timeout": "20"}
        if not isinstance(at_token_server, str):
            token_server = start_token_server(at_token_server)
            if way == "https":
                token_server.start_tls(tls)
            options |= built_in(token_server, "refresh_token")
        query = "&".join(f"{name}={quote(value)}" for name, value in options.items())
        dsn = f"submissions://me%40example.com@127.0.0.1:{server.port}?{query}"
        settings.EMAIL_HOSTS = {"shop": dsn, "all": "failover:shop"}

    @pytest.fixture(autouse=True)
    def signals(self):
        def stop(number, frame):
            raise Stop

        handler = signal.signal(signal.SIGUSR1, stop)
        yield
        signal.signal(signal.SIGUSR1, handler)

    @pytest.mark.usefixtures("shop")
    @pytest.mark.parametrize("key", ["shop", "all"])
    @pytest.mark.parametrize("failure", FAILURES)
    def test_are_not_shown(self, key, caplog):
        caplog.set_level(logging.DEBUG)
        caught = failure_of(key)
        html, text = reports_of(None, (type(caught.value), caught.value, caught.tb))
        shown = [*(tool(caught) for tool in TOOLS), html, text, caplog.text]
        assert [secret for secret in [*SECRETS, USER] for one in shown if secret in one] == []


@pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")  # ssl leaves it open
def test_interruption_of_a_request_shows_no_secret(settings):
    """The server has accepted the connection, and does not answer to TLS."""

    def stop(number, frame):
        raise Stop

    def accept():
        with listener.accept()[0] as client:
            client.recv(1)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            client.makefile("rb").read()

    handler = signal.signal(signal.SIGUSR1, stop)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/token"
        options = {**built_in_dsn(), "oauth2_token_url": url}
        settings.EMAIL_HOSTS = {"shop": dsn_of(options)}
        try:
            caught = failure_of("shop")
        finally:
            signal.signal(signal.SIGUSR1, handler)
        thread.join()
    assert isinstance(caught.value, Stop)
    assert [tool for tool in TOOLS if SECRET in tool(caught)] == []


def failure_of(key):
    """Return how a send fails. This frame holds no secret."""
    message = EmailMessage("Hello", "World", "a@example.com", ["b@example.net"])
    with pytest.raises((OSError, Stop)) as caught:
        get_connection(key).send_messages([message])
    return caught
