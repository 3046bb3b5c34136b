"""Errors travel from worker to caller: they can be pickled, and keep no secret."""

import pickle
import smtplib

import pytest

from email_hosts.exceptions import (
    AllHostsFailed,
    EmailHostDoesNotExist,
    InvalidEmailHost,
    OAuth2Error,
)

SECRET = "Kx7vQz9"


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("shop", "shop"),
        ("bücher: 2", "bücher: 2"),
        ("shop\r\n\x1b[2J\u202e", r"shop\r\n\x1b[2J\u202e"),
        (f"smtp://{SECRET}", "(a DSN)"),
        (f"user:{SECRET}@h", "(a DSN)"),
        (f"anymail+mailgun:\n?api_key={SECRET}", "(a DSN)"),
    ],
)
def test_key_is_shown_on_one_line_and_a_dsn_is_not(key, shown):
    assert str(InvalidEmailHost("no", alias=key)) == f'EMAIL_HOSTS["{shown}"]: no'
    assert str(AllHostsFailed({key: OSError()}, alias=key)) == (
        f'host "{shown}": all hosts failed: {shown} (OSError)'
    )


@pytest.mark.parametrize(
    "error",
    [
        AllHostsFailed({"shop": OSError()}, alias="safe"),
        InvalidEmailHost("unknown option", alias="shop", setting="MAILERS"),
        EmailHostDoesNotExist("there is no such host", alias="shop"),
    ],
)
def test_error_is_the_same_on_the_other_side(error):
    loaded = pickle.loads(pickle.dumps(error))
    assert (repr(loaded), loaded.alias) == (repr(error), error.alias)


def test_error_without_a_token_is_the_same_on_the_other_side():
    loaded = pickle.loads(pickle.dumps(OAuth2Error("no token")))
    assert (str(loaded), loaded.reason, loaded.smtp_code) == ("no token", "no token", 454)


class ProviderError(Exception):
    """It holds the request, and cannot be pickled anyway."""

    def __init__(self, key, *, code):
        super().__init__(f"request with {key}")
        self.request = lambda: key


def test_error_of_a_provider_travels_without_its_request():
    errors = {
        "provider": ProviderError(SECRET, code=503),
        "refused": smtplib.SMTPDataError(554, SECRET.encode()),
    }
    pickled = pickle.dumps(AllHostsFailed(errors))
    assert SECRET.encode() not in pickled
    shown = {key: str(error) for key, error in pickle.loads(pickled).errors.items()}
    assert shown == {"provider": "ProviderError", "refused": "SMTPDataError 554"}
