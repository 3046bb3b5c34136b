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
from io import StringIO
from types import ModuleType
from typing import Any
from unittest import mock
from urllib.parse import quote

import pytest
from conftest import mails
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.core.management import CommandError, call_command
from scripted import CLOSE, HANG, always, any_of, at
from servers import XOAuth2Server, server_context
from test_attacks import Stop
from test_debug import reports_of
from test_readme import the_one
from test_sentry import TOOLS

from email_hosts.backends import EmailHostsBackend, can_be_retried, get_connection
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
def dsn_of(cafile):
    """Make the DSN of a host that logs in to this server."""

    def dsn_of(server, scheme="submission", **options):
        given = {"ssl_cafile": cafile, "timeout": 20, **options}
        query = "&".join(f"{name}={quote(str(value))}" for name, value in given.items())
        return f"{scheme}://me%40example.com@127.0.0.1:{server.port}?{query}"

    return dsn_of


@pytest.fixture
def backend(cafile):
    """Make a connection to this server that has a callable for its tokens."""

    def backend(server, oauth2, **options):
        given = {"username": USER, "timeout": 20, "ssl_cafile": str(cafile), **options}
        return EmailHostsBackend("127.0.0.1", server.port, oauth2=oauth2, **given)

    return backend


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


class TestSend:
    """A message is sent after a login with a token."""

    @pytest.mark.usefixtures("trusted")
    @pytest.mark.parametrize(
        ("grant", "parallel"), [("client_credentials", 1), ("refresh_token", 4)]
    )
    def test_that_is_built_in(
        self, grant, parallel, start_smtp, start_token_server, tls, dsn_of, settings
    ):
        server, token_server = start_smtp("token-1"), start_token_server()
        token_server.start_tls(tls)
        options = {**built_in(token_server.url, grant), "parallel": parallel}
        settings.EMAIL_HOSTS = {"shop": dsn_of(server, **options)}
        for _ in range(2):
            assert get_connection("shop").send_messages(mails(*"abcdefgh")) == 8
        assert set(server.logins) == {(USER, "token-1")}
        assert [form["grant_type"] for form in token_server.forms] == [grant]
        assert {(one.user, one.tls) for one in server.received} == {(USER, True)}


class TestRenewal:
    """A token that the server refuses with 535 is renewed, once."""

    @pytest.mark.parametrize(
        ("given", "logins", "error"),
        [
            (["old", "new"], ["old", "new"], None),
            ([TOKEN, f"{TOKEN}-2"], [TOKEN, f"{TOKEN}-2"], REFUSED),
            ([TOKEN, TOKEN], [TOKEN], REFUSED),  # it gets the same again
            ([TOKEN, None], [TOKEN], OAuth2Error),
        ],
    )
    def test_is_tried_once(self, given, logins, error, start_smtp, backend):
        server, tokens = start_smtp("new"), mock.Mock(side_effect=given)
        connection = backend(server, tokens, use_tls=True)
        if error is None:
            assert connection.send_messages(mails("a")) == 1
        else:
            with pytest.raises(error) as caught:
                connection.send_messages(mails("a"))
            assert type(caught.value) is error
            assert can_be_retried(caught.value)
            assert TOKEN not in f"{caught.value} {caught.value.__context__}"
        assert tokens.mock_calls == [OLD_TOKEN, NEW_TOKEN]
        assert server.logins == [(USER, token) for token in logins]

    def test_is_for_no_other_refusal(self, serve_tls, backend):
        server = serve_tls(always("AUTH", f"454 later, {TOKEN}"))
        tokens = mock.Mock(return_value=TOKEN)
        with pytest.raises(REFUSED) as caught:
            backend(server, tokens, use_ssl=True).send_messages(mails("a"))
        assert caught.value.args == (454, b"later, *****")
        assert tokens.mock_calls == [OLD_TOKEN]

    def test_replaces_the_one_that_is_kept(
        self, start_smtp, start_token_server, dsn_of, settings
    ):
        server, token_server = start_smtp(), start_token_server()
        settings.EMAIL_HOSTS = {"shop": dsn_of(server, **built_in(token_server.url))}
        for good in ("token-1", "token-2", "token-2"):
            server.tokens = {good}
            get_connection("shop").send_messages(mails("a"))
        logins = [token for _, token in server.logins]
        assert logins == ["token-1", "token-1", "token-2", "token-2"]
        assert len(token_server.forms) == 2


class TestFailure:
    """A token that cannot be had is a login that failed."""

    REASON = "no OAuth 2.0 token from 127.0.0.1: invalid_client: AADSTS7000215"

    @pytest.fixture(autouse=True)
    def spare(self, serve_tls, start_token_server, start_server, dsn_of, settings):
        """The server of another host. The token server of ``shop`` refuses."""
        text = f"AADSTS7000215: {SECRET}\n{USER}"
        refusal = {"error": "invalid_client", "error_description": text}
        options = built_in(start_token_server(refusal).url)
        spare = start_server()
        settings.EMAIL_HOSTS = {
            "shop": dsn_of(serve_tls(), "submissions", **options),
            "spare": f"smtp://127.0.0.1:{spare.port}",
            "both": "failover:shop,spare",
        }
        return spare

    def test_says_why(self, caplog):
        with pytest.raises(REFUSED) as caught:
            get_connection("shop").send_messages(mails("a"))
        assert str(caught.value) == self.REASON
        assert can_be_retried(caught.value)
        assert str(pickle.loads(pickle.dumps(caught.value))) == self.REASON
        assert get_connection("shop", fail_silently=True).send_messages(mails("a")) == 0
        assert "AADSTS7000215, ignored by fail_silently" in caplog.text

    def test_next_host_takes_over(self, spare, caplog):
        assert get_connection("both").send_messages(mails("a")) == 1
        assert len(spare.received) == 1
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
    """A token is asked for only when a connection is opened."""

    def test_needs_no_token(self, start_smtp, backend):
        server = start_smtp("a", "b")
        tokens, others = mock.Mock(return_value="a"), mock.Mock(return_value="b")
        for given in (tokens, tokens, others, tokens):
            backend(server, given, use_tls=True, conn_max_age=60).send_messages(mails("a"))
        assert [token for _, token in server.logins] == ["a", "b"]
        assert (tokens.call_count, len(server.received)) == (1, 4)

    @pytest.mark.parametrize(
        "change",
        [
            *({"username": "you"}, {"oauth2_token_url": "{}?a=b"}),
            *({f"oauth2_{name}": "x"} for name in ("client_id", "client_secret", "scope")),
        ],
    )
    def test_is_for_the_same_options(self, change, start_smtp, start_token_server, backend):
        server, url = start_smtp("token-1", "token-2"), start_token_server().url
        options = {**built_in(url), "use_tls": True, "conn_max_age": 60}
        changed = {name: value.format(url) for name, value in change.items()}
        for given in (options, options, {**options, **changed}):
            backend(server, **given).send_messages(mails("a"))
        assert len(server.logins) == 2

    def test_shows_no_token_in_a_later_reply(self, serve_tls, backend):
        server = serve_tls(at("RCPT", None, f"550 not {TOKEN}"))
        options = {"use_ssl": True, "conn_max_age": 60}
        tokens = mock.Mock(return_value=TOKEN)
        backend(server, tokens, **options).send_messages(mails("a"))
        with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
            backend(server, tokens, **options).send_messages(mails("a"))
        assert [*caught.value.recipients.values()] == [(550, b"not *****")]


def interrupt():
    """Interrupt the client, which is the main thread, while it waits for an answer."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def interrupt_request(request):
    interrupt()
    request.rfile.read()  # until the client has gone


def interrupt_at(step):
    def script(name, argument):
        return HANG if name == step and not interrupt() else None

    return script


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
    "interrupted": (GIVE_TOKEN, interrupt_at("AUTH")),
    "MAIL refused": (GIVE_TOKEN, always("MAIL", f"550 no {TOKEN}")),
}


class TestSecrets:
    """No frame, text or log record of a failure shows a secret or a token."""

    @pytest.fixture
    def hosts(self, failure, ca, start_token_server, serve_tls, dsn_of, settings):
        """The host ``shop``, whose sends fail so, and ``all`` that sends through it."""
        given, *scripts = FAILURES[failure]
        options = {"oauth2": given}
        if not isinstance(given, str):
            context = server_context(ca.issue_cert("127.0.0.1"))
            if failure == "interrupted in TLS":
                context.sni_callback = lambda *args: interrupt()
            token_server = start_token_server(given)
            token_server.start_tls(context)
            options = built_in(token_server.url, "refresh_token")
        dsn = dsn_of(serve_tls(*scripts), "submissions", **options)
        settings.EMAIL_HOSTS = {"shop": dsn, "all": "failover:shop"}

    @pytest.fixture
    def interruptions(self):
        def stop(number, frame):
            raise Stop

        handler = signal.signal(signal.SIGUSR1, stop)
        yield
        signal.signal(signal.SIGUSR1, handler)

    @pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")  # ssl leaves it open
    @pytest.mark.usefixtures("trusted", "hosts", "interruptions")
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
    start_token_server, start_smtp, backend, monkeypatch, tmp_path
):
    """With google-auth. It tells why there is no token."""
    answers = [{"access_token": f"token-{number}", "expires_in": 3600} for number in (1, 2)]
    refusal = {"error": "invalid_grant", "error_description": "AADSTS7: no"}
    token_server = start_token_server(*answers, refusal)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {"client_email": "shop@project.example", "private_key": key.decode()}
    path = tmp_path / "account.json"
    path.write_text(json.dumps({**account, "token_uri": token_server.url}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    module = ModuleType("google")
    exec(the_one("# shop/google.py"), vars(module))
    server = start_smtp()
    for good in ("token-1", "token-1", "token-2"):
        server.tokens = {good}
        backend(server, module.token, use_tls=True).send_messages(mails("a"))
    logins = [each for _, each in server.logins]
    assert logins == ["token-1", "token-1", "token-1", "token-2"]
    assert len(token_server.forms) == 2
    with pytest.raises(OAuth2Error, match="invalid_grant: AADSTS7: no"):
        module.token(USER, renew=True)
