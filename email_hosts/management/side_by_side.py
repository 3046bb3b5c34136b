"""Hosts are asked side by side: one that does not answer holds up no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

T = TypeVar("T")


def side_by_side(
    ask: Callable[[str], T], keys: Iterable[str], *, as_they_finish: bool
) -> Iterator[tuple[str, T]]:
    """Give each key with what ``ask`` returns for it.

    In the order of the keys; or, for somebody who watches, of those that finish first.
    """
    keys = list(keys)
    with ThreadPoolExecutor(max_workers=len(keys)) as pool:
        tasks = {pool.submit(ask, key): key for key in keys}
        for task in as_completed(tasks) if as_they_finish else tasks:
            yield tasks[task], task.result()
