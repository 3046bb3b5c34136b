"""What an error says about the message: may it be sent again?"""

import smtplib
from typing import Any
from unittest import mock

import pytest
from django.core.mail.backends.base import BaseEmailBackend
from django.dispatch import Signal
from scripted import BODY, CLOSE, any_of, at

from email_hosts.backends import EmailHostsBackend, HostBackend, can_be_retried
from email_hosts.exceptions import AllHostsFailed, InvalidEmailHost
from email_hosts.retry import NOT_SENT, PERHAPS, set_delivery


def caused(error, cause):
    error.__cause__ = cause
    return error


def its_own_cause(error):
    return caused(error, error)


def noted(error, delivery):
    set_delivery(error, delivery)
    return error


def answered(status):
    error: Any = Exception("provider")
    error.status_code = status
    return error


def botocore_answered(status):
    error: Any = Exception("ClientError")
    error.response = {"ResponseMetadata": {"HTTPStatusCode": status}}
    return caused(Exception("AnymailAPIError"), error)


class NewConnectionError(Exception):
    """urllib3's, by its name."""


class MaxRetryError(Exception):
    """urllib3's, which has the cause in an attribute."""

    def __init__(self, reason):
        super().__init__("Max retries exceeded")
        self.reason = reason


TOO_LARGE = smtplib.SMTPSenderRefused(552, b"", "a")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AllHostsFailed({}), True),
        (smtplib.SMTPRecipientsRefused({"a": (550, b""), "b": (450, b"")}), True),
        (smtplib.SMTPRecipientsRefused({"a": (550, b""), "b": (554, b"")}), False),
        (smtplib.SMTPSenderRefused(550, b"", "a"), True),
        (TOO_LARGE, False),
        (AllHostsFailed({"a": TOO_LARGE, "b": TOO_LARGE}), False),
        (
            AllHostsFailed({"a": TOO_LARGE, "b": smtplib.SMTPSenderRefused(550, b"", "a")}),
            True,
        ),
        (smtplib.SMTPAuthenticationError(535, b""), True),
        (smtplib.SMTPConnectError(554, b""), True),
        (smtplib.SMTPNotSupportedError("STARTTLS"), True),
        (smtplib.SMTPDataError(400, b""), True),
        (smtplib.SMTPDataError(500, b""), False),
        (smtplib.SMTPDataError(354, b""), False),
        (smtplib.SMTPServerDisconnected("who knows when"), False),
        (noted(smtplib.SMTPServerDisconnected("early"), NOT_SENT), True),
        (noted(smtplib.SMTPServerDisconnected("late"), PERHAPS), False),
        (noted(smtplib.SMTPSenderRefused(450, b"", "a"), PERHAPS), False),
        (noted(smtplib.SMTPDataError(554, b""), NOT_SENT), False),
        (noted(TimeoutError(), NOT_SENT), True),
        (ConnectionRefusedError(), True),
        (ConnectionResetError(), False),
        (TimeoutError(), False),
        (its_own_cause(TimeoutError()), False),
        (ValueError("bad header"), False),
        (InvalidEmailHost("no such option"), False),
        (answered(429), True),
        (answered(500), True),
        (answered(401), False),
        (answered("503"), False),
        (botocore_answered(503), True),
        (botocore_answered(400), False),
        (caused(Exception(), ConnectionError(MaxRetryError(NewConnectionError()))), True),
        (caused(Exception(), ConnectionError(MaxRetryError(TimeoutError()))), False),
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
    "make_error",
    [ConnectionRefusedError, lambda: smtplib.SMTPRecipientsRefused({"a": (450, b"")})],
)
@pytest.mark.parametrize(
    ("backend", "expected"), [(HostBackend(Provider()), False), (Provider(), True)]
)
def test_error_of_a_receiver_says_nothing_of_a_message_of_ours(make_error, backend, expected):
    """The task itself may run in a receiver."""

    def fail(**signal):
        raise make_error()

    Provider.post_send.connect(fail)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        backend.send_messages([])
    Provider.post_send.disconnect(fail)
    assert can_be_retried(caught.value) is expected


def test_error_that_the_caller_is_handling_says_nothing():
    try:
        raise ConnectionRefusedError
    except ConnectionRefusedError:
        try:
            raise TimeoutError
        except TimeoutError as error:
            assert error.__context__ is not None
            assert not can_be_retried(error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (smtplib.SMTPDataError(451, b""), True),
        (smtplib.SMTPDataError(250, b""), False),
        (smtplib.SMTPRecipientsRefused({"b@example.net": (450, b"")}), True),
        (smtplib.SMTPServerDisconnected("lost"), False),
    ],
)
def test_errors_of_a_mocked_smtplib_tell_by_their_class(error, expected, message):
    with mock.patch("smtplib.SMTP", autospec=True) as mocked:
        mocked.return_value.sendmail.side_effect = error
        with pytest.raises(type(error)) as caught:
            EmailHostsBackend("127.0.0.1", 25).send_messages([message])
    assert can_be_retried(caught.value) is expected


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (at("banner", CLOSE), True),
        (at("AUTH", "535 no"), True),
        (at("DATA", CLOSE), True),
        (at(BODY, "451 later"), True),
        (at(BODY, CLOSE), False),
        (at(BODY, "what?"), False),
        (at(BODY, "250-" + 9000 * "x"), False),
    ],
)
def test_errors_of_an_smtp_host_tell(script, expected, serve, message):
    server = serve(
        any_of(script, at("AUTH", "235 welcome")), extensions=["PIPELINING", "AUTH PLAIN"]
    )
    backend = EmailHostsBackend("127.0.0.1", server.port, "user", "secret", timeout=20)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        backend.send_messages([message])
    assert can_be_retried(caught.value) is expected
