"""Named email hosts for Django. Safe to import in a settings file."""

from __future__ import annotations

from collections.abc import Mapping

from .dsn import Mailer, parse_hosts
from .tracebacks import clear_frames

__version__ = "1.0.0"


@clear_frames
def mailers(hosts: Mapping[str, str | None]) -> dict[str, Mailer]:
    """Return ``EMAIL_HOSTS`` as entries for Django's ``MAILERS``, without empty hosts.

    Raises ``InvalidEmailHost`` with the key of the first host that is not valid.
    """
    return parse_hosts(hosts)
