"""The soak test accounts for each message, and says so when it cannot."""

import smtplib

import pytest
from conftest import run_python
from scripted import Accepted
from soak.__main__ import verdict
from soak.account import Account

LATER = smtplib.SMTPDataError(451, b"later")
SILENCE = smtplib.SMTPServerDisconnected()
SOAK = ("-m", "soak", "--seed", "1")


def test_nothing_is_lost_nor_doubled():
    shown = run_python(*SOAK, "--messages", "500", "--seconds", "60")
    assert "seed 1\n500 messages in " in shown


def test_run_that_sends_nothing_proves_nothing():
    shown = run_python(*SOAK, "--seconds", "0", exit_code=1)
    assert "0 messages in " in shown
    assert "this proves nothing" in shown


def accepted(*numbers):
    return [Accepted("a@x", ("b@x",), b"Subject: %d\r\n\r\n" % number) for number in numbers]


@pytest.mark.parametrize(
    ("batch", "error", "arrived", "mistakes"),
    [
        ([0], None, [0], []),
        ([0], None, [], ["0: lost"]),
        ([0], None, [0, 0], ["0: accepted 2 times"]),
        ([], None, [], ["0: not accounted for"]),
        ([0, 0], None, [0], ["0: not accounted for"]),
        ([0], LATER, [], []),
        ([0], LATER, [0], ["0: reported as not sent, and was"]),
        ([0], SILENCE, [], []),
        ([0], SILENCE, [0], []),
        ([0], SILENCE, [0, 0], ["0: accepted 2 times"]),
        ([0, 1], LATER, [0], []),
        ([0, 1], LATER, [0, 0, 1], ["0: accepted 2 times"]),
    ],
)
def test_account_names_what_was_lost_or_doubled(batch, error, arrived, mistakes):
    account = Account()
    if error:
        account.report(batch, error)
    else:
        account.sent += batch
    assert account.mistakes(max([0, *batch]) + 1, accepted(*arrived)) == mistakes


def test_verdict_is_the_exit_code(capsys):
    assert (verdict([]), verdict(["7: lost"])) == (0, 1)
    assert "accounted for" in capsys.readouterr().out
