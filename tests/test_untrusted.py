"""A DSN from elsewhere may be a stranger's, and has limits."""

from typing import Any

import pytest
from django.core.mail.backends.console import EmailBackend as ConsoleBackend

from email_hosts.backends import connection_from_dsn
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.testing import real_hosts


@pytest.fixture(autouse=True)
def outside_of_tests():
    with real_hosts():
        yield


@pytest.mark.parametrize(
    "dsn", ["file:out", "console://", "dummy://", "locmem://", "failover:shop,club"]
)
def test_scheme_must_be_smtp(dsn):
    with pytest.raises(InvalidEmailHost, match="is not allowed here; allowed: smtp, smtp"):
        connection_from_dsn(dsn)


def test_scheme_may_be_what_the_caller_allows():
    connection = connection_from_dsn("console://", schemes={"console"})
    assert isinstance(connection, ConsoleBackend)
    with pytest.raises(InvalidEmailHost, match="'smtp' is not allowed here; allowed: con"):
        connection_from_dsn("smtp://h", schemes="console")


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        (f"smtp://h?{'&' * 4088}", "the DSN must have at most 4096 characters"),
        ("smtp://h?timeout=600.5", "option 'timeout' must be at most 600 seconds"),
        ("smtp://h?conn_max_age=3601", "option 'conn_max_age' must be at most 3600 seconds"),
        ("smtp://h?ssl_cafile=/x", "option 'ssl_cafile' is not allowed in a DSN from elsewh"),
        ("smtp://h?ssl_certfile=/x", "option 'ssl_certfile' is not allowed in a DSN from el"),
        ("smtp://h?ssl_certfile=a&ssl_keyfile=b", "option 'ssl_certfile' is not allowed in "),
    ],
)
def test_limit_is_told(dsn, reason):
    with pytest.raises(InvalidEmailHost) as caught:
        connection_from_dsn(dsn)
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    "dsn", [f"smtp://h?{'&' * 4087}", "smtp://h?timeout=600", "smtp://h?conn_max_age=3600"]
)
def test_limit_itself_is_allowed(dsn):
    connection_from_dsn(dsn)


def test_caller_may_go_beyond_the_limits():
    connection: Any = connection_from_dsn(
        "smtp://h?ssl_cafile=/x", file_options=["ssl_cafile"], timeout=9000
    )
    assert (connection.ssl_cafile, connection.timeout) == ("/x", 9000)


def test_limit_is_for_smtp_options_alone():
    dsn = f"backend://{__name__}.Timeout?timeout=9000"
    connection: Any = connection_from_dsn(dsn, schemes=["backend"], allow=lambda *_: False)
    assert connection.given == "9000"


class Timeout(ConsoleBackend):
    """An option of its own."""

    def __init__(self, *, timeout: str, **options: Any) -> None:
        super().__init__(**options)
        self.given = timeout


class TestAllow:
    """The caller says which servers may be used."""

    def test_host_is_asked_for_first(self):
        asked = []
        with pytest.raises(InvalidEmailHost, match="the server is not allowed"):
            connection_from_dsn("smtps://h", allow=lambda *server: asked.append(server))
        assert asked == [("h", 465)]

    def test_address_is_asked_for_when_it_is_opened(self, closed_port):
        dsn = f"smtp://localhost:{closed_port}"
        connection = connection_from_dsn(dsn, allow=lambda host, port: host == "localhost")
        with pytest.raises(InvalidEmailHost, match="no address of the server is allowed"):
            connection.open()
