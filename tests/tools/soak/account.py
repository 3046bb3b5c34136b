"""What became of each message: accepted once, or reported."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from scripted import Accepted

from email_hosts.backends import can_be_retried


@dataclass
class Account:
    """What the senders were told, by the number of each message."""

    sent: list[int] = field(default_factory=list)
    not_sent: list[int] = field(default_factory=list)  # surely
    unsure: list[int] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def report(self, batch: list[int], error: Exception) -> None:
        self.errors[type(error).__name__] += 1
        # Those before the one that failed have been sent.
        is_sure = can_be_retried(error) and len(batch) == 1
        (self.not_sent if is_sure else self.unsure).extend(batch)

    def mistakes(self, messages: int, accepted: Iterable[Accepted]) -> list[str]:
        times = Counter(number_of(one) for one in accepted)
        told = Counter([*self.sent, *self.not_sent, *self.unsure])
        return [
            *(f"{n}: not accounted for" for n in range(messages) if told[n] != 1),
            *(f"{n}: lost" for n in self.sent if times[n] == 0),
            *(f"{n}: reported as not sent, and was" for n in self.not_sent if times[n] > 0),
            *(f"{n}: accepted {count} times" for n, count in times.items() if count > 1),
        ]


def number_of(message: Accepted) -> int:
    match = re.search(rb"^Subject: (\d+)\r$", message.content, re.MULTILINE)
    assert match, message
    return int(match[1])
