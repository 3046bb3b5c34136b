"""The demo works, and says so when it does not."""

import pytest
from conftest import run_python
from demo.__main__ import NEWS, ORDER, REDIRECTED, TAKEN_OVER, report


def test_demo_shows_who_received_what():
    lines = [" ".join(line.split()) for line in run_python("-m", "demo").splitlines()]
    mails = [" ".join(map(str, mail)) for mail in (ORDER, *NEWS, *REDIRECTED, TAKEN_OVER)]
    assert [line for line in lines if line in mails] == mails
    assert 'host "orders": host "shop" failed: ConnectionRefusedError' in lines


@pytest.mark.parametrize(
    ("arrived", "problem"),
    [
        ([ORDER], "Missing: Mail(server='club'"),
        ([ORDER, NEWS[0], NEWS[0]], "Missing: Mail(server='club'"),
        ([ORDER, *NEWS, NEWS[0]], "Not as it should be"),
        ([ORDER._replace(sender="x"), *NEWS], "Not as it should be"),
        ([ORDER, *NEWS, ORDER._replace(user=None)], "Not as it should be"),
    ],
)
def test_demo_fails_if_a_message_is_missing_or_wrong(arrived, problem, capsys):
    assert report(arrived, [ORDER, *NEWS]) == 1
    assert problem in capsys.readouterr().out
