"""The login with a token or a password, with servers that misbehave, too, and repeat it."""

from __future__ import annotations

import hmac
import smtplib
from base64 import b64encode
from contextlib import closing
from unittest import mock

import pytest
from scripted import CLOSE

from email_hosts.smtp.connection import SMTP
from email_hosts.smtp.login import log_in
from email_hosts.smtp.redaction import Redactor

USERNAME, PASSWORD, TOKEN = "me@example.com", "secret", "Kx7vQz9.Wj4bYt2"
START = f"user={USERNAME}\1auth=Bearer "


def base64(text):
    return b64encode(text.encode()).decode()


def exchange(serve, offered, *replies, **secret):
    """Log in to a server with these replies to AUTH and to what follows.

    Bytes are a challenge. Return the commands that it got, and the error.
    """
    coming = iter(replies)

    def script(step, argument):
        reply = None if step in ("banner", "EHLO", "QUIT") else next(coming, None)
        return f"334 {b64encode(reply).decode()}" if isinstance(reply, bytes) else reply

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


def initial(token):
    return base64(f"{START}{token}\1\1")


# A command line has 512 octets at most (RFC 4954, 4). A line that answers has more.
LONG, TOO_LONG = "x" * 338, "x" * 339
PLAIN = f"AUTH PLAIN {base64(chr(0) + USERNAME + chr(0) + PASSWORD)}"
IN_TURN = [PLAIN, f"AUTH LOGIN {base64(USERNAME)}", base64(PASSWORD)]


@pytest.mark.parametrize(
    ("log_in", "replies", "options", "commands"),
    [
        (with_token, [], {"offered": "AUTH xoauth2"}, [f"AUTH XOAUTH2 {initial(TOKEN)}"]),
        (with_token, [b"go on"], {}, [f"AUTH XOAUTH2 {initial(TOKEN)}", ""]),
        (with_token, [], {"token": LONG}, [f"AUTH XOAUTH2 {initial(LONG)}"]),
        (with_token, ["334 "], {"token": TOO_LONG}, ["AUTH XOAUTH2", initial(TOO_LONG)]),
        (with_password, [], {}, [PLAIN]),
        (with_password, ["535 no", b"Password:"], {}, IN_TURN),
    ],
)
def test_login_travels_as_the_server_takes_it(log_in, replies, options, commands, serve):
    assert log_in(serve, *replies, "235 welcome", **options) == (commands, None)


MORE = b"x" * 490 + b" "
CUT = f"535 no; {MORE.decode()}*****"


@pytest.mark.parametrize(
    ("log_in", "replies", "told"),
    [
        (with_token, ["454 no"], "454 no"),
        # The challenge says why, and may be anything.
        (with_token, [b'{"status":\r\n"400"}', "535 no"], '535 no; {"status": "400"}'),
        (with_token, [b"", "535 no"], "535 no"),
        (with_token, [b"\xff\x00", "535 no"], "535 no; \ufffd\\x00"),
        (with_token, [b"x" * 5000, "535 no"], f"535 no; {'x' * 500}"),
        (with_token, [b"late", CLOSE], "535 the server has ended the connection; late"),
        # Secrets are starred out before the text is cut.
        (with_token, [MORE + TOKEN.encode(), "535 no"], CUT),
        (with_token, [MORE + base64(TOKEN).encode(), "535 no"], CUT),
        # Of two, the first is told, also if the second is the end, or nonsense.
        (with_password, ["535 first", CLOSE], "535 first"),
        (with_password, ["535 first", "454 second"], "535 first"),
        (with_password, ["535 first", "334 x", "535 second"], "535 first"),
        (with_password, ["421 too many", "235 welcome"], "421 too many"),
    ],
)
def test_refusal_is_told_with_its_reason(log_in, replies, told, serve):
    _, error = log_in(serve, *replies)
    assert type(error) is smtplib.SMTPAuthenticationError
    assert error.args == (int(told[:3]), told[4:].encode())
    assert error.__context__ is None


@pytest.mark.parametrize(
    ("log_in", "offered", "replies", "told"),
    [
        (with_token, "AUTH PLAIN LOGIN", [], "XOAUTH2, which 'oauth2' needs; it offers PLAIN"),
        (with_token, "AUTH XOAUTH2-PLUS", [], "it offers XOAUTH2-PLUS"),
        (with_token, "", [], "AUTH extension not supported"),
        (with_token, "AUTH XOAUTH2", [CLOSE], "unexpectedly closed"),
        (with_token, "AUTH XOAUTH2", [b"again"] * 20, "infinite loop"),
        (with_password, "AUTH NTLM GSSAPI", [], "with a password; it offers NTLM GSSAPI"),
        (with_password, "AUTH", [], "with a password; it offers nothing"),
        (with_password, "AUTH CRAM-MD5 LOGIN", [CLOSE], "unexpectedly closed"),
        (with_password, "AUTH CRAM-MD5 LOGIN", ["334 x"], "challenge makes no sense"),
    ],
)
def test_what_is_no_refusal_is_told_as_it_is(log_in, offered, replies, told, serve):
    """A server without a way to log in gets no secret."""
    commands, error = log_in(serve, *replies, offered=offered)
    assert told in str(error)
    assert isinstance(error, smtplib.SMTPNotSupportedError) == (commands == [])


@pytest.mark.parametrize(
    ("offered", "command", "told"),
    [
        ("AUTH CRAM-MD5 PLAIN", [PLAIN], None),
        ("AUTH CRAM-MD5 NTLM", [], "without MD5, which this Python lacks; it offers CRAM"),
    ],
)
def test_login_without_md5_is_another_or_none(offered, command, told, serve, monkeypatch):
    """A system in FIPS mode forbids it. That is no fault of the server."""
    unsupported = mock.Mock(side_effect=ValueError("unsupported hash type md5"))
    monkeypatch.setattr(hmac, "HMAC", unsupported)
    commands, error = with_password(serve, "235 welcome", offered=offered)
    assert commands == command
    assert (told or "None") in str(error)


def test_mock_of_smtplib_sees_the_login_with_a_token():
    with mock.patch("smtplib.SMTP", autospec=True) as mocked:
        log_in(mocked.return_value, USERNAME, token=TOKEN)
    ((mechanism, respond), _) = mocked.return_value.auth.call_args
    assert (mechanism, respond()) == ("XOAUTH2", f"{START}{TOKEN}\1\1")


NAME, WORD = "Kx7vQz9", "Kx7vQz9Wj4bYt2"
DIGEST = hmac.new(WORD.encode(), b"<1@example.com>", "md5").hexdigest()


@pytest.mark.parametrize(
    "secret",
    [
        NAME.upper(),
        WORD,
        base64(NAME),
        base64(WORD),
        base64(f"\0{NAME}\0{WORD}"),
        base64(f"{WORD}\r\n"),
        base64(WORD).rstrip("="),
        base64(f"{NAME} {DIGEST}"),  # CRAM-MD5 (RFC 2195, 2)
        base64(f"user={NAME}\1auth=Bearer {WORD}\1\1"),
    ],
)
def test_reply_has_stars_for_the_login_and_nothing_else(secret):
    redactor = Redactor(NAME, WORD)
    assert redactor.redact(f"no: {secret}, sorry") == "no: *****, sorry"
    assert redactor.redact(f"no: {secret}, sorry".encode()) == b"no: *****, sorry"


@pytest.mark.parametrize("password", ["it's", 'say "it"', "a\\b", "a\\'b", "a\tb", "'\"\\'"])
@pytest.mark.parametrize("before", ["", "'", '"', "'\""])
def test_reply_has_them_when_smtplib_quotes_it(password, before):
    reply = repr(f"334 {before} {password} go on".encode())
    assert " ***** go on" in Redactor("user", password).redact(f"no: {reply}")


@pytest.mark.parametrize(
    ("login", "reply", "expected"),
    [
        # Words of one or two letters are none that can be hidden.
        (("", ""), "no mail to you", "no mail to you"),
        (("me", "you"), "no mail of me to you", "no mail of me to *****"),
        (("", "you"), "no mail to you", "no mail to you"),
        # The same characters in the middle of base64 are something else.
        (("root", "ab1"), f"id x{base64('root')}", f"id x{base64('root')}"),
        (("root", "ab1"), f"id {base64('root!xyz')} end", "id ***** end"),
    ],
)
def test_reply_keeps_what_is_no_secret(login, reply, expected):
    assert Redactor(*login).redact(reply) == expected
