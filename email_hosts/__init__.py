"""Named email hosts for Django. Safe to import in a settings file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .frames import clear_frames

if TYPE_CHECKING:
    from .dsn import Mailer

__version__ = "1.0.0"


@clear_frames
def mailers(hosts: Mapping[str, str | None]) -> dict[str, Mailer]:
    """Return ``EMAIL_HOSTS`` as entries for Django's ``MAILERS``, without empty hosts.

    Raises ``InvalidEmailHost`` with the key of the first host that is not valid.
    """
    # Imported here, so that reading the version, as the build does, needs no dependency.
    from .dsn import parse_hosts

    return parse_hosts(hosts)
