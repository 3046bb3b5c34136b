"""What an error says about the message: may it be sent again?"""

import smtplib
import ssl
from functools import partial
from unittest import mock

import pytest
from django.core.mail.backends.base import BaseEmailBackend
from django.dispatch import Signal

from email_hosts.backends import (
    EmailHostsBackend,
    HostBackend,
    RoutingBackend,
    can_be_retried,
    get_connection,
)
from email_hosts.exceptions import AllHostsFailed
from email_hosts.retry import NOT_SENT, PERHAPS


def having(error, **attributes):
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


class NewConnectionError(Exception):
    """urllib3's, by its name."""


LOOP = TimeoutError()  # its own cause
LOOP.__cause__ = LOOP
BUSY = {"ResponseMetadata": {"HTTPStatusCode": 503}}  # botocore's
TOO_LARGE = smtplib.SMTPSenderRefused(552, b"", "a")
REFUSED = smtplib.SMTPSenderRefused(550, b"", "a")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AllHostsFailed({}), True),
        (AllHostsFailed({"a": TOO_LARGE, "b": REFUSED}), True),
        (AllHostsFailed({"a": TOO_LARGE, "b": AllHostsFailed({"c": TOO_LARGE})}), False),
        (smtplib.SMTPRecipientsRefused({"a": (550, b""), "b": (450, b"")}), True),
        (smtplib.SMTPRecipientsRefused({"a": (500, b""), "b": (554, b"")}), False),
        (REFUSED, True),
        (smtplib.SMTPAuthenticationError(535, b""), True),
        (smtplib.SMTPConnectError(554, b""), True),
        (smtplib.SMTPNotSupportedError("STARTTLS"), True),
        (smtplib.SMTPDataError(400, b""), True),
        (smtplib.SMTPDataError(500, b""), False),
        (smtplib.SMTPDataError(354, b""), False),
        (smtplib.SMTPServerDisconnected("who knows when"), False),
        (having(smtplib.SMTPServerDisconnected("early"), delivery=NOT_SENT), True),
        (having(smtplib.SMTPSenderRefused(450, b"", "a"), delivery=PERHAPS), False),
        (having(smtplib.SMTPDataError(554, b""), delivery=NOT_SENT), False),
        (ConnectionRefusedError(), True),
        (ConnectionResetError(), False),
        (OSError(ssl.SSLCertVerificationError()), True),
        (OSError(having(ssl.SSLError(), reason="WRONG_VERSION_NUMBER")), True),
        (OSError(having(ssl.SSLError(), reason="DECRYPTION_FAILED_OR_BAD_RECORD_MAC")), False),
        (LOOP, False),
        (having(TimeoutError(), __context__=ConnectionRefusedError()), False),
        (having(Exception(), status_code=429), True),
        (having(Exception(), status_code=500), True),
        (having(Exception(), status_code=401), False),
        (having(Exception(), status_code="503"), False),
        (having(Exception(), __cause__=having(Exception(), response=BUSY)), True),
        (having(Exception(), kwargs={"error": ssl.SSLCertVerificationError()}), True),
        (having(Exception(), kwargs=5), False),
        (type("NoCredentialsError", (Exception,), {})(), True),
        # As requests has them: urllib3's error is an argument, and has its cause in reason.
        (ConnectionError(having(Exception(), reason=NewConnectionError())), True),
    ],
)
def test_message_that_failed_may_be_sent_again_if_surely_nobody_has_it(error, expected):
    assert can_be_retried(error) is expected


class Provider(BaseEmailBackend):
    """As Anymail does, it sends a signal after the provider has accepted the message."""

    post_send = Signal()

    def send_messages(self, email_messages):
        self.post_send.send(sender=type(self))


@pytest.mark.parametrize(
    ("backend", "expected"), [(HostBackend(Provider()), False), (Provider(), True)]
)
def test_error_of_a_receiver_says_nothing_of_a_message_of_ours(backend, expected):
    """The task itself may run in a receiver."""
    receiver = mock.Mock(side_effect=ConnectionRefusedError)
    Provider.post_send.connect(receiver)
    with pytest.raises(ConnectionRefusedError) as caught:
        backend.send_messages([])
    Provider.post_send.disconnect(receiver)
    assert can_be_retried(caught.value) is expected


class Tunnel(EmailHostsBackend):
    def open(self):
        raise ConnectionResetError


@pytest.mark.parametrize("send_through", [partial(get_connection, "default"), RoutingBackend])
def test_open_of_a_subclass_that_fails_has_sent_nothing(send_through, settings, message):
    settings.EMAIL_HOSTS = {"default": f"backend://{__name__}.Tunnel?host=h"}
    with pytest.raises(ConnectionResetError) as caught:
        send_through().send_messages([message])
    assert can_be_retried(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [(smtplib.SMTPServerDisconnected(), False), (smtplib.SMTPDataError(451, b"later"), True)],
)
def test_error_of_a_mock_of_smtplib(error, expected, message):
    """One that loses its connection may have taken the message."""
    with mock.patch("smtplib.SMTP", autospec=True) as mocked:
        mocked.return_value.sendmail.side_effect = error
        with pytest.raises(type(error)) as caught:
            EmailHostsBackend("127.0.0.1").send_messages([message])
    assert can_be_retried(caught.value) is expected
