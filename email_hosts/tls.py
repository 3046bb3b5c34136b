"""TLS contexts, shared: building one takes over 20 ms."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path


def client_context(cafile: str, certfile: str, keyfile: str) -> ssl.SSLContext:
    """Return the context that trusts this authority and shows this certificate.

    An empty ``cafile`` stands for the authorities that the system trusts. A file that has
    changed makes a new context. Raises ``OSError`` for one that cannot be loaded.
    """
    changed = [Path(file).stat().st_mtime_ns for file in (cafile, certfile, keyfile) if file]
    return _context(cafile, certfile, keyfile, *changed)


@lru_cache(maxsize=64)
def _context(cafile: str, certfile: str, keyfile: str, *changed: int) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=cafile or None)
    if certfile:
        # With a password, an encrypted key is an error; without, OpenSSL asks the terminal.
        context.load_cert_chain(certfile, keyfile or None, password="")
    return context
