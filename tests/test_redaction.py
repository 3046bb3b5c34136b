"""What a server says does not show the login, in whatever form it repeats it."""

import hmac
import smtplib
from base64 import b64encode

import pytest

from email_hosts.smtp.redaction import Redactor

USERNAME, PASSWORD = "Kx7vQz9", "Kx7vQz9Wj4bYt2"


def encoded(text):
    return b64encode(text.encode()).decode()


def cram_md5(challenge):
    """Return what a client sends. RFC 2195, 2."""
    digest = hmac.new(PASSWORD.encode(), challenge.encode(), "md5").hexdigest()
    return encoded(f"{USERNAME} {digest}")


@pytest.mark.parametrize(
    "secret",
    [
        USERNAME,
        USERNAME.upper(),
        PASSWORD,
        encoded(USERNAME),
        encoded(PASSWORD),
        encoded(f"\0{USERNAME}\0{PASSWORD}"),
        encoded(f"{PASSWORD}\r\n"),
        encoded(PASSWORD).rstrip("="),
        cram_md5("<1@example.com>"),
        encoded(f"user={USERNAME}\1auth=Bearer {PASSWORD}\1\1"),
    ],
)
def test_login_is_starred_out_and_nothing_else(secret):
    redactor = Redactor(USERNAME, PASSWORD)
    assert redactor.redact(f"no: {secret}, sorry") == "no: *****, sorry"
    assert redactor.redact(f"no: {secret}, sorry".encode()) == b"no: *****, sorry"


@pytest.mark.parametrize("password", ["it's", 'say "it"', "a\\b", "a\\'b", "a\tb", "'\"\\'"])
@pytest.mark.parametrize("before", ["", "'", '"', "'\""])
def test_login_in_a_quoted_reply_is_starred_out(password, before):
    """As smtplib quotes a challenge in the text of an error."""
    reply = repr(f"334 {before} {password} go on".encode())
    assert " ***** go on" in Redactor("user", password).redact(f"no: {reply}")


@pytest.mark.parametrize(
    ("login", "reply", "expected"),
    [
        # Words of one or two letters are none that can be hidden.
        *((login, "no mail to you", "no mail to you") for login in [("", ""), ("a", "no")]),
        (("me", "you"), "no mail to you", "no mail to *****"),
        (("", "you"), "no mail to you", "no mail to you"),
        # The same characters in the middle of base64 are something else.
        (("root", "ab1"), f"id x{encoded('root')}", f"id x{encoded('root')}"),
        (("root", "ab1"), f"id {encoded('root!xyz')} end", "id ***** end"),
    ],
)
def test_short_words_are_starred_out_and_what_is_no_secret_stays(login, reply, expected):
    assert Redactor(*login).redact(reply) == expected


def test_error_is_cleaned_wherever_it_has_the_reply():
    reply, clean = f"not for {USERNAME}".encode(), b"not for *****"
    refused = smtplib.SMTPRecipientsRefused({"a@example.net": (550, reply)})
    sender = smtplib.SMTPSenderRefused(550, reply, "a@example.com")
    for error in (refused, sender):
        Redactor(USERNAME, PASSWORD).redact_error(error)
    assert refused.recipients == refused.args[0] == {"a@example.net": (550, clean)}
    assert sender.smtp_error == sender.args[1] == clean
    assert sender.args[0] == 550
