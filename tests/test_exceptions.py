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
    ("error", "attributes"),
    [
        (AllHostsFailed({"a": OSError()}, alias="safe"), {"alias": "safe"}),
        (InvalidEmailHost("no", alias="a", setting="MAILERS"), {"alias": "a", "reason": "no"}),
        (EmailHostDoesNotExist("no", alias="a"), {"alias": "a", "reason": "no"}),
        (OAuth2Error("no"), {"reason": "no", "smtp_code": 454}),
    ],
)
def test_error_is_the_same_on_the_other_side(error, attributes):
    loaded = pickle.loads(pickle.dumps(error))
    assert (repr(loaded), str(loaded)) == (repr(error), str(error))
    assert {name: getattr(loaded, name) for name in attributes} == attributes


def test_error_of_a_provider_travels_without_its_request():
    provider = OSError(f"request with {SECRET}")
    provider.request = lambda: SECRET  # type: ignore[attr-defined]  # it cannot be pickled
    errors = {"provider": provider, "refused": smtplib.SMTPDataError(554, SECRET.encode())}
    pickled = pickle.dumps(AllHostsFailed(errors))
    assert SECRET.encode() not in pickled
    shown = {key: str(error) for key, error in pickle.loads(pickled).errors.items()}
    assert shown == {"provider": "OSError", "refused": "SMTPDataError 554"}
