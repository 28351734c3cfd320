"""Futures made of futures."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def when_all(futures: "Sequence[Future[T]]", act: "Callable[[Sequence[Future[T]]], None]") -> None:
    """Act once all futures are done, whatever came of them, in the thread of the last; at once where there is none."""
    if not futures:
        act(futures)
    left, lock = [len(futures)], threading.Lock()

    def done(_: "Future[T]") -> None:
        with lock:
            left[0] -= 1
            is_last = left[0] == 0
        if is_last:
            act(futures)

    for future in futures:
        future.add_done_callback(done)


def settle(future: "Future[T]", make: Callable[[], T]) -> None:
    """Give a future what ``make`` returns, or raises; not one that has been cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(make())
    except BaseException as error:  # whoever waits is to hear of it
        future.set_exception(error)
