"""The tokens of this process: kept until they expire, each fetched by one thread."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Hashable
from functools import partial
from typing import NamedTuple

from ..exceptions import OAuth2Error
from .token_endpoint import Token
from .token_sources import Source

# A token is not used in the last seconds of its lifetime.
MARGIN = 60

# In seconds. No token is kept longer, whatever the server says.
MAX_LIFETIME = 86400

# A project may log in as each of its customers.
MAX_KEPT = 1000

# RFC 6749, A.12, without the space, which would end the token in a header.
TOKEN = re.compile("[!-~]+")


class _Kept(NamedTuple):
    text: str
    expires_at: float  # by the clock of the tokens

    def __repr__(self) -> str:
        return "<Kept>"


class _Fetch:
    """A fetch, which may have ended. If interrupted, it has no token and no failure."""

    def __init__(self) -> None:
        self.owner = os.getpid(), threading.get_ident()
        self.has_ended = threading.Event()
        self.token = ""
        self.failure = ""

    def can_be_waited_for(self) -> bool:
        """Whether it is under way, in another thread of this process.

        A signal handler may send mail while its own thread fetches. The fetches of a
        parent process never end in the child.
        """
        process, thread = self.owner
        is_of_another = process == os.getpid() and thread != threading.get_ident()
        return is_of_another and not self.has_ended.is_set()


class Tokens:
    """Gets tokens from sources, and keeps those whose lifetime is known."""

    clock = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget the tokens, and the fetches that are under way."""
        self._kept: dict[Hashable, _Kept] = {}
        self.forget_fetches()

    def forget_fetches(self) -> None:
        """Forget the fetches and the lock: a forked child has no other threads."""
        # Reentrant: a signal handler may send mail while its thread holds the lock.
        self._lock = threading.RLock()
        self._fetches: dict[Hashable, _Fetch] = {}

    def get(self, source: Source, username: str, *, timeout: float, refused: str = "") -> str:
        """Return a token for this user, but not one that a server has just ``refused``.

        Threads that want the same token wait for one fetch, at most ``timeout``
        seconds. Raises ``OAuth2Error``.
        """
        key = source.key(username)
        while True:
            fetch = _Fetch()
            try:
                known = self._kept_or_fetch(key, refused, fetch)
                if isinstance(known, str):
                    return known
                if known is fetch:
                    is_renewal = bool(refused)
                    ask = partial(source.fetch, username, renew=is_renewal, timeout=timeout)
                    return self._run(fetch, key, ask)
            finally:
                fetch.has_ended.set()
                self._drop(key, fetch)
            if not known.has_ended.wait(timeout):
                self._drop(key, known)  # a signal handler may have interrupted its end
                problem = f"another thread has been asking for one for {timeout:g} seconds"
                raise OAuth2Error(f"no OAuth 2.0 token: {problem}")
            if known.failure:
                raise OAuth2Error(known.failure)
            if known.token not in ("", refused):
                return known.token

    def _kept_or_fetch(self, key: Hashable, refused: str, fetch: _Fetch) -> str | _Fetch:
        """Return a kept token, or the fetch to use: ``fetch`` if there is no other."""
        with self._lock:
            kept = self._kept.get(key)
            if kept and (kept.text == refused or self.clock() >= kept.expires_at):
                del self._kept[key]
            elif kept:
                return kept.text
            other = self._fetches.get(key)
            if other and other.can_be_waited_for():
                return other
            self._fetches[key] = fetch
            return fetch

    def _run(self, fetch: _Fetch, key: Hashable, ask: Callable[[], Token]) -> str:
        """Return what ``ask`` returns. Note it in the fetch for other threads."""
        began = self.clock()
        try:
            token = ask()
            if not TOKEN.fullmatch(token.text):
                raise OAuth2Error("the OAuth 2.0 token is empty, or not printable ASCII")
        except OAuth2Error as error:
            fetch.failure = error.reason
            raise
        lifetime = min(token.lifetime, MAX_LIFETIME) - MARGIN
        if lifetime > 0:
            with self._lock:
                self._kept[key] = _Kept(token.text, began + lifetime)
                if len(self._kept) > MAX_KEPT:
                    del self._kept[next(iter(self._kept))]
        fetch.token = token.text
        return token.text

    def _drop(self, key: Hashable, fetch: _Fetch) -> None:
        with self._lock:
            if self._fetches.get(key) is fetch:
                del self._fetches[key]


tokens = Tokens()
if hasattr(os, "register_at_fork"):  # pragma: no branch (there is no fork on Windows)
    os.register_at_fork(after_in_child=tokens.forget_fetches)
