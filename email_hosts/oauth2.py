"""OAuth 2.0: gets the tokens with which an SMTP host logs in, and keeps them.

Imported only for a host that has ``oauth2``: urllib's HTTP client takes time to import.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request

from django.utils.module_loading import import_string

from .exceptions import InvalidEmailHost, OAuth2Error, one_line, path_of, raise_time_limit
from .smtp.redaction import Redactor
from .smtp.tls import shared_context
from .values import begins_with_module

# In seconds. A token is not used at the end of its lifetime, and is kept for a day at most.
MARGIN = 60
MAX_LIFETIME = 86400

# A project may log in as each of its customers.
MAX_KEPT = 1000

# In bytes. Real ones have a few kilobytes. A longer one is cut off, so it is not valid JSON.
MAX_ANSWER = 65536

# RFC 6749, A.12, without the space, which would end the token in a header.
TOKEN = re.compile("[!-~]+")

# What is shown of an error (RFC 6749, 5.2), because its text may repeat a secret: a word, as
# all registered errors are, without digits, which nearly all secrets have; Microsoft's code.
SHOWN = {
    "error": re.compile(r"[A-Za-z_.-]{1,40}\Z"),
    "error_description": re.compile(r"AAD[A-Z0-9]{3}[0-9]{1,9}\b"),
}


@dataclass(frozen=True, repr=False)
class Endpoint:
    """A token endpoint, and whom it knows us as. RFC 6749, 4.4 (client credentials) and 6.

    The client authenticates in the body, as Microsoft and Google document it.
    """

    grant_type: str
    token_url: str
    client_id: str
    client_secret: str = ""
    scope: str = ""
    refresh_token: str = ""

    def key(self, username: str) -> Hashable:
        """Return the key under which its tokens are kept. The user makes no difference."""
        return self

    def fetch(self, username: str, *, renew: bool, timeout: float) -> tuple[str, float]:
        """Return a new token and its lifetime in seconds, 0 if that is unknown.

        ``timeout`` is for each network step. Raises ``OAuth2Error``.
        """
        form = {name: value for name, value in vars(self).items() if value}
        del form["token_url"]
        body = urlencode(form).encode()
        try:
            status, answer = _post(self.token_url, body, timeout)
        except (OSError, ValueError) as error:
            problem = str(error.reason if isinstance(error, URLError) else error)
            problem = one_line(problem) or type(error).__name__
        except HTTPException as error:
            problem = type(error).__name__  # its text may be that of the server
        else:
            token = answer.get("access_token")
            if status == HTTPStatus.OK and isinstance(token, str):
                return token, _seconds(answer.get("expires_in"))
            problem = _refusal(status, answer)
        server = urlsplit(self.token_url).hostname
        raise OAuth2Error(f"no OAuth 2.0 token from {server}: {problem}")


def _post(url: str, body: bytes, timeout: float) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON object of the answer, an empty one if it has none.

    No redirect is followed, because the secret is meant for this address.
    """
    opener = OpenerDirector()
    request = Request(url, body, {"Accept": "application/json"})  # noqa: S310 (it is checked)
    if request.type == "https":  # only what is encrypted may go through a proxy
        opener.add_handler(ProxyHandler())
        opener.add_handler(HTTPSHandler(context=shared_context("", "", "")))
    else:
        opener.add_handler(HTTPHandler())
    with opener.open(request, timeout=timeout) as answer:
        status, content = answer.status, answer.read(MAX_ANSWER)
    found = None
    with suppress(ValueError, RecursionError):
        found = json.loads(content)
    return status, found if isinstance(found, dict) else {}


def _seconds(expires_in: Any) -> float:
    """Return what ``expires_in`` says. Some servers write it as a string."""
    try:
        return float(expires_in)
    except (TypeError, ValueError, OverflowError):
        return 0


def _refusal(status: int, answer: dict[str, Any]) -> str:
    """Return what is shown of an answer without a token."""
    given = [name for name in SHOWN if isinstance(answer.get(name), str)]
    shown = [match[0] for name in given if (match := SHOWN[name].match(answer[name]))]
    if shown:
        return ": ".join(shown)
    if 300 <= status <= 399:
        return f"it answered with a redirect ({status}); correct oauth2_token_url"
    return f"its answer ({status}) is not one of OAuth 2.0; check oauth2_token_url"


@dataclass(frozen=True, repr=False)
class Custom:
    """A callable of the project: ``token(username, *, renew)`` returns a token.

    The callable keeps its tokens itself, because only it knows how long they are valid.
    """

    function: Callable[..., Any] = field(hash=False)  # it may have no hash

    def key(self, username: str) -> Hashable:
        """Return the key of its locks. Each user has their own tokens."""
        return self, username

    def fetch(self, username: str, *, renew: bool, timeout: float) -> tuple[str, float]:
        """Return what the callable returns, with a lifetime that is unknown.

        Raises ``OAuth2Error``, with the reason of one that the callable raises. Of any
        other error it names only the class, because the text may hold a token.
        """
        try:
            token = self.function(username, renew=renew)
        except OAuth2Error as error:
            problem = one_line(Redactor(username, "").redact(error.reason))
        except Exception as error:  # whatever else it raises, the login has failed
            raise_time_limit(error)
            problem = _raised(error)
        else:
            if isinstance(token, str):
                return token, 0
            problem = f"it must return a string, not {type(token).__name__}"
        raise OAuth2Error(f"no OAuth 2.0 token from {path_of(self.function)}: {problem}")


def _raised(error: Exception) -> str:
    """Return the class of an error and where the callable has raised it."""
    own = traceback.extract_tb(error.__traceback__)[1:2]
    if not own:  # Python could not even call it
        return "it cannot be called as token(username, renew=True)"
    return f"it raised {type(error).__name__} (line {own[0].lineno} of {own[0].filename})"


Source = Endpoint | Custom


def source_of(options: Mapping[str, Any]) -> Source:
    """Return where the tokens of a host come from. Equal sources have the same tokens.

    ``options`` are valid, by their Python names, and have ``oauth2``. Raises
    ``InvalidEmailHost`` if it is the path of something that cannot be imported or called.
    """
    oauth2 = path = options["oauth2"]
    if isinstance(oauth2, str) and "." in oauth2:
        try:
            oauth2 = import_string(path)
        except Exception as error:  # whatever its module raises
            raise_time_limit(error)
            problem = str(error)
            if not begins_with_module(path):  # it may be a token
                problem = "there is no such module; write the path of a function, not a token"
            raise InvalidEmailHost(f"option 'oauth2' cannot be imported: {problem}") from None
        if not callable(oauth2):
            raise InvalidEmailHost(f"option 'oauth2': '{path}' is not callable")
    if callable(oauth2):
        return Custom(oauth2)
    names = [each.name for each in fields(Endpoint) if each.name != "grant_type"]
    return Endpoint(oauth2, **{name: options.get(f"oauth2_{name}") or "" for name in names})


class Tokens:
    """The tokens of this process: kept until they expire, each fetched by one thread."""

    clock = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget all tokens."""
        self._kept: dict[Hashable, tuple[str, float]] = {}  # and when it expires
        self._locks: dict[Hashable, Any] = {}

    def get(self, source: Source, username: str, *, timeout: float, refused: str = "") -> str:
        """Return a token for this user, but not one that a server has just ``refused``.

        Threads that want the same token wait for the one that fetches it, at most
        ``timeout`` seconds. Raises ``OAuth2Error``.
        """
        key = source.key(username)
        if kept := self._find(key, refused):
            return kept
        # Of this process: a lock that is held during a fork is never released in the child.
        # Reentrant: a signal handler may send mail while its own thread fetches.
        of_process = os.getpid(), key
        lock = self._locks.setdefault(of_process, threading.RLock())
        _drop_oldest(self._locks)
        try:
            if not lock.acquire(timeout=timeout):
                # Perhaps for ever: an interruption may have prevented its release.
                self._locks.pop(of_process, None)
                problem = f"another thread has been asking for one for {timeout:g} seconds"
                raise OAuth2Error(f"no OAuth 2.0 token: {problem}")
            if kept := self._find(key, refused):
                return kept
            self._kept.pop(key, None)
            began = self.clock()
            token, lifetime = source.fetch(username, renew=bool(refused), timeout=timeout)
            if not TOKEN.fullmatch(token):
                raise OAuth2Error("the OAuth 2.0 token is empty, or not printable ASCII")
            if lifetime > MARGIN:
                expires_at = began + min(lifetime, MAX_LIFETIME) - MARGIN
                self._kept[key] = token, expires_at
                _drop_oldest(self._kept)
            return token
        finally:
            with suppress(RuntimeError):  # this thread does not hold it
                lock.release()

    def _find(self, key: Hashable, refused: str) -> str:
        """Return a kept token, or ``""``."""
        token, expires_at = self._kept.get(key, ("", 0))
        return token if token != refused and self.clock() < expires_at else ""


def _drop_oldest(kept: dict[Hashable, Any]) -> None:
    """Drop what is above ``MAX_KEPT``. Others may do the same meanwhile."""
    if len(kept) > MAX_KEPT:
        for key in list(kept)[:-MAX_KEPT]:
            kept.pop(key, None)


tokens = Tokens()
