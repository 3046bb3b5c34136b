"""Keeps the login out of what a server has replied: some servers repeat it."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from typing import Any

STARS = "*****"
NOTHING = "(?!)"  # the pattern that matches nothing
BASE64 = "[A-Za-z0-9+/]"


class Censor:
    """Stars out one user name and one password, also in the forms in which AUTH sends them."""

    def __init__(self, username: str, password: str) -> None:
        words = [username, password]
        # smtplib quotes some replies as Python does: between one kind of mark or the other.
        quoted = [repr(f'{word}"')[1:-2] for word in words]
        words += [*quoted, *(word.replace(r"\'", "'") for word in quoted)]
        # AUTH sends these in base64. RFC 4616: PLAIN; RFC 2195: CRAM-MD5, before a digest.
        encoded = [username, password, f"\0{username}\0{password}", f"{username} "]
        patterns = (
            f"(?i:{_any_of(words)})",
            f"(?<!{BASE64})(?:{_any_of(map(_start_in_base64, encoded))}){BASE64}*=*",
        )
        self._secrets = "|".join(patterns) if username else NOTHING

    def clean(self, error: OSError) -> None:
        """Star them out of an error."""
        error.args = tuple(map(self.cleaned, error.args))
        for attribute in ("smtp_error", "recipients"):
            if hasattr(error, attribute):
                setattr(error, attribute, self.cleaned(getattr(error, attribute)))

    def cleaned(self, words: Any) -> Any:
        """Return a reply, or the replies by recipient, without them."""
        if isinstance(words, dict):
            return {who: (code, self.cleaned(text)) for who, (code, text) in words.items()}
        if isinstance(words, bytes):
            return re.sub(self._secrets.encode(), STARS.encode(), words)
        if isinstance(words, str):
            return re.sub(self._secrets, STARS, words)
        return words


def _any_of(words: Iterable[str]) -> str:
    """Return the pattern of these words.

    Not of those with one or two letters: little would be left of a reply. The longer ones
    come first, for one may be a part of another.
    """
    long = sorted((word for word in words if len(word) > 2), key=len, reverse=True)
    return "|".join(map(re.escape, long)) or NOTHING


def _start_in_base64(word: str) -> str:
    """Return that part of its base64 which stays the same if something follows the word."""
    return b64encode(word.encode()).decode()[: len(word.encode()) * 8 // 6]
