"""The login with a token or a password, with servers that misbehave, too."""

from __future__ import annotations

import hmac
import smtplib
from base64 import b64encode
from contextlib import closing
from unittest import mock

import pytest
from scripted import AND_CLOSE, CLOSE, RESET

from email_hosts.smtp.connection import SMTP
from email_hosts.smtp.login import log_in

USERNAME, PASSWORD, TOKEN = "me@example.com", "secret", "Kx7vQz9.Wj4bYt2"
START = f"user={USERNAME}\1auth=Bearer "


def base64(text):
    return b64encode(text.encode()).decode()


def challenge(text):
    return f"334 {b64encode(text).decode()}"


def exchange(serve, offered, *replies, **secret):
    """Log in to a server with these replies to AUTH and to what follows.

    Return the commands that it got, and the error.
    """
    coming = iter(replies)

    def script(step, argument):
        return None if step in ("banner", "EHLO", "QUIT") else next(coming, None)

    server = serve(script, extensions=[offered] if offered else [])
    caught = None
    with closing(SMTP("127.0.0.1", server.port, timeout=20)) as connection:
        try:
            log_in(connection, USERNAME, **secret)
        except smtplib.SMTPException as error:
            caught = error
    server.wait_for_clients_to_go()
    return server.commands[1:], caught


def with_token(serve, *replies, offered="AUTH LOGIN XOAUTH2", token=TOKEN):
    return exchange(serve, offered, *replies, token=token)


def with_password(serve, *replies, offered="AUTH LOGIN PLAIN"):
    return exchange(serve, offered, *replies, password=PASSWORD)


@pytest.mark.parametrize("offered", ["AUTH xoauth2", "AUTH=XOAUTH2", "AUTH LOGIN XOAUTH2"])
def test_token_travels_with_the_command(offered, serve):
    initial = base64(f"{START}{TOKEN}\1\1")
    commands = [f"AUTH XOAUTH2 {initial}"]
    assert with_token(serve, "235 welcome", offered=offered) == (commands, None)


def test_line_after_a_challenge_is_empty(serve):
    (_, line), error = with_token(serve, challenge(b"go on"), "235 welcome")
    assert (line, error) == ("", None)


LONG = b"x" * 490 + b" "
SAID = b'{"status":"400",\r\n"scope":"https://mail.google.com/"}'


@pytest.mark.parametrize(
    ("log_in", "replies", "told"),
    [
        (with_token, ["535 5.7.3 unsuccessful"], "535 5.7.3 unsuccessful"),
        (with_token, ["454 no"], "454 no"),
        (with_token, ["504 no"], "504 no"),
        # The challenge says why, and may be anything.
        (
            with_token,
            [challenge(SAID), "535 no"],
            '535 no; {"status":"400", "scope":"https://mail.google.com/"}',
        ),
        (with_token, [challenge(b""), "535 no"], "535 no"),
        (
            with_token,
            [challenge(b"\xff\x00"), "535 no"],
            "535 no; \N{REPLACEMENT CHARACTER}\\x00",
        ),
        (with_token, [challenge(b"x" * 5000), "535 no"], f"535 no; {'x' * 500}"),
        (
            with_token,
            [challenge(b"late") + AND_CLOSE],
            "535 the server has ended the connection; late",
        ),
        # Secrets are starred out before the text is cut.
        (
            with_token,
            [challenge(LONG + TOKEN.encode()), "535 no"],
            f"535 no; {LONG.decode()}*****",
        ),
        (
            with_token,
            [challenge(LONG + base64(TOKEN).encode()), "535 no"],
            f"535 no; {LONG.decode()}*****",
        ),
        # Of two refusals the first is told, also if the second is the end, or nonsense.
        (
            with_password,
            ["535 5.7.8 first" + AND_CLOSE],
            "535 5.7.8 first (and then it closes)",
        ),
        (with_password, ["535 first", CLOSE], "535 first"),
        (with_password, ["535 first", RESET], "535 first"),
        (with_password, ["535 first", "454 second"], "535 first"),
        (with_password, ["535 first", "334 x", "535 second"], "535 first"),
        (with_password, ["421 too many" + AND_CLOSE], "421 too many (and then it closes)"),
    ],
)
def test_refusal_is_told(log_in, replies, told, serve):
    _, error = log_in(serve, *replies)
    assert type(error) is smtplib.SMTPAuthenticationError
    assert error.args == (int(told[:3]), told[4:].encode())
    assert error.__context__ is None or log_in is with_password


@pytest.mark.parametrize(
    ("log_in", "offered", "told"),
    [
        (with_token, "AUTH PLAIN LOGIN", "it offers PLAIN LOGIN"),
        (with_token, "AUTH XOAUTH2-PLUS", "it offers XOAUTH2-PLUS"),
        (with_token, "", "AUTH extension not supported"),
        (with_password, "AUTH NTLM GSSAPI", "with a password; it offers NTLM GSSAPI"),
        (with_password, "AUTH", "with a password; it offers nothing"),
        (with_password, "", "AUTH extension not supported"),
    ],
)
def test_server_without_a_way_gets_no_secret(log_in, offered, told, serve):
    commands, error = log_in(serve, offered=offered)
    assert commands == []
    assert isinstance(error, smtplib.SMTPNotSupportedError)
    assert told in str(error)


@pytest.mark.parametrize(
    ("log_in", "offered", "replies", "told"),
    [
        (with_token, "AUTH XOAUTH2", [CLOSE], "unexpectedly closed"),
        (with_token, "AUTH XOAUTH2", [challenge(b"again")] * 20, "infinite loop"),
        (with_password, "AUTH CRAM-MD5 LOGIN", [CLOSE], "unexpectedly closed"),
        (with_password, "AUTH CRAM-MD5 LOGIN", ["334 x"], "challenge makes no sense"),
    ],
)
def test_what_is_no_refusal_is_told_as_it_is(log_in, offered, replies, told, serve):
    _, error = log_in(serve, *replies, offered=offered)
    assert told in str(error)


class TestLongToken:
    """A command line has 512 octets at most (RFC 4954, 4). A line that answers has more."""

    def initial(self, length):
        """Return a token with a command line of this length, and its base64."""
        size = (length - len("AUTH XOAUTH2 \r\n")) // 4 * 3
        token = "x" * (size - len(START) - 2)
        return token, base64(f"{START}{token}\1\1")

    def test_of_the_limit_travels_with_the_command(self, serve):
        token, initial = self.initial(512)
        (command,), _ = with_token(serve, "235 welcome", token=token)
        assert command == f"AUTH XOAUTH2 {initial}"
        assert 508 < len(command) + 2 <= 512

    def test_beyond_the_limit_travels_behind_it(self, serve):
        token, initial = self.initial(516)
        commands, _ = with_token(serve, "334 ", "235 welcome", token=token)
        assert commands == ["AUTH XOAUTH2", initial]

    def test_beyond_the_limit_is_refused_with_a_reason_as_well(self, serve):
        replies = ["334 ", challenge(b"expired"), "535 no"]
        _, error = with_token(serve, *replies, token="x" * 4000)
        assert error.smtp_error == b"no; expired"


class TestPassword:
    def test_goes_by_the_first_mechanism_of_smtplib(self, serve):
        credentials = base64(f"\0{USERNAME}\0{PASSWORD}")
        commands, _ = with_password(serve, "235 welcome")
        assert commands == [f"AUTH PLAIN {credentials}"]

    def test_that_is_refused_is_tried_another_way(self, serve):
        replies = ["535 no", challenge(b"Password:"), "235 welcome"]
        commands, error = with_password(serve, *replies)
        assert error is None
        assert [command.split()[1] for command in commands[:2]] == ["PLAIN", "LOGIN"]


class TestWithoutMD5:
    """A system in FIPS mode forbids it. That is no fault of the server."""

    @pytest.fixture(autouse=True)
    def fips(self, monkeypatch):
        error = ValueError("unsupported hash type md5")
        monkeypatch.setattr(hmac, "HMAC", mock.Mock(side_effect=error))

    def test_another_mechanism_is_taken(self, serve):
        (command,), _ = with_password(serve, "235 welcome", offered="AUTH CRAM-MD5 PLAIN")
        assert command.startswith("AUTH PLAIN ")

    def test_without_another_it_is_told(self, serve):
        _, error = with_password(serve, offered="AUTH CRAM-MD5 NTLM")
        assert "without MD5" in str(error)
        assert str(error).endswith("it offers CRAM-MD5 NTLM")


class TestSmtplib:
    """What others have replaced in smtplib is used."""

    def test_mock_sees_the_login_with_a_token(self):
        with mock.patch("smtplib.SMTP", autospec=True) as mocked:
            log_in(mocked.return_value, USERNAME, token=TOKEN)
        ((mechanism, respond), _) = mocked.return_value.auth.call_args
        assert (mechanism, respond()) == ("XOAUTH2", f"{START}{TOKEN}\1\1")

    def test_replaced_login_is_called(self, serve):
        with mock.patch.object(smtplib.SMTP, "login") as login:
            assert with_password(serve) == ([], None)
        assert login.call_count == 1
