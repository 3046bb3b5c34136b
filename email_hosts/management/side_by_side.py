"""Hosts are asked side by side: one that does not answer holds up no other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, as_completed
from typing import TypeVar

T = TypeVar("T")


def side_by_side(
    ask: Callable[[str], T], keys: Iterable[str], *, as_they_finish: bool
) -> Iterator[tuple[str, T]]:
    """Give each key with what ``ask`` returns for it.

    In the order of the keys; or, for somebody who watches, of those that finish first.
    """
    answers = {_answer(ask, key): key for key in keys}
    for answer in as_completed(answers) if as_they_finish else answers:
        yield answers[answer], answer.result()


def _answer(ask: Callable[[str], T], key: str) -> Future[T]:
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(ask(key))
        except BaseException as error:  # raised where the answer is asked for
            answer.set_exception(error)

    # An executor's threads would be waited for, in spite of Ctrl-C.
    threading.Thread(target=work, daemon=True).start()
    return answer
