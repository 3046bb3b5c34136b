"""How often a mail waits for the server, as Speed in the README says."""

import os
from unittest import mock

import pytest
from tools.benchmarks.__main__ import round_trips, servers
from tools.benchmarks.ways import BATCH, WAYS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server():
    """The server of the benchmark, on this machine."""
    with mock.patch.dict(os.environ), servers([0]) as at:
        yield at[0]


@pytest.mark.parametrize(
    ("way", "to_one", "to_twenty"),
    [
        # TCP, TLS, banner, EHLO, STARTTLS, EHLO, AUTH; MAIL, RCPT, DATA, body; QUIT
        ("Django, a new connection each", 12, 31),
        ("email_hosts, a new connection each", 10, 10),
        ("Django, one open connection", 4, 23),
        ("smtplib, one open connection", 4, 23),
        ("email_hosts, conn_max_age", 2, 2),
        ("email_hosts, batches of 25", (BATCH + 1) / BATCH, (BATCH + 1) / BATCH),
        ("email_hosts, parallel=4", (BATCH + 1) / BATCH, (BATCH + 1) / BATCH),
    ],
)
def test_round_trips_per_mail(way, to_one, to_twenty, server):
    assert [round_trips(WAYS[way], server, to) for to in (1, 20)] == [to_one, to_twenty]
