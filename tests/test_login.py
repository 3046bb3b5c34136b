"""The login with a token: the exchange of XOAUTH2, with servers that misbehave, too."""

from __future__ import annotations

import smtplib
from base64 import b64encode
from contextlib import closing
from unittest import mock

import pytest
from scripted import CLOSE

from email_hosts.smtp.connection import SMTP
from email_hosts.smtp.login import log_in

USERNAME, TOKEN = "me@example.com", "Kx7vQz9.Wj4bYt2"
INITIAL = b64encode(f"user={USERNAME}\1auth=Bearer {TOKEN}\1\1".encode()).decode()
OFFERED = ["AUTH LOGIN XOAUTH2"]


def challenge(text):
    return f"334 {b64encode(text).decode()}"


def exchange(serve, *replies, extensions=OFFERED):
    """Log in to a server with these replies to AUTH and to what follows; return the rest."""
    coming = iter(replies)

    def script(step, argument):
        return next(coming, None) if step in ("AUTH", "") else None

    server = serve(script, extensions=extensions)
    with closing(SMTP("127.0.0.1", server.port, timeout=20)) as connection:
        connection.ehlo()
        log_in(connection, USERNAME, token=TOKEN)
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
        ([], "it offers no AUTH at all"),
    ],
)
def test_server_without_it_gets_no_token(extensions, offered, serve):
    server = serve(extensions=extensions)
    with (
        closing(SMTP("127.0.0.1", server.port, timeout=20)) as connection,
        pytest.raises(smtplib.SMTPNotSupportedError) as caught,
    ):
        log_in(connection, USERNAME, token=TOKEN)
    assert str(caught.value) == (
        f"the server does not offer XOAUTH2, which 'oauth2' needs; {offered}"
    )
    server.wait_for_clients_to_go()
    assert not any("AUTH" in command for command in server.commands)


def test_mock_of_smtplib_sees_the_login():
    with mock.patch("smtplib.SMTP", autospec=True) as mocked:
        log_in(mocked.return_value, USERNAME, token=TOKEN)
    ((mechanism, respond), _) = mocked.return_value.auth.call_args
    assert (mechanism, respond()) == ("XOAUTH2", f"user={USERNAME}\1auth=Bearer {TOKEN}\1\1")
