"""Asks many hosts at the same time: one that does not answer does not hold up the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, as_completed
from typing import TypeVar

T = TypeVar("T")

MAX_THREADS = 64  # and so no more connections than that at the same time


def concurrently(
    ask: Callable[[str], T], keys: Iterable[str], *, as_they_finish: bool
) -> Iterator[tuple[str, T]]:
    """Yield each key with what ``ask`` returns for it, or raise what it raises.

    The order is that of the keys, or ``as_they_finish``, for a user who is watching.
    """
    answers: dict[Future[T], str] = {Future(): key for key in keys}
    waiting = iter(list(answers.items()))

    def work() -> None:
        for answer, key in waiting:  # each thread takes the next one
            try:
                answer.set_result(ask(key))
            except BaseException as error:
                answer.set_exception(error)

    for _ in range(min(len(answers), MAX_THREADS)):
        # Daemons: after Ctrl-C, Python waits for the threads of an executor before it ends.
        threading.Thread(target=work, daemon=True).start()
    for answer in as_completed(answers) if as_they_finish else answers:
        yield answers[answer], answer.result()
