"""Where the tokens of a host come from: a token endpoint, or a callable of the project."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

from django.utils.module_loading import import_string

from ..exceptions import InvalidEmailHost, OAuth2Error, one_line
from ..options import OAUTH2_OPTIONS
from .token_endpoint import Endpoint, Token
from .validation import NEEDED, problem_with


class Source(Protocol):
    """Where tokens come from. Equal sources have the same tokens."""

    def key(self, username: str) -> Hashable:
        """Return the key under which its tokens are kept."""

    def fetch(self, username: str, *, renew: bool, timeout: float) -> Token:
        """Return a token. Raises ``OAuth2Error``."""


def source_of(options: Mapping[str, Any]) -> Source | None:
    """Return the source that the options of a host name, or ``None`` if they name none.

    Raises ``InvalidEmailHost`` if they are not valid.
    """
    oauth2 = options["oauth2"]
    problem = problem_with(options)
    if not problem and isinstance(oauth2, str) and oauth2 not in NEEDED:
        path = oauth2
        try:
            oauth2 = import_string(path)
        except Exception as error:  # whatever its module raises
            problem = f"option 'oauth2': '{path}' cannot be imported: {error}"
        else:
            if not callable(oauth2):
                problem = f"option 'oauth2': '{path}' is not callable"
    if problem:
        raise InvalidEmailHost(problem)
    if not oauth2:
        return None
    if callable(oauth2):
        return Custom(oauth2)
    details = {
        name.removeprefix("oauth2_"): options[name] or ""
        for name in OAUTH2_OPTIONS
        if name != "oauth2"
    }
    return Endpoint(oauth2, **details)


class Custom:
    """A callable of the project: ``token(username, *, renew)`` returns a token.

    The callable keeps its tokens itself, because only it knows how long they are valid.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Custom) and self._function == other._function

    def __hash__(self) -> int:
        try:
            return hash(self._function)
        except TypeError:
            return id(self._function)

    def key(self, username: str) -> Hashable:
        """Return the key under which its tokens are kept. Each user has their own."""
        return self, username

    def fetch(self, username: str, *, renew: bool, timeout: float) -> Token:
        """Return what the callable returns.

        Raises ``OAuth2Error``, with the reason of one that the callable raises. Of any
        other error it names only the class, because the text may hold a token.
        """
        try:
            token = self._function(username, renew=renew)
        except OAuth2Error as error:
            problem = one_line(error.reason)
        except Exception as error:  # whatever it raises, the login has failed
            problem = _raised(error)
        else:
            if isinstance(token, str):
                return Token(token)
            problem = f"it returned {type(token).__name__}, and not a string"
        raise OAuth2Error(f"no OAuth 2.0 token from {self._name}: {problem}")

    @property
    def _name(self) -> str:
        function: Any = self._function
        named = function if hasattr(function, "__qualname__") else type(function)
        return f"{named.__module__}.{named.__qualname__}"


def _raised(error: Exception) -> str:
    """Return the class of an error and where the callable has raised it."""
    own = traceback.extract_tb(error.__traceback__)[1:2]
    if not own:  # Python could not even call it
        return "it cannot be called as token(username, renew=True)"
    return f"it raised {type(error).__name__} (line {own[0].lineno} of {own[0].filename})"
