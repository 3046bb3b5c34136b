"""Writes the DSN that stands for ``EMAIL_HOST``, ``EMAIL_PORT`` and the like."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from .. import conf
from ..addresses import is_ipv6
from ..dsn import parse
from ..exceptions import InvalidEmailHost
from ..host import default_port
from ..options import NOT_GIVEN, SMTP_OPTIONS

HIDDEN = "*****:*****@"

# By EMAIL_USE_SSL and EMAIL_USE_TLS.
SCHEMES = {(False, False): "smtp", (False, True): "submission", (True, False): "submissions"}

# For these, a DSN has neither a place of its own nor a scheme.
OPTIONS = ("timeout", "ssl_certfile", "ssl_keyfile")


def dsn_of_settings(*, show_login: bool = False) -> str:
    """Return the DSN that stands for the settings of Django's SMTP backend.

    Raises ``InvalidEmailHost`` if no DSN can.
    """
    if conf.has_mailers():  # pragma: mailers-only
        raise InvalidEmailHost(
            "with MAILERS, Django does not use EMAIL_HOST and the like; to get their DSN, "
            "remove MAILERS for this command"
        )
    given = {name: _checked(name, value) for name, value in conf.global_smtp_options().items()}
    scheme = SCHEMES.get((given["use_ssl"], given["use_tls"]))
    if scheme is None:
        raise InvalidEmailHost("EMAIL_USE_SSL and EMAIL_USE_TLS are mutually exclusive")
    server = given["host"]
    if is_ipv6(server):
        server = f"[{server.replace('%', '%25')}]"
    if given["port"] != default_port(given):
        server += f":{given['port']}"
    query = {name: given[name] for name in OPTIONS if given[name]}
    if query:
        server += f"?{urlencode(query, safe='/', quote_via=quote)}"
    login = ""
    if given["username"] and given["password"]:  # or Django's backend does not log in
        login = f"{quote(given['username'], safe='')}:{quote(given['password'], safe='')}@"
    parse(f"{scheme}://{login}{server}")  # or it says what does not go together
    return f"{scheme}://{login if show_login or not login else HIDDEN}{server}"


def _checked(name: str, value: Any) -> Any:
    option = SMTP_OPTIONS[name]
    if option.default is False:  # Django asks only whether it is true
        return bool(value)
    if value in NOT_GIVEN and name not in ("host", "port"):
        return ""
    try:
        return option.convert("" if value is None else str(value))
    except ValueError as error:
        raise InvalidEmailHost(f"{conf.SMTP_SETTINGS[name]} {error}") from None
