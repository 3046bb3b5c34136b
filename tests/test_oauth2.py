"""Hosts that log in with OAuth 2.0, from the option to the message that is accepted."""

from __future__ import annotations

import json
import logging
import pickle
import signal
import smtplib
import threading
from base64 import b64encode
from contextlib import ExitStack
from functools import partial
from io import StringIO
from types import ModuleType
from typing import Any
from unittest import mock
from urllib.parse import urlencode

import pytest
from conftest import mails
from django.core.management import CommandError, call_command
from scripted import CLOSE, HANG, always, any_of, at
from servers import XOAuth2Server, server_context
from test_attacks import Stop, stop
from test_debug import reports_of
from test_readme import the_one
from test_sentry import TOOLS
from trustme import KeyType

from email_hosts.backends import can_be_retried, get_connection
from email_hosts.exceptions import OAuth2Error
from email_hosts.smtp import tls as tls_module

USER = "me@example.com"
SECRET, REFRESH, TOKEN = "Kx7vQz9-secret", "Wj4bYt2-refresh", "Zq8nRp5-token"
SECRETS = [
    encoded
    for secret in (SECRET, REFRESH, TOKEN, f"user={USER}\1auth=Bearer {TOKEN}\1\1")
    for encoded in (secret, b64encode(secret.encode()).decode().rstrip("="))
]
REFUSED = smtplib.SMTPAuthenticationError
OLD_TOKEN, NEW_TOKEN = mock.call(USER, renew=False), mock.call(USER, renew=True)


@pytest.fixture
def start_smtp(tls):
    """Start an SMTP server that takes these tokens."""
    with ExitStack() as stack:
        yield lambda *good: stack.enter_context(XOAuth2Server(tokens=good, context=tls))


@pytest.fixture
def serve_tls(serve, tls):
    """Start a scripted server that speaks TLS from the first byte."""

    def start(*scripts):
        script = any_of(*scripts, always("AUTH", "235 welcome"))
        return serve(script, extensions=["AUTH XOAUTH2"], context=tls)

    return start


@pytest.fixture
def host(cafile, settings):
    """Make the host ``shop`` of this server. Return what makes connections to it."""

    def host(server, scheme="submission", **options):
        given = {"ssl_cafile": cafile, "timeout": 20, "oauth2": f"{__name__}.raise_token"}
        dsn = f"{scheme}://me%40example.com@127.0.0.1:{server.port}"
        settings.EMAIL_HOSTS = {
            "shop": f"{dsn}?{urlencode({**given, **options})}",
            "spare": "console:",
            "all": "failover:shop",
            "both": "failover:shop,spare",
        }
        return partial(get_connection, "shop")

    return host


@pytest.fixture
def trusted(monkeypatch, cafile):
    """The system trusts our certificate authority."""
    monkeypatch.setenv("SSL_CERT_FILE", str(cafile))
    tls_module._context.cache_clear()
    yield
    tls_module._context.cache_clear()


def built_in(url, grant="client_credentials"):
    """Return the options of a host that asks for its tokens at this URL."""
    options = {"oauth2": grant, "oauth2_token_url": url, "oauth2_client_id": "my-id"}
    if grant == "refresh_token":
        options["oauth2_refresh_token"] = REFRESH
    return {**options, "oauth2_client_secret": SECRET}


@pytest.mark.usefixtures("trusted")
def test_messages_are_sent_with_one_token(start_smtp, start_token_server, tls, host):
    server, token_server = start_smtp("token-1"), start_token_server()
    token_server.start_tls(tls)
    connect = host(server, **built_in(token_server.url, "refresh_token"), parallel=4)
    for _ in range(2):
        assert connect().send_messages(mails(*"abcdefgh")) == 8
    assert set(server.logins) == {(USER, "token-1")}
    assert len(token_server.forms) == 1
    assert {(one.user, one.tls) for one in server.received} == {(USER, True)}


class TestRenewal:
    """A token that the server refuses with 535 is renewed, once."""

    @pytest.mark.parametrize(
        ("given", "logins", "error"),
        [
            ([TOKEN, f"{TOKEN}-2"], [TOKEN, f"{TOKEN}-2"], REFUSED),
            ([TOKEN, TOKEN], [TOKEN], REFUSED),  # it gets the same again
            ([TOKEN, None], [TOKEN], OAuth2Error),
        ],
    )
    def test_is_tried_once(self, given, logins, error, start_smtp, host):
        server, tokens = start_smtp(), mock.Mock(side_effect=given)
        with pytest.raises(error) as caught:
            host(server)(oauth2=tokens).send_messages(mails("a"))
        assert type(caught.value) is error
        assert TOKEN not in f"{caught.value} {caught.value.__context__}"
        assert tokens.mock_calls == [OLD_TOKEN, NEW_TOKEN]
        assert server.logins == [(USER, token) for token in logins]

    def test_is_for_no_other_refusal(self, serve_tls, host):
        connect = host(serve_tls(always("AUTH", f"454 later, {TOKEN}")), "submissions")
        tokens = mock.Mock(return_value=TOKEN)
        with pytest.raises(REFUSED, match=r"454, b'later, \*{5}'"):
            connect(oauth2=tokens).send_messages(mails("a"))
        assert tokens.mock_calls == [OLD_TOKEN]


class TestFailure:
    """A token that cannot be had is a login that failed."""

    REASON = "no OAuth 2.0 token from 127.0.0.1: invalid_client: AADSTS7000215"

    @pytest.fixture(autouse=True)
    def connect(self, serve_tls, start_token_server, host):
        text = f"AADSTS7000215: {SECRET}\n{USER}"
        refusal = {"error": "invalid_client", "error_description": text}
        options = built_in(start_token_server(refusal).url)
        return host(serve_tls(), "submissions", **options)

    def test_says_why(self, connect, caplog):
        with pytest.raises(REFUSED) as caught:
            connect().send_messages(mails("a"))
        assert str(caught.value) == self.REASON
        assert can_be_retried(caught.value)
        assert str(pickle.loads(pickle.dumps(caught.value))) == self.REASON
        assert connect(fail_silently=True).send_messages(mails("a")) == 0
        assert "AADSTS7000215, ignored by fail_silently" in caplog.text
        assert get_connection("both").send_messages(mails("a")) == 1
        assert f'host "shop" failed: OAuth2Error: {self.REASON}' in caplog.text

    @pytest.mark.parametrize(
        "command",
        [["checkemailhosts", "--connect"], ["sendtestemailhosts", "shop", "a@example.net"]],
    )
    def test_command_tells_why_without_secrets(self, command):
        out = StringIO()
        with pytest.raises(CommandError) as caught:
            call_command(*command, stdout=out)
        text = f"{out.getvalue()} {caught.value}"
        assert self.REASON in text
        assert not any(secret in text for secret in [*SECRETS, USER])


class TestKeptConnection:
    """It needs no token, and is for hosts that have the same options."""

    @pytest.mark.parametrize(
        "name",
        ["username", *(f"oauth2_{each}" for each in ("client_id", "client_secret", "scope"))],
    )
    def test_is_taken_with_the_same_options(self, name, start_smtp, start_token_server, host):
        server, options = start_smtp("token-1", "token-2"), built_in(start_token_server().url)
        connect = host(server, **options, conn_max_age=60)
        for changed in ({}, {}, {name: "x"}):
            connect(**changed).send_messages(mails("a"))
        assert (len(server.logins), len(server.received)) == (2, 3)

    def test_shows_no_token_in_a_later_reply(self, serve_tls, host):
        server = serve_tls(at("RCPT", None, f"550 not {TOKEN}"))
        connect = host(server, "submissions", conn_max_age=60)
        tokens = mock.Mock(return_value=TOKEN)
        connect(oauth2=tokens).send_messages(mails("a"))
        with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
            connect(oauth2=tokens).send_messages(mails("a"))
        assert [*caught.value.recipients.values()] == [(550, b"not *****")]


def interrupt(*args):
    """Interrupt the client, which is the main thread, while it waits for an answer."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def interrupt_request(request):
    interrupt()
    request.rfile.read()  # until the client has gone


def interrupt_login(step, argument):
    return HANG if step == "AUTH" and not interrupt() else None


def bad_token(username, *, renew):
    return f"{TOKEN}\r\n"


def raise_token(username, *, renew):
    raise LookupError(TOKEN)


def repeat(reply):
    """Refuse a login with a text that repeats what came."""
    return lambda step, argument: reply.format(argument) if step == "AUTH" else None


CHALLENGE = any_of(
    always("AUTH", f"334 {b64encode(TOKEN.encode()).decode()}"), always("", f"535 no {TOKEN}")
)


# What the token server does, or the path of a callable, and what the SMTP server does.
GIVE_TOKEN = {"access_token": TOKEN, "expires_in": 60}
REPEATED = {"error": "invalid_client", "error_description": f"{SECRET} {REFRESH}"}
FAILURES: dict[str, tuple[Any, ...]] = {
    "refused by the token server": (REPEATED,),
    "lost by the token server": (lambda request: request.connection.shutdown(2),),
    "interrupted at the token server": (interrupt_request,),
    "interrupted in TLS": (GIVE_TOKEN,),
    "callable that raises": (f"{__name__}.raise_token",),
    "callable that returns nonsense": (f"{__name__}.bad_token",),
    "refused": (GIVE_TOKEN, repeat(f"535 {{}} {TOKEN}")),
    "refused with a challenge": (GIVE_TOKEN, CHALLENGE),
    "bad challenge": (GIVE_TOKEN, always("AUTH", "334 !!!notb64=a")),
    "later": (GIVE_TOKEN, repeat(f"454 {{}} {TOKEN}")),
    "lost": (GIVE_TOKEN, always("AUTH", CLOSE)),
    "interrupted": (GIVE_TOKEN, interrupt_login),
    "MAIL refused": (GIVE_TOKEN, always("MAIL", f"550 no {TOKEN}")),
}


class TestSecrets:
    """No frame, text or log record of a failure shows a secret or a token."""

    @pytest.fixture
    def hosts(self, failure, ca, start_token_server, serve_tls, host):
        """The host ``shop``, whose sends fail so, and ``all`` that sends through it."""
        given, *scripts = FAILURES[failure]
        options = {"oauth2": given}
        if not isinstance(given, str):
            context = server_context(ca.issue_cert("127.0.0.1"))
            if failure == "interrupted in TLS":
                context.sni_callback = interrupt
            token_server = start_token_server(given)
            token_server.start_tls(context)
            options = built_in(token_server.url, "refresh_token")
        host(serve_tls(*scripts), "submissions", **options)
        handler = signal.signal(signal.SIGUSR1, stop)
        yield
        signal.signal(signal.SIGUSR1, handler)

    @pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")  # ssl leaves it open
    @pytest.mark.usefixtures("trusted", "hosts")
    @pytest.mark.parametrize("key", ["shop", "all"])
    @pytest.mark.parametrize("failure", FAILURES)
    def test_are_not_shown(self, failure, key, caplog):
        caplog.set_level(logging.DEBUG)
        caught = failure_of(key)
        assert isinstance(caught.value, Stop) is failure.startswith("interrupted")
        html, text = reports_of(None, (type(caught.value), caught.value, caught.tb))
        shown = [*(tool(caught) for tool in TOOLS), html, text, caplog.text]
        assert [secret for secret in [*SECRETS, USER] for one in shown if secret in one] == []


def failure_of(key):
    """Return how a send fails. This frame holds no secret."""
    with pytest.raises((OSError, Stop)) as caught:
        get_connection(key).send_messages(mails("a"))
    return caught


def test_function_of_the_readme_keeps_its_token_and_renews_it(
    ca, start_token_server, start_smtp, host, monkeypatch, tmp_path
):
    """With google-auth. It tells why there is no token."""
    answers = [{"access_token": f"token-{number}", "expires_in": 3600} for number in (1, 2)]
    refusal = {"error": "invalid_grant", "error_description": "AADSTS7: no"}
    token_server = start_token_server(*answers, refusal)
    key = ca.issue_cert("shop", key_type=KeyType.RSA).private_key_pem.bytes().decode()
    account = {"client_email": "shop@project.example", "private_key": key}
    path = tmp_path / "account.json"
    path.write_text(json.dumps({**account, "token_uri": token_server.url}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    module = ModuleType("google")
    exec(the_one("# shop/google.py"), vars(module))
    server = start_smtp()
    for good in ("token-1", "token-1", "token-2"):
        server.tokens = {good}
        host(server)(oauth2=module.token).send_messages(mails("a"))
    assert [each for _, each in server.logins] == ["token-1"] * 3 + ["token-2"]
    assert len(token_server.forms) == 2
    with pytest.raises(OAuth2Error, match="invalid_grant: AADSTS7: no"):
        module.token(USER, renew=True)
