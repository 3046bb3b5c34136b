"""Gets a token from the token endpoint of an authorization server, over HTTPS.

The client authenticates in the body of the request, as Microsoft and Google document it.
"""

from __future__ import annotations

import http.client
import io
import json
import math
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import (
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from ..exceptions import OAuth2Error, one_line
from ..smtp.connection import LimitedReader
from ..smtp.redaction import Redactor
from ..smtp.tls import shared_context

PIECE = 8192  # bytes

clock = time.monotonic


class Token(NamedTuple):
    """A token, and how many seconds it is valid. 0 means unknown."""

    text: str
    lifetime: float = 0

    def __repr__(self) -> str:
        return "<Token>"


@dataclass(frozen=True, repr=False)
class Endpoint:
    """Where to ask for tokens, and as whom. RFC 6749, 4.4 (client credentials) and 6."""

    grant: str
    token_url: str
    client_id: str
    client_secret: str = ""
    scope: str = ""
    refresh_token: str = ""

    @property
    def name(self) -> str:
        """The server, for people to read."""
        return str(urlsplit(self.token_url).hostname)

    def key(self, username: str) -> Endpoint:
        """Return the key under which its tokens are kept. The user makes no difference."""
        return self

    def fetch(self, username: str, *, renew: bool, timeout: float) -> Token:
        """Return a new token, or raise ``OAuth2Error`` after about this number of seconds."""
        form = {
            "grant_type": self.grant,
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "scope": self.scope,
            "refresh_token": self.refresh_token,
        }
        body = urlencode({name: value for name, value in form.items() if value}).encode()
        try:
            status, content = _post(self.token_url, body, timeout)
        except (OSError, ValueError, http.client.HTTPException) as error:
            problem = str(error.reason if isinstance(error, URLError) else error)
            problem = problem.strip() or type(error).__name__
        else:
            answer = _object(content)
            token = answer.get("access_token")
            if status == http.HTTPStatus.OK and isinstance(token, str):
                return Token(token, _seconds(answer.get("expires_in")))
            problem = _refusal(status, answer)
        problem = Redactor("", "", self.client_secret, self.refresh_token).redact(problem)
        raise OAuth2Error(f"no OAuth 2.0 token from {self.name}: {one_line(problem)}")


def _post(url: str, body: bytes, timeout: float) -> tuple[int, bytes]:
    """Return the status and the content of the answer.

    A redirect is not followed, because the secret is meant for this address.
    """
    opener = OpenerDirector()
    opener.add_handler(_Handler(clock() + timeout))
    if url.startswith("https:"):  # only what is encrypted may go through a proxy
        opener.add_handler(ProxyHandler())
    request = Request(url, body, {"Accept": "application/json"})  # noqa: S310 (see validation.py)
    with opener.open(request, timeout=timeout) as answer:
        # In pieces: read() would allocate as much as the server says it will send.
        content = b"".join(iter(partial(answer.read, PIECE), b""))
        if answer.length:
            raise http.client.IncompleteRead(content, answer.length)
        return answer.status, content


class _Handler(HTTPSHandler, HTTPHandler):
    """urllib's handler, with a deadline for the request as a whole."""

    def __init__(self, deadline: float) -> None:
        self._tls = shared_context("", "", "")
        super().__init__(context=self._tls)
        self._deadline = deadline

    def http_open(self, request: Request) -> Any:
        """Return the answer to a request."""
        return self.do_open(partial(_Connection, deadline=self._deadline), request)

    def https_open(self, request: Request) -> Any:
        """Return the answer to a request over TLS."""
        connection = partial(_TLSConnection, deadline=self._deadline, context=self._tls)
        return self.do_open(connection, request)


class _Answer(http.client.HTTPResponse):
    """An answer whose size and time are limited like those of an SMTP reply."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._file = self.fp  # the socket stays open as long as this does
        reader = LimitedReader(sock)
        reader.begin()
        self.fp = io.BufferedReader(reader)

    def close(self) -> None:
        """Close the answer, and so its connection."""
        super().close()
        self._file.close()


class _Connection(http.client.HTTPConnection):
    """http.client's connection. After connecting, it has only the time that is left."""

    response_class = _Answer

    def __init__(self, *args: Any, deadline: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._deadline = deadline

    def connect(self) -> None:
        """Connect, over TLS if that is asked for."""
        super().connect()
        self.sock.settimeout(max(self._deadline - clock(), 0.001))


class _TLSConnection(_Connection, http.client.HTTPSConnection):
    """The same with TLS."""


def _object(content: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer, or an empty one if it is not an object."""
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _seconds(expires_in: Any) -> float:
    """Return what ``expires_in`` says. Some servers write it as a string."""
    try:
        seconds = float(expires_in)
    except (TypeError, ValueError, OverflowError):
        return 0
    return 0 if math.isnan(seconds) else seconds


def _refusal(status: int, answer: dict[str, Any]) -> str:
    """Return what an answer without a token says. RFC 6749, 5.2."""
    told = [answer.get(name) for name in ("error", "error_description")]
    if isinstance(told[0], str):
        return ": ".join(each for each in told if isinstance(each, str) and each)
    if 300 <= status <= 399:
        return f"it answered with a redirect ({status}); correct oauth2_token_url"
    return f"its answer ({status}) is not one of OAuth 2.0; look at oauth2_token_url"
