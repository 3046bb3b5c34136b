"""The callable of a project: what it returns or raises ends in a token or a clear error."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from email_hosts.backends import EmailHostsBackend
from email_hosts.exceptions import OAuth2Error
from email_hosts.oauth2.token_sources import Custom
from email_hosts.oauth2.tokens import Tokens

TOKEN = "Kx7vQz9"
AT = f"of {__file__})"


def ask(function, **options):
    return Tokens().get(Custom(function), "me@example.com", timeout=5, **options)


def failure(function):
    """Return why there is no token, without it."""
    with pytest.raises(OAuth2Error) as caught:
        ask(function)
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None
    assert (caught.value.__context__ is None) or caught.value.__suppress_context__
    return caught.value.reason


def test_is_called_with_the_user_name_and_whether_to_renew():
    calls = []

    def token(username, *, renew):
        calls.append((username, renew))
        return f"{TOKEN}-{renew}"

    assert ask(token) == f"{TOKEN}-False"
    assert ask(token, refused="old") == f"{TOKEN}-True"
    assert calls == [("me@example.com", False), ("me@example.com", True)]


def raises(error):
    def token(username, *, renew):
        raise error

    return token


def without_renew(username):
    """Cannot be called with ``renew``."""


class Error(Exception):
    """An error of somebody's library, whose text holds the token."""


@pytest.mark.parametrize("error", [Error(TOKEN), KeyError(TOKEN), OSError(5, TOKEN)])
def test_error_is_told_by_its_class_and_its_place(error):
    line = inspect.getsourcelines(raises)[1] + 2
    assert failure(raises(error)) == (
        f"no OAuth 2.0 token from {__name__}.raises.<locals>.token: it raised "
        f"{type(error).__name__} (line {line} {AT}"
    )


def test_oauth2_error_is_told_with_its_text():
    text = "invalid_grant:\r\n AADSTS700082: The refresh token has expired"
    assert failure(raises(OAuth2Error(text))).endswith(
        ".token: invalid_grant: AADSTS700082: The refresh token has expired"
    )


@pytest.mark.parametrize("function", [without_renew, print])
def test_wrong_signature_is_told(function):
    assert failure(function).endswith("it cannot be called as token(username, renew=True)")


def test_interruption_is_no_failure_of_the_login():
    with pytest.raises(KeyboardInterrupt):
        ask(raises(KeyboardInterrupt()))


@pytest.mark.parametrize("value", [None, TOKEN.encode(), {"access_token": TOKEN}, 5])
def test_anything_but_a_string_is_told_by_its_class(value):
    reason = failure(lambda username, renew: value)
    assert reason.endswith(f"it returned {type(value).__name__}, and not a string")


@pytest.mark.parametrize(
    "value",
    ["", " ", f"{TOKEN}\n", f"{TOKEN}\r\nRSET", f"{TOKEN}\1", f"{TOKEN} x", f"{TOKEN}é", "\0"],
)
def test_string_that_is_no_token_is_refused(value):
    reason = failure(lambda username, renew: value)
    assert reason == "the OAuth 2.0 token is empty, or not printable ASCII"


class Account:
    """Has a method for its tokens."""

    def token(self, username, *, renew):
        """It has none."""


ACCOUNT = Account()


@dataclass(frozen=True)
class NotHashable:
    """A callable that seems to be hashable, and is not."""

    scopes: list[str]

    def __call__(self, username, *, renew):
        return "token"


@pytest.mark.parametrize("make", [lambda: test_wrong_signature_is_told, lambda: ACCOUNT.token])
def test_same_callable_is_the_same_source(make):
    assert Custom(make()) == Custom(make())
    assert hash(Custom(make())) == hash(Custom(make()))


@pytest.mark.parametrize(
    "make", [lambda: Account().token, lambda: partial(print), lambda: NotHashable([]), Account]
)
def test_other_callable_is_another_source(make):
    kept = [Custom(make()) for _ in range(2)]
    assert len({*kept, Custom(print), Custom(repr)}) == 2 + len(set(kept))
    assert Custom(print) != print


def test_callable_need_not_be_hashable():
    assert ask(NotHashable([])) == "token"


def test_callable_object_is_told_by_its_class():
    assert failure(partial(print)).startswith("no OAuth 2.0 token from functools.partial: ")


def test_source_of_a_backend_shows_nothing():
    function: Any = partial(without_renew, TOKEN)
    backend = EmailHostsBackend("h", username="me", use_tls=True, oauth2=function)
    assert TOKEN not in repr(backend.oauth2)
