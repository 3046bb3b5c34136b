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

USERNAME, TOKEN = "me@example.com", "Kx7vQz9.Wj4bYt2"
INITIAL = b64encode(f"user={USERNAME}\1auth=Bearer {TOKEN}\1\1".encode()).decode()
OFFERED = ["AUTH LOGIN XOAUTH2"]


def challenge(text):
    return f"334 {b64encode(text).decode()}"


def exchange(serve, *replies, extensions=OFFERED, **secret):
    """Log in to a server with these replies to AUTH and to what follows; return the rest."""
    coming = iter(replies)

    def script(step, argument):
        return None if step in ("banner", "EHLO", "QUIT") else next(coming, None)

    server = serve(script, extensions=extensions)
    with closing(SMTP("127.0.0.1", server.port, timeout=20)) as connection:
        connection.ehlo()
        log_in(connection, USERNAME, **(secret or {"token": TOKEN}))
    server.wait_for_clients_to_go()
    commands: list[str] = server.commands
    return commands[1:]


def refusal(serve, *replies, **options):
    with pytest.raises(smtplib.SMTPException) as caught:
        exchange(serve, *replies, **options)
    return caught.value


def test_token_travels_with_the_command(serve):
    assert exchange(serve, "235 welcome") == [f"AUTH XOAUTH2 {INITIAL}"]


@pytest.mark.parametrize(
    "extensions", [["AUTH xoauth2"], ["AUTH=XOAUTH2"], [*OFFERED, "SIZE"]]
)
def test_offer_is_found_however_it_is_written(extensions, serve):
    assert len(exchange(serve, "235 welcome", extensions=extensions)) == 1


def test_refusal_is_an_authentication_error(serve):
    error = refusal(serve, "535 5.7.3 Authentication unsuccessful")
    assert type(error) is smtplib.SMTPAuthenticationError
    assert error.args == (535, b"5.7.3 Authentication unsuccessful")
    assert error.__context__ is None


def test_challenge_gets_an_empty_line_and_is_told(serve):
    said = b'{"status":"400",\r\n"scope":"https://mail.google.com/"}'
    error = refusal(serve, challenge(said), "535 5.7.8 not accepted")
    told = '535 5.7.8 not accepted; {"status":"400", "scope":"https://mail.google.com/"}'
    assert f"{error.smtp_code} {error.smtp_error.decode()}" == told


def test_line_after_a_challenge_is_empty(serve):
    commands = exchange(serve, challenge(b"go on"), "235 welcome")
    assert commands == [f"AUTH XOAUTH2 {INITIAL}", ""]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"", b"no"),
        (b"\xff\x00", "no; \N{REPLACEMENT CHARACTER}\\x00".encode()),
        (b"x" * 5000, b"no; " + b"x" * 500),
    ],
    ids=["empty", "binary", "long"],
)
def test_challenge_may_be_anything(said, told, serve):
    assert refusal(serve, challenge(said), "535 no").smtp_error == told


@pytest.mark.parametrize("secret", [TOKEN, b64encode(TOKEN.encode()).decode()])
def test_token_in_a_challenge_is_starred_out_before_the_text_is_cut(secret, serve):
    said = challenge(b"x" * 490 + b" " + secret.encode())
    assert refusal(serve, said, "535 no").smtp_error == b"no; " + b"x" * 490 + b" *****"


def test_challenges_without_end_are_an_error(serve):
    error = refusal(serve, *[challenge(b"again")] * 20)
    assert "infinite loop" in str(error)


@pytest.mark.parametrize("code", [454, 432, 500, 504, 530])
def test_other_refusals_keep_their_code(code, serve):
    assert refusal(serve, f"{code} no").smtp_code == code


def test_lost_connection_is_told(serve):
    assert isinstance(refusal(serve, CLOSE), smtplib.SMTPServerDisconnected)


@pytest.mark.parametrize(
    ("extensions", "offered"),
    [
        (["AUTH PLAIN LOGIN"], "it offers PLAIN LOGIN"),
        (["AUTH XOAUTH2-PLUS"], "it offers XOAUTH2-PLUS"),
        ([], "AUTH extension not supported by server."),
    ],
)
def test_server_without_it_gets_no_token(extensions, offered, serve):
    server = serve(extensions=extensions)
    with (
        closing(SMTP("127.0.0.1", server.port, timeout=20)) as connection,
        pytest.raises(smtplib.SMTPNotSupportedError) as caught,
    ):
        log_in(connection, USERNAME, token=TOKEN)
    assert str(caught.value).endswith(offered)
    server.wait_for_clients_to_go()
    assert not any("AUTH" in command for command in server.commands)


def test_mock_of_smtplib_sees_the_login():
    with mock.patch("smtplib.SMTP", autospec=True) as mocked:
        log_in(mocked.return_value, USERNAME, token=TOKEN)
    ((mechanism, respond), _) = mocked.return_value.auth.call_args
    assert (mechanism, respond()) == ("XOAUTH2", f"user={USERNAME}\1auth=Bearer {TOKEN}\1\1")


class TestLongToken:
    """A command line has 512 octets at most (RFC 4954, 4). A line that answers has more."""

    def initial(self, length):
        """Return a token with a command line of this length, and its base64."""
        start = f"user={USERNAME}\1auth=Bearer "
        size = (length - len("AUTH XOAUTH2 \r\n")) // 4 * 3
        token = "x" * (size - len(start) - 2)
        return token, b64encode(f"{start}{token}\1\1".encode()).decode()

    def test_of_the_limit_travels_with_the_command(self, serve):
        token, initial = self.initial(512)
        (command,) = exchange(serve, "235 welcome", token=token)
        assert command == f"AUTH XOAUTH2 {initial}"
        assert 508 < len(command) + 2 <= 512

    def test_beyond_the_limit_travels_behind_it(self, serve):
        token, initial = self.initial(516)
        commands = exchange(serve, "334 ", "235 welcome", token=token)
        assert commands == ["AUTH XOAUTH2", initial]

    def test_beyond_the_limit_is_refused_with_a_reason_as_well(self, serve):
        token, _ = self.initial(4000)
        error = refusal(serve, "334 ", challenge(b"expired"), "535 no", token=token)
        assert (error.smtp_code, error.smtp_error) == (535, b"no; expired")


def test_reason_that_comes_before_the_end_is_told(serve):
    error = refusal(serve, challenge(b"expired") + AND_CLOSE)
    assert error.smtp_code == 535
    assert error.smtp_error == b"the server has ended the connection; expired"


PASSWORD = {"password": "secret"}


class TestPassword:
    """The mechanisms that smtplib knows are tried in its order."""

    PLAIN_AND_LOGIN = {"extensions": ["AUTH LOGIN PLAIN"], **PASSWORD}

    def test_of_one_mechanism(self, serve):
        credentials = b64encode(f"\0{USERNAME}\0secret".encode()).decode()
        commands = exchange(serve, "235 welcome", **self.PLAIN_AND_LOGIN)
        assert commands == [f"AUTH PLAIN {credentials}"]

    def test_that_is_refused_is_tried_another_way(self, serve):
        replies = ["535 no", challenge(b"Password:"), "235 welcome"]
        commands = exchange(serve, *replies, **self.PLAIN_AND_LOGIN)
        assert [command.split()[:2] for command in commands[:2]] == [
            ["AUTH", "PLAIN"],
            ["AUTH", "LOGIN"],
        ]

    @pytest.mark.parametrize(
        "replies",
        [
            ["535 5.7.8 first" + AND_CLOSE],
            ["535 5.7.8 first", CLOSE],
            ["535 5.7.8 first", RESET],
            ["535 5.7.8 first", "535 5.7.8 second"],
            ["535 5.7.8 first", "454 4.7.0 second"],
            ["535 5.7.8 first", "334 x", "535 5.7.8 second"],
        ],
    )
    def test_that_is_refused_twice_is_told_with_the_first_reply(self, replies, serve):
        """Also if the second "refusal" is the end of the connection, or makes no sense."""
        error = refusal(serve, *replies, **self.PLAIN_AND_LOGIN)
        assert type(error) is smtplib.SMTPAuthenticationError
        assert error.smtp_code == 535
        assert b"5.7.8 first" in error.smtp_error

    def test_goodbye_is_told(self, serve):
        error = refusal(serve, "421 4.7.0 too many" + AND_CLOSE, **self.PLAIN_AND_LOGIN)
        assert error.smtp_code == 421

    @pytest.mark.parametrize(
        ("reply", "problem"),
        [(CLOSE, "unexpectedly closed"), ("334 x", "the server's challenge makes no sense")],
    )
    def test_what_is_no_refusal_is_told_as_it_is(self, reply, problem, serve):
        error = refusal(serve, reply, extensions=["AUTH CRAM-MD5 LOGIN"], **PASSWORD)
        assert problem in str(error)

    @pytest.mark.parametrize(
        ("extensions", "problem"),
        [
            (["AUTH NTLM"], "no way to log in with a password; it offers NTLM"),
            (["AUTH NTLM GSSAPI"], "no way to log in with a password; it offers NTLM GSSAPI"),
            (["AUTH"], "no way to log in with a password; it offers nothing"),
            ([], "AUTH extension not supported"),
        ],
    )
    def test_server_without_a_way_is_told(self, extensions, problem, serve):
        error = refusal(serve, extensions=extensions, **PASSWORD)
        assert isinstance(error, smtplib.SMTPNotSupportedError)
        assert problem in str(error)

    def test_replaced_login_of_smtplib_is_called(self, serve):
        with mock.patch.object(smtplib.SMTP, "login") as login:
            assert exchange(serve, **self.PLAIN_AND_LOGIN) == []
        assert login.call_count == 1


class TestWithoutMD5:
    """A system in FIPS mode forbids it. That is no fault of the server."""

    @pytest.fixture(autouse=True)
    def fips(self, monkeypatch):
        error = ValueError("unsupported hash type md5")
        monkeypatch.setattr(hmac, "HMAC", mock.Mock(side_effect=error))

    def test_another_mechanism_is_taken(self, serve):
        extensions = ["AUTH CRAM-MD5 PLAIN"]
        (command,) = exchange(serve, "235 welcome", extensions=extensions, **PASSWORD)
        assert command.startswith("AUTH PLAIN ")

    def test_without_another_it_is_told(self, serve):
        error = refusal(serve, extensions=["AUTH CRAM-MD5 NTLM"], **PASSWORD)
        assert str(error) == (
            "the server offers no way to log in with a password without MD5, "
            "which this Python lacks; it offers CRAM-MD5 NTLM"
        )
