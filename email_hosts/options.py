"""The options of hosts, in one table.

DSNs, calls, entries of ``MAILERS``, checks and commands read it. To add an option, add a row.
Outside the table, only the code that uses a value names the option.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from . import values
from .addresses import ehlo_name, email_address, host_or_address, recipients
from .exceptions import InvalidEmailHost
from .values import CLIENT_CREDENTIALS, OAUTH2_GRANTS, REFRESH_TOKEN, Converter

# With one of these values, an option is not given, and a host is missing.
NOT_GIVEN = (None, "")

# The prefix of the option for a header. The name of the header follows.
HEADER = "_header-"

# Headers that a host does not add, because they are a matter of each message.
OF_EACH_MESSAGE = (
    "from|reply-to|return-path|to|cc|bcc|sender|subject|date|message-id|mime-version|"
    "content-.*|resent-.*"
)


class Option(NamedTuple):
    """A row of the table: all that is special about one option."""

    name: str  # in Python
    in_dsn: str  # "" where a DSN has a place of its own for it
    convert: Converter  # of the text in a DSN
    in_python: Callable[[Any], Any] | None = None  # None: it is text there, too
    default: Any = ""
    is_secret: bool = False
    for_strangers: bool = True  # whether a DSN from elsewhere may have it
    limit: float | None = None  # the maximum in a DSN from elsewhere
    needs: str = ""  # another option, without which it is an error, by its name in Python
    only_with: str = ""  # another one, without which it has no effect
    can_be_removed: bool = True  # by a call
    grants: Mapping[str, bool] = {}  # grant types that allow it: whether they require it

    def of(self, value: Any) -> Any:
        """Return a value given in Python as a DSN would give it, or raise ``ValueError``."""
        return self.in_python(value) if self.in_python else self.convert(values.text(value))


def _text(name: str, convert: Converter = values.not_empty, **more: Any) -> Option:
    return Option(**{"name": name, "in_dsn": name, "convert": convert, **more})


def _flag(name: str, in_dsn: str, **more: Any) -> Option:
    return Option(name, in_dsn, values.boolean, values.boolean_in_python, False, **more)


def _number(name: str, convert: Converter, default: Any = None, **more: Any) -> Option:
    in_python = partial(values.number_in_python, convert)
    return _text(name, convert, in_python=in_python, default=default, **more)


def _address(name: str, **more: Any) -> Option:
    return Option(name, f"_{name}", email_address, **more)


def _headers(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a dict of names and texts, not {type(value).__name__}")
    headers: dict[str, str] = {}
    for name, each in value.items():
        try:
            add_header(headers, str(name), values.text(each))
        except ValueError as error:
            raise ValueError(f"has {str(name)!r}, which {error}") from None
    return headers


# A token would go to the stranger's server.
_OAUTH2: dict[str, Any] = {"for_strangers": False, "needs": "oauth2"}
_EACH = dict.fromkeys(OAUTH2_GRANTS, True)

# The limits: a stranger's server must not hold up a worker, keep a connection for hours, or
# take dozens of threads. Times are in seconds. Connections with the same options of a session
# share what is parked.
OF_SESSION = (
    _text("host", host_or_address, in_dsn=""),
    _number("port", partial(values.whole_number, maximum=65535), in_dsn=""),
    _text("username", str, in_dsn="", is_secret=True),
    _text("password", str, in_dsn="", is_secret=True),
    _flag("use_tls", "tls"),
    _flag("use_ssl", "ssl"),
    _number("timeout", values.seconds, limit=600),
    # A file would show its content to a stranger, or reveal that it exists.
    _text("ssl_certfile", for_strangers=False),
    _text("ssl_keyfile", for_strangers=False, needs="ssl_certfile"),
    _text("ssl_cafile", for_strangers=False),
    _text("local_hostname", ehlo_name),
    _number("conn_max_age", values.seconds, limit=3600),
    _number("conn_max_messages", values.whole_number, 100, only_with="conn_max_age"),
)
OF_SMTP = (
    *OF_SESSION,
    _number("conn_max_idle", values.whole_number, 10, limit=10, only_with="conn_max_age"),
    # Servers allow far fewer connections, and each takes a thread.
    _number("parallel", partial(values.whole_number, maximum=50), 1, limit=4),
    Option("oauth2", "oauth2", values.oauth2, values.oauth2_in_python, for_strangers=False),
    _text("oauth2_token_url", values.token_url, grants=_EACH, **_OAUTH2),
    _text("oauth2_client_id", grants=_EACH, **_OAUTH2),
    _text(
        "oauth2_client_secret",
        is_secret=True,
        grants={CLIENT_CREDENTIALS: True, REFRESH_TOKEN: False},
        **_OAUTH2,
    ),
    _text("oauth2_scope", grants=dict.fromkeys(OAUTH2_GRANTS, False), **_OAUTH2),
    _text("oauth2_refresh_token", is_secret=True, grants={REFRESH_TOKEN: True}, **_OAUTH2),
)
# A new one begins with an underscore in a DSN. Without one, it would hide an option of the
# same name that a backend of another package has.
OF_ANY_HOST = (
    _address("default_from_email"),
    _address("server_email"),
    _address("reply_to"),
    _address("envelope_from"),
    Option("headers", f"{HEADER}NAME", str, _headers, {}),
    # No call may switch a redirect off by accident.
    _address("redirect_to", can_be_removed=False),
    Option(
        "allowed_recipients",
        "_allowed_recipients",
        recipients,
        values.recipients_in_python,
        (),
        can_be_removed=False,
        needs="redirect_to",
    ),
    Option("rate", "rate", values.limits, values.limits_in_python, ()),
    _text("rate_by", values.rate_by, default=values.MESSAGES, needs="rate"),
)
OF_SEVERAL = (
    Option("hosts", "", str, values.keys_in_python, ()),
    _number("retry", values.seconds, 60),
    _flag("rotate", ""),
)

Table = Mapping[str, Option]  # by the name in Python


def _table(*rows: Option) -> Table:
    return {option.name: option for option in rows}


HOST_OPTIONS = _table(*OF_ANY_HOST)
SMTP_OPTIONS = _table(*OF_SMTP, *OF_ANY_HOST)
SEVERAL_OPTIONS = _table(*OF_SEVERAL, *OF_ANY_HOST)


def by_name_in_dsn(table: Table) -> dict[str, Option]:
    """Return the options that the query of a DSN may have."""
    return {option.in_dsn: option for option in table.values() if option.in_dsn}


# What others call an option of ours, without underscores before it.
OTHER_NAMES = {
    **dict.fromkeys(("from", "sender"), "default_from_email"),
    **dict.fromkeys(("verify", "ssl_verify", "verify_ssl"), "ssl_cafile"),
    "oauth2_secret": "oauth2_client_secret",
    "oauth2_token": "oauth2_refresh_token",
    "starttls": "use_tls",
    "rate_limit": "rate",
}

# What is no option here or is given twice, and what to write instead.
INSTEAD = {
    "rotate": "; write roundrobin: instead of failover:",
    "router": "; the setting EMAIL_HOSTS_ROUTER names the router",
    "rate": "; write rate=14/s,50000/d",
    "_allowed_recipients": "; write _allowed_recipients=me@example.com,example.org",
}

# What a DSN has before its options.
BEFORE_OPTIONS = {
    **dict.fromkeys(
        ("user", "username", "password"),
        "; write both before the host: submission://user:password@smtp.example.com",
    ),
    **dict.fromkeys(
        ("host", "hostname", "server", "port"),
        "; write it after two slashes: smtp.example.com:2525",
    ),
}


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return ``; did you mean 'timeout'?``, or ``""`` if no known word is close.

    ``cutoff`` is that of ``difflib``: 1 matches only the word itself.
    """
    nearest = difflib.get_close_matches(word, list(known), 1, cutoff)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""


def instead_of(name: str, table: Table, *, in_dsn: bool) -> str:
    """Return what to write instead of a name that is no option, or ``""``."""
    spelled = {
        option.name: option.in_dsn if in_dsn else option.name for option in table.values()
    }
    if in_dsn and name in BEFORE_OPTIONS:
        return BEFORE_OPTIONS[name]
    plain = name.lstrip("_")
    if plain in OTHER_NAMES and (meant := spelled.get(OTHER_NAMES[plain])):
        return f"; did you mean '{meant}'?"
    return INSTEAD.get(name) or did_you_mean(name, filter(None, spelled.values()))


def known_options(names: Iterable[str]) -> str:
    """Return the names of options, where nothing better is to be said."""
    return f"; known options: {', '.join(names)}"


def add_header(headers: dict[str, str], name: str, value: str) -> None:
    """Add a header that a host gives to its messages.

    Raises ``ValueError`` for one that is a matter of each message, or that is given twice.
    """
    if not re.fullmatch("[!-9;-~]+", name):  # RFC 5322, 2.2
        raise ValueError(
            "must name a header in printable ASCII without spaces and colons, like X-Shop"
        )
    if re.fullmatch(OF_EACH_MESSAGE, name.lower()):
        raise ValueError(
            "cannot be added by a host, because it is a matter of each message; for an "
            "address, write _default_from_email, _reply_to or _envelope_from"
        )
    if name.lower() in map(str.lower, headers):
        raise ValueError("is given twice")
    headers[name] = values.not_empty(value)


def missing_headers(headers: Mapping[str, str], present: Iterable[str]) -> dict[str, str]:
    """Return the headers that are not present. Names may differ in case."""
    names = {name.lower() for name in present}
    return {name: value for name, value in headers.items() if name.lower() not in names}


def checked(given: Mapping[str, Any], table: Table, *, others: bool = False) -> dict[str, Any]:
    """Return options given in Python, as a DSN would give them. Empty ones are left out.

    ``others`` allows options that are not in the table, because a backend that is not ours
    has its own. Raises ``InvalidEmailHost``.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        option = table.get(name)
        if option is None:
            if not others or name.startswith("_"):
                raise InvalidEmailHost(f"unknown option {name!r}{_in_python(name, table)}")
            found[name] = value
        elif value not in NOT_GIVEN:
            try:
                found[name] = option.of(value)
            except ValueError as error:
                raise InvalidEmailHost(f"option '{name}' {error}") from None
    return found


def _in_python(name: str, table: Table) -> str:
    """Return what to write in Python instead of this."""
    in_dsn = by_name_in_dsn(table)
    if name.startswith(HEADER):
        return f"; in Python, write headers={{{name.removeprefix(HEADER)!r}: ...}}"
    if name in in_dsn:
        return f"; in Python, its name is {in_dsn[name].name!r}"
    return instead_of(name, table, in_dsn=False) or known_options(table)
