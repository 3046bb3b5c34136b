"""How fast a server takes commands. Not every server that offers PIPELINING can do it.

Haraka refuses commands behind a body, chasquid 1.11 swallows them, and Dovecot 2.3 breaks down
when it reads them together with the body. VPOP3 takes the first command of what it has read,
and drops the rest. A proxy may offer what the server behind it refuses. A pace that does not
work costs a connection, and never a message.
"""

from __future__ import annotations

import re
from enum import IntEnum
from functools import lru_cache

# How many servers we remember. A stranger's DSN may name any server.
MAX_REMEMBERED = 1000

# 503: "bad sequence of commands". 500 and 502: not a command, or not implemented. 354 answers
# only DATA, and 250 only the other commands. The wrong one of the two shows that the server
# has dropped a command.
NOT_UNDERSTOOD = {500, 502, 503, 354, 250}

# Exim's "synchronization error", Postfix's "improper use of SMTP command pipelining".
SAYS_SO = re.compile(rb"pipelin|synchroni[sz]", re.I)

# The same while the pace has never worked: later, a server means the command itself. Whoever
# reads a group as one command finds fault with its address (553) or parameters. The texts are
# of RFC 3463 (X.5.0, "other or undefined protocol status", and the like).
PERHAPS_NOT_UNDERSTOOD = {501, 504, 553, 555}
PROTOCOL_ERROR = re.compile(rb"[45]\.5\.[0124]\b")


class Pace(IntEnum):
    """The slowest first."""

    SINGLE = 0  # one command at a time, as smtplib
    GROUPED = 1  # MAIL, all RCPTs and DATA in one write (RFC 2920)
    AHEAD = 2  # in a list, the same behind the body of the message before


class ServerPace:
    """What is known about one server, for the life of the process."""

    def __init__(self) -> None:
        self.fastest = Pace.AHEAD  # what is still worth trying
        self.proven = Pace.SINGLE  # what has worked

    def worked(self, pace: Pace) -> None:
        """Note that the server has taken a transaction at this pace."""
        self.proven = max(self.proven, pace)

    def slow_down(self, pace: Pace) -> None:
        """Note that no faster pace works."""
        self.fastest = min(self.fastest, pace)

    def understood(self, pace: Pace, code: int, text: bytes) -> bool:
        """Whether this refusal means the message, and not the pace of its commands."""
        if code in NOT_UNDERSTOOD or SAYS_SO.search(text):
            return False
        return pace <= self.proven or not (
            code in PERHAPS_NOT_UNDERSTOOD or PROTOCOL_ERROR.match(text)
        )


@lru_cache(maxsize=MAX_REMEMBERED)
def pace_of(server: str) -> ServerPace:
    """Return what is known about a server, which is a host and a port."""
    return ServerPace()
