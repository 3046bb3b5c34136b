"""TLS contexts for connections to mail servers."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path

# OpenSSL's names for an answer that is not TLS. They depend on its version.
NOT_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"}
NOT_TLS_HINT = "the server does not begin with TLS; submission:// is for STARTTLS"
NO_STARTTLS_HINT = "submissions:// is for TLS from the first byte, smtp:// for no TLS"


def hint_for(error: ssl.SSLError) -> str:
    """Return what to write instead. Empty where the error says all."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return NOT_TLS_HINT if getattr(error, "reason", "") in NOT_TLS else ""
    if "mismatch" in getattr(error, "verify_message", ""):  # OpenSSL sets both
        return "write the name of the server that its certificate has"
    return "to trust an authority of your own, name its file in ssl_cafile"


def new_context(cafile: str, certfile: str, keyfile: str) -> ssl.SSLContext:
    """Return a context that trusts this authority and presents this certificate.

    An empty ``cafile`` stands for the authorities that the system trusts. Raises ``OSError``
    for a file that cannot be loaded.
    """
    context = ssl.create_default_context(cafile=cafile or None)
    if certfile:
        # With an empty password, an encrypted key is an error. With none, OpenSSL would
        # ask for one on the terminal.
        context.load_cert_chain(certfile, keyfile or None, password="")
    return context


def shared_context(cafile: str, certfile: str, keyfile: str) -> ssl.SSLContext:
    """Return the same context each time, because building one takes over 20 ms.

    You must not change it. A changed file makes a new one. Raises ``OSError``.
    """
    changed = [Path(file).stat().st_mtime_ns for file in (cafile, certfile, keyfile) if file]
    return _context(cafile, certfile, keyfile, *changed)


@lru_cache(maxsize=64)
def _context(cafile: str, certfile: str, keyfile: str, *changed: int) -> ssl.SSLContext:
    return new_context(cafile, certfile, keyfile)
