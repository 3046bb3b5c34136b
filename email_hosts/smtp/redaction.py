"""Removes the login from replies of a server: some servers repeat it."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from typing import Any

STARS = "*****"
NOTHING = "(?!)"  # the pattern that matches nothing
BASE64 = "[A-Za-z0-9+/]"


class Redactor:
    """Replaces one user name and one password with stars, also as AUTH encodes them.

    The password may be a token.
    """

    def __init__(self, username: str, password: str) -> None:
        self._secrets = NOTHING
        if not username:
            return
        words = [username, password]
        # What AUTH sends in base64: these, PLAIN (RFC 4616), CRAM-MD5 up to its digest
        # (RFC 2195), and XOAUTH2 up to its token.
        sent = [*words, f"\0{username}\0{password}", f"{username} ", f"user={username}\1"]
        # smtplib shows some replies as repr() does, which escapes some characters.
        quoted = [repr(f'{word}"')[1:-2] for word in words]
        words += [*quoted, *(word.replace(r"\'", "'") for word in quoted)]
        encoded = _any_of(map(_start_in_base64, sent))
        self._secrets = f"(?i:{_any_of(words)})|(?<!{BASE64})(?:{encoded}){BASE64}*=*"

    def redact_error(self, error: BaseException) -> None:
        """Remove the login from an error, which may be one of smtplib."""
        error.args = tuple(map(self.redact, error.args))
        for attribute in ("smtp_error", "recipients"):
            if hasattr(error, attribute):
                setattr(error, attribute, self.redact(getattr(error, attribute)))

    def redact(self, reply: Any) -> Any:
        """Return a reply, or the replies by recipient, without the login."""
        if isinstance(reply, dict):
            return {
                recipient: (code, self.redact(text))
                for recipient, (code, text) in reply.items()
            }
        if isinstance(reply, bytes):
            return re.sub(self._secrets.encode(), STARS.encode(), reply)
        if isinstance(reply, str):
            return re.sub(self._secrets, STARS, reply)
        return reply


def _any_of(words: Iterable[str]) -> str:
    """Return the pattern of these words.

    It leaves out words of one or two letters, which would star out half of a reply. Longer
    words come first, because one may be the beginning of another.
    """
    long = sorted((word for word in words if len(word) > 2), key=len, reverse=True)
    return "|".join(map(re.escape, long)) or NOTHING


def _start_in_base64(word: str) -> str:
    """Return the part of its base64 that does not depend on what follows the word."""
    return b64encode(word.encode()).decode()[: len(word.encode()) * 8 // 6]
