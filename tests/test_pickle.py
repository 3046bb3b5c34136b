"""Keys and errors travel between processes; connections and secrets do not."""

import copy
import pickle
import smtplib
from typing import Any

import pytest
from django.test import override_settings

from email_hosts.backends import EmailHostsBackend, connection_from_dsn, get_connection
from email_hosts.exceptions import AllHostsFailed, InvalidEmailHost, OAuth2Error, RateLimited

SECRET = "Kx7vQz9"
HOSTS = {
    "smtp": f"submission://user:{SECRET}@smtp.example.com?conn_max_age=60",
    "provider": f"anymail+postmark://?server_token={SECRET}&_header-X=1",
    "console": "console://",
    "failover": "failover:smtp,console",
}


@pytest.fixture(autouse=True)
def hosts(settings):
    settings.EMAIL_HOSTS = HOSTS


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("key", HOSTS)
def test_pickled_connection_is_its_key_and_nothing_else(key, protocol):
    connection: Any = get_connection(key)
    connection.connection = object()  # it may be open
    assert connection.__reduce_ex__(protocol) == (get_connection, (key,))
    pickled = pickle.dumps(connection, protocol)
    with override_settings(EMAIL_HOSTS={**HOSTS, key: "smtp://another.example.com"}):
        unpickled = pickle.loads(pickled)
    assert (unpickled.alias, unpickled.host) == (key, "another.example.com")
    assert unpickled.connection is None


@pytest.mark.parametrize(
    "connect",
    [
        lambda: get_connection("smtp", timeout=5),
        lambda: get_connection("smtp", fail_silently=True),
        lambda: connection_from_dsn(HOSTS["smtp"]),
        lambda: EmailHostsBackend("smtp.example.com"),
    ],
)
def test_connection_that_is_more_than_its_key_is_copied_and_not_pickled(connect):
    connection = connect()
    with pytest.raises(TypeError, match="pass the key of the host"):
        pickle.dumps(connection)
    # Django's in-memory backend makes a deep copy of a message, and of its connection.
    assert copy.deepcopy([connection]) == [connection]


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (AllHostsFailed({"a": OSError()}, alias="safe"), {"alias": "safe"}),
        (InvalidEmailHost("no", alias="a", setting="MAILERS"), {"alias": "a", "reason": "no"}),
        (OAuth2Error("no"), {"reason": "no", "smtp_code": 454}),
        (RateLimited("no", alias=HOSTS["smtp"], retry_after=2.5), {"retry_after": 2.5}),
    ],
)
def test_error_is_the_same_on_the_other_side_and_shows_no_dsn(error, attributes):
    loaded = pickle.loads(pickle.dumps(error))
    assert (repr(loaded), str(loaded)) == (repr(error), str(error))
    assert {name: getattr(loaded, name) for name in attributes} == attributes
    assert SECRET not in str(loaded)


def test_error_of_a_provider_travels_without_its_request():
    provider = OSError(f"request with {SECRET}")
    provider.request = lambda: SECRET  # type: ignore[attr-defined]  # it cannot be pickled
    errors = {"provider": provider, "refused": smtplib.SMTPDataError(554, SECRET.encode())}
    pickled = pickle.dumps(AllHostsFailed(errors))
    assert SECRET.encode() not in pickled
    shown = {key: str(error) for key, error in pickle.loads(pickled).errors.items()}
    assert shown == {"provider": "OSError", "refused": "SMTPDataError 554"}
