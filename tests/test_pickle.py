"""Keys travel between processes; connections and logins do not."""

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
from conftest import needs_mailers
from django.core import mail
from django.core.mail import EmailMessage
from django.test import override_settings

from email_hosts import mailers
from email_hosts.backends import EmailHostsBackend, connection_from_dsn, get_connection
from email_hosts.backends.outbox import OutboxBackend

SECRET = "Kx7vQz9"
SENDER = "_default_from_email=a@example.com"
HOSTS = {
    "smtp": f"submission://user:{SECRET}@smtp.example.com?conn_max_age=60",
    "provider": f"anymail+postmark://?server_token={SECRET}",
    "provider with sender": f"anymail+postmark://?server_token={SECRET}&{SENDER}",
    "console": "console://",
    "console with sender": f"console://?{SENDER}",
    "failover": "failover:smtp,console",
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'connection' argument is deprecated"),
    pytest.mark.filterwarnings("ignore:The EmailMessage.connection attribute is deprecated"),
]


class AsksForConnection:
    """Pickled, it is a call of ``get_connection`` with this key."""

    def __init__(self, key):
        self.key = key

    def __reduce__(self):
        return get_connection, (self.key,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("key", HOSTS)
@override_settings(EMAIL_HOSTS=HOSTS)
def test_pickled_connection_is_its_key_and_nothing_else(key, protocol):
    pickled = pickle.dumps(get_connection(key), protocol)
    assert pickled == pickle.dumps(AsksForConnection(key), protocol)
    with override_settings(EMAIL_HOSTS={**HOSTS, key: "smtp://another.example.com"}):
        unpickled = pickle.loads(pickled)
        assert (unpickled.alias, unpickled.host) == (key, "another.example.com")


def test_pickle_of_another_release_is_understood():
    connection = pickle.loads(b"cemail_hosts.hosts\nget_connection\n(S'shop'\ntR.")
    assert connection.alias == "shop"


@override_settings(EMAIL_HOSTS=HOSTS)
def test_open_connection_is_no_exception():
    connection: Any = get_connection("smtp")
    connection.connection = object()
    assert pickle.loads(pickle.dumps(connection)).connection is None


def test_message_takes_the_key_along(message):
    message.connection = get_connection("shop")
    pickled = pickle.dumps(message)
    assert SECRET.encode() not in pickled
    connection = pickle.loads(pickled).connection
    assert connection.alias == "shop"
    assert isinstance(connection, OutboxBackend)


def made_by_django():  # pragma: mailers-only
    """Return a connection of ``using="smtp"``."""
    with override_settings(MAILERS=mailers(HOSTS)):
        return mail.mailers["provider with sender"]


MORE_THAN_A_KEY = pytest.mark.parametrize(
    "connect",
    [
        lambda: get_connection("smtp", timeout=5),
        lambda: get_connection("smtp", fail_silently=True),
        lambda: get_connection("provider", server_token=SECRET),
        lambda: get_connection("provider with sender", server_token=SECRET),
        lambda: get_connection("console", fail_silently=True),
        lambda: connection_from_dsn(HOSTS["smtp"]),
        lambda: connection_from_dsn("console://", schemes=["console"]),
        lambda: EmailHostsBackend("smtp.example.com"),
        pytest.param(made_by_django, marks=needs_mailers),
    ],
)


@MORE_THAN_A_KEY
@override_settings(EMAIL_HOSTS=HOSTS)
def test_connection_that_is_more_than_its_key_is_not_pickled(connect):
    with pytest.raises(TypeError, match="pass the key of the host"):
        pickle.dumps(connect())


@MORE_THAN_A_KEY
@override_settings(EMAIL_HOSTS=HOSTS)
def test_copy_of_a_message_has_the_same_connection(connect):
    """Django's in-memory backend makes a deep copy of what it gets."""
    connection = connect()
    assert copy.deepcopy([connection]) == [connection]


@pytest.mark.parametrize(
    "connect",
    [
        lambda: get_connection("shop"),
        lambda: get_connection("shop", timeout=5),
        lambda: get_connection("shop", fail_silently=True),
        lambda: connection_from_dsn("smtp://smtp.example.com"),
    ],
)
def test_message_with_a_connection_gets_into_the_outbox(connect, mailoutbox):
    message = EmailMessage("Hello", "World", to=["a@example.net"], connection=connect())
    assert message.send() == 1
    assert len(mailoutbox) == 1


@pytest.mark.parametrize("key", HOSTS)
@override_settings(EMAIL_HOSTS=HOSTS)
def test_connection_that_is_dropped_is_gone_at_once(key):
    """Nothing waits for the garbage collector, an open socket least of all."""
    gc.collect()
    gc.disable()
    try:
        dropped = weakref.ref(get_connection(key))
        assert dropped() is None
    finally:
        gc.enable()
