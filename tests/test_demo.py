"""The demo works, and says so when it does not."""

import pytest
from conftest import run_python
from demo.__main__ import EXPECTED, report


def test_demo_shows_who_received_what():
    lines = [" ".join(line.split()) for line in run_python("-m", "demo").splitlines()]
    assert "shop shop-user shop@example.com The Shop <shop@example.com> Your order" in lines
    assert lines.count("club club-user club@example.org club@example.org Club news") == 2


@pytest.mark.parametrize(
    ("received", "problem"),
    [
        (EXPECTED[:1], "Missing: Mail(host='club'"),
        (EXPECTED[:2], "Missing: Mail(host='club'"),
        ([EXPECTED[0]._replace(envelope_sender="x"), *EXPECTED[1:]], "Not as it should be"),
        ([*EXPECTED, EXPECTED[0]._replace(user=None)], "Not as it should be"),
    ],
)
def test_demo_fails_if_a_message_is_missing_or_wrong(received, problem, capsys):
    assert report(received, EXPECTED) == 1
    assert problem in capsys.readouterr().out
