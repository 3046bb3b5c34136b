"""Named email hosts for Django. Safe to import in a settings file."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

from .boundary import boundary
from .dsn import parse
from .exceptions import checked_key
from .host import Mailer, dict_of_hosts
from .options import NOT_GIVEN

__version__ = "1.0.0"


@boundary
def mailers(hosts: Mapping[str, str | None]) -> dict[str, Mailer]:
    """Return ``EMAIL_HOSTS`` as entries for Django's ``MAILERS``, without empty hosts.

    Raises ``InvalidEmailHost`` with the key of the first host that is not valid.
    """
    return {
        checked_key(key): deepcopy(parse(dsn, key).mailer)
        for key, dsn in dict_of_hosts(hosts).items()
        if dsn not in NOT_GIVEN
    }
