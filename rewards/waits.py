"""The one place where this program waits: for what, until when, and what is said of it meanwhile.

A wait without an end is how runs are lost overnight. While one lasts it is listed (`current`), so that whoever looks at
a run sees what it waits for; twice a minute it is said in the log; at its limit it raises, with the name of what did
not come. Nothing here is of rewards: it lies in this package since that is the one which all others may import.
"""

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Self, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_EVERY_S = 1.0
"""How long whoever waits sleeps at most before the next look."""
SAY_EVERY_S = 30.0


class WaitError(RuntimeError):
    """What was waited for did not come in time: what it is, and how long that was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A wait that lasts."""

    what: str
    """What is waited for, by name."""
    since: float
    """When it began, in seconds since the epoch."""
    limit_s: float
    """Infinite where it ends with something that is watched elsewhere."""
    is_renewed: bool = False
    """Whether something has come since it began, so that the limit is for the next thing to come."""

    def __str__(self) -> str:
        limit = "as long as there are signs of life"
        if math.isfinite(self.limit_s):
            limit = f"at most {self.limit_s:.0f} s" + " without news" * self.is_renewed
        return f"{self.what}, for {time.time() - self.since:.0f} s ({limit})"


class Wait:
    """One wait, entered with `with`. ``fails`` makes the error that its limit raises; ``way_out`` ends its text."""

    _numbers = itertools.count()
    _current: "dict[int, Wait]" = {}  # noqa: RUF012 - of all waits together
    _lock = threading.Lock()

    def __init__(
        self, what: str, limit_s: float, *, way_out: str = "", fails: Callable[[str], Exception] = WaitError
    ) -> None:
        self.what = what
        self.limit_s = limit_s
        self._way_out = way_out
        self._fails = fails
        self._number = next(self._numbers)
        self._began = time.time()
        self._start = self._said = time.monotonic()
        self._is_renewed = False

    def renew(self) -> None:
        """Have the limit start over: something has come."""
        self._start = time.monotonic()
        self._is_renewed = True

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began, or since something came."""
        return time.monotonic() - self._start

    def slice_s(self, most: float = LOOK_EVERY_S) -> float:
        """Return how long to wait before the next look; 0 when the time is up."""
        return max(0.0, min(most, self.limit_s - self.elapsed_s))

    def look(self, what: str | None = None) -> None:
        """Say now and then what is waited for, which may be another thing by now; raise when the time is up."""
        self.what = what or self.what
        if self.elapsed_s >= self.limit_s:
            way_out = f"; {self._way_out}" if self._way_out else ""
            raise self._fails(f"timed out after {self.limit_s:.3g} s of waiting for {self.what}{way_out}")
        if time.monotonic() - self._said >= SAY_EVERY_S:
            self._said = time.monotonic()
            logger.info("waiting for %s", self._told())

    def result_of(self, future: "Future[T]") -> T:
        """Return what a future brings; raises what it raises."""
        while True:
            try:
                return future.result(timeout=self.slice_s())
            except TimeoutError:
                if future.done():  # it was the future's own
                    raise
            self.look()

    def until(self, condition: Callable[[], bool], *, every_s: float = LOOK_EVERY_S) -> None:
        """Look again and again until a condition holds."""
        while not condition():
            self.look()
            time.sleep(self.slice_s(every_s))

    def _told(self) -> Waiting:
        return Waiting(what=self.what, since=self._began, limit_s=self.limit_s, is_renewed=self._is_renewed)

    def __enter__(self) -> Self:
        with self._lock:
            self._current[self._number] = self
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._current.pop(self._number, None)


def current() -> list[Waiting]:
    """Return what this process waits for, the longest wait first."""
    with Wait._lock:
        waits = list(Wait._current.values())
    return [wait._told() for wait in waits]
