"""Keeps the login out of what a server has replied: some servers repeat it."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any

STARS = "*****"
NOTHING = "(?!)"  # the pattern that matches nothing


class Censor:
    """Stars out one user name and one password, also in the forms in which AUTH sends them."""

    def __init__(self, username: str, password: str) -> None:
        plain = f"\0{username}\0{password}"  # RFC 4616
        words = [username, password, plain]
        words += [_base64(word) for word in words]
        # smtplib quotes some replies as Python does: between one kind of mark or the other.
        quoted = [repr(f'{word}"')[1:-2] for word in words]
        words += [*quoted, *(word.replace(r"\'", "'") for word in quoted)]
        # Not words of one or two letters: little would be left of a reply. The longer words
        # come first, for one may be a part of another.
        forms = sorted((word for word in words if len(word) > 2), key=len, reverse=True)
        # CRAM-MD5 (RFC 2195) sends the user name, a space and a digest, in one word of base64.
        cram = _base64(f"{username} ")[: len(f"{username} ") * 8 // 6]
        patterns = (
            f"(?i:{'|'.join(map(re.escape, forms))})",
            f"(?<![A-Za-z0-9+/]){re.escape(cram)}[A-Za-z0-9+/]*=*",
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


def _base64(word: str) -> str:
    return b64encode(word.encode()).decode()
