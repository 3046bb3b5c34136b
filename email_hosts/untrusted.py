"""DSNs that are not in the settings, and that a stranger may have written."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from .dsn import Mailer, parse, scheme_of
from .exceptions import InvalidEmailHost

MAX_LENGTH = 4096  # characters, which is far more than a real DSN has

# A stranger's server must not hold up a worker, keep a connection for hours, or take
# dozens of threads. Times are in seconds.
LIMITS = {"timeout": 600, "conn_max_age": 3600, "conn_max_idle": 10, "parallel": 4}

# These would show a file of this machine to a stranger, or reveal which files exist.
FILE_OPTIONS = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")


def parse_untrusted(
    dsn: str, schemes: str | Iterable[str], file_options: Collection[str]
) -> Mailer:
    """Parse a DSN, or raise ``InvalidEmailHost`` for what a stranger must not use.

    It must have one of these ``schemes``, and name files only in ``file_options``.
    """
    if isinstance(dsn, str) and len(dsn) > MAX_LENGTH:
        raise InvalidEmailHost(f"the DSN must have at most {MAX_LENGTH} characters")
    mailer = parse(dsn)
    scheme = scheme_of(dsn)
    allowed = [schemes] if isinstance(schemes, str) else sorted(schemes)
    if scheme not in allowed:
        raise InvalidEmailHost(
            f"scheme '{scheme}' is not allowed here; allowed: {', '.join(allowed)}"
        )
    options = mailer["OPTIONS"]
    if "oauth2" in options:
        raise InvalidEmailHost(
            "option 'oauth2' is not allowed in a DSN from elsewhere; pass username= and "
            "oauth2= to connection_from_dsn() yourself"
        )
    for name in FILE_OPTIONS:
        if name in options and name not in file_options:
            raise InvalidEmailHost(
                f"option '{name}' is not allowed in a DSN from elsewhere; to allow it, pass "
                f"file_options=['{name}'] to connection_from_dsn()"
            )
    for name, limit in LIMITS.items():
        if isinstance(options.get(name), (int, float)) and options[name] > limit:
            raise InvalidEmailHost(
                f"option '{name}' must be at most {limit} in a DSN from elsewhere"
            )
    return mailer
