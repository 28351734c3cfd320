"""Reads answers in a process of its own: one that hangs, crashes or fills it costs itself alone.

    reward -> Reader -> pipe -> a fork of this process -> what each answer was read as

Answers are written by a policy that learns, and it finds what makes a library compute without end in C, overflow its
stack or take all memory. None of that may cost the other answers of the group their marks, or stop the run: an answer
that cannot be read is worth 0 and counted. For rewards of ours that read answers.
"""

import contextlib
import multiprocessing
import resource
import signal
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Generic, Literal, TypeVar

from rewards.types import Cause, LogMetric, Mark

ANSWER_LIMIT_S, GROUP_LIMIT_S, QUICK_S = 2.0, 6.0, 0.2
"""Processor time for one answer; for all of a group; and what each answer of a group gets before any gets more."""
GROUP_WALL_S = 15.0
"""Wall time for a group, well within a worker's deadline: that this is over is no answer's doing."""
MEMORY_BYTES = 1 << 30
"""That reading may take, besides what is there at its start."""
MAX_KILLED = 2
"""How often the process may be killed from outside, as by Linux that lacks memory, before answers are lost by it."""
LONGEST_READ = 1000
"""Characters of what was taken for an answer that need be sent back; fewer are told."""
JOIN_TIMEOUT_S = 10.0
TIME_IS_UP = signal.SIGPROF
"""The signal by which an answer's time ends its process, also in C."""

Q = TypeVar("Q")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoilt:
    """An answer that could not be read, by its own doing."""

    how: Literal["too_slow", "crashed", "raised"]
    detail: str
    read: str = ""
    """What was taken for the answer, as far as one came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """An answer that was not read, by no doing of its own."""

    cause: Cause
    detail: str


class Reader(Generic[Q, R]):
    """Runs a function on questions that hold answers. Thread-safe. Its process starts with the first of them.

    The function and what it needs are forked, not pickled; questions and what comes of them are.
    """

    def __init__(self, read: Callable[[Q], R]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def each(self, questions: Sequence[Q]) -> list[R | Spoilt | Lost]:
        """Return what the function says of each.

        Every answer gets a little time first, so that slow ones do not use up that of the others; these then share
        what is left.
        """
        quick_s = min(QUICK_S, GROUP_LIMIT_S / 2 / max(1, len(questions)))
        with self._lock:
            end = time.monotonic() + GROUP_WALL_S
            found = self._within(quick_s, questions, end)
            slow = [at for at, one in enumerate(found) if isinstance(one, Spoilt) and one.how == "too_slow"]
            share_s = min(ANSWER_LIMIT_S, GROUP_LIMIT_S / 2 / max(1, len(slow)))
            if slow and share_s > quick_s:
                again = self._within(share_s, [questions[at] for at in slow], end)
                for at, one in zip(slow, again, strict=True):
                    found[at] = found[at] if isinstance(one, Lost) else one
        return found

    def _within(self, limit_s: float, questions: Sequence[Q], end: float) -> list[R | Spoilt | Lost]:
        """Read each, in no more processor time; with a new process where one ends."""
        found = list[R | Spoilt | Lost]()
        num_killed = 0
        while len(found) < len(questions) and time.monotonic() < end:
            process, pipe = self._running()
            try:
                pipe.send((limit_s, questions[len(found) :]))
                while len(found) < len(questions) and pipe.poll(max(0.0, end - time.monotonic())):
                    found.append(pipe.recv())
                if len(found) < len(questions):
                    self._stop()
            except (EOFError, OSError):
                process.join(JOIN_TIMEOUT_S)
                is_killed = process.exitcode in (-signal.SIGKILL, None)
                num_killed += is_killed
                if not is_killed:
                    found.append(_ended(process.exitcode, limit_s))
                elif num_killed > MAX_KILLED:
                    found.append(Lost(cause="killed", detail="the process that read it was killed, again and again"))
                self._stop()
        late = Lost(cause="timeout", detail=f"the group's answers were not read within {GROUP_WALL_S:g} s")
        return found + [late] * (len(questions) - len(found))

    def _running(self) -> tuple[BaseProcess, Connection]:
        """Return the process, started if there is none, and the pipe to it."""
        if self._process is None or self._pipe is None or not self._process.is_alive():
            self._stop()
            self._pipe, theirs = multiprocessing.Pipe()
            context = multiprocessing.get_context("fork")
            self._process = context.Process(target=_serve, args=(self._read, theirs, self._pipe), daemon=True)
            self._process.start()
            self._at_end = weakref.finalize(self, self._process.kill)
            theirs.close()
        return self._process, self._pipe

    def _stop(self) -> None:
        if self._process is not None:
            self._at_end.detach()
            self._process.kill()
            self._process.join(JOIN_TIMEOUT_S)
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def marks(found: Sequence[R | Spoilt | Lost], mark: Callable[[R], Mark], log_metric: LogMetric) -> list[Mark]:
    """Return the mark of each answer, and log how many could not be read, by how; such an answer is worth 0."""
    spoilt = [one.how for one in found if isinstance(one, Spoilt)]
    for how in ("too_slow", "crashed", "raised"):
        log_metric(f"{how}/count", spoilt.count(how))
    return [_mark(one, mark) for one in found]


def _mark(found: R | Spoilt | Lost, mark: Callable[[R], Mark]) -> Mark:
    if isinstance(found, Lost):
        return Mark(cause=found.cause, detail=found.detail)
    return Mark(value=0.0, detail=found.detail, read=found.read) if isinstance(found, Spoilt) else mark(found)


def _ended(exit_code: int | None, limit_s: float) -> Spoilt:
    """Say what an answer did that the process did not outlive."""
    if exit_code == -TIME_IS_UP:
        return Spoilt(how="too_slow", detail=f"it was not read in {limit_s:.2g} s of processor time")
    how = f"by {signal.Signals(-exit_code).name}" if exit_code and exit_code < 0 else f"with exit code {exit_code}"
    return Spoilt(how="crashed", detail=f"the process that read it ended {how}")


def _serve(read: Callable[[Q], R], pipe: Connection, theirs: Connection) -> None:
    """Read what is sent, until the pipe closes, as it does when whoever asks ends. In the fork."""
    theirs.close()
    _limit_resources()
    with contextlib.suppress(EOFError, OSError):  # whoever asks is done
        while True:
            limit_s, questions = pipe.recv()
            for question in questions:
                signal.setitimer(signal.ITIMER_PROF, limit_s)
                found = _read_or_spoilt(read, question)
                signal.setitimer(signal.ITIMER_PROF, 0)
                pipe.send(found)


def _read_or_spoilt(read: Callable[[Q], R], question: Q) -> R | Spoilt:
    try:
        return read(question)
    except Exception as error:  # a text can bring out anything: sympy's own errors, too deep a recursion, no memory
        return Spoilt(how="raised", detail=f"reading it raised {type(error).__name__}: {str(error)[:200]}")


def _limit_resources() -> None:
    """Bound the memory of this process, and not its processor time: the worker's limit of that is for one group."""
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = used + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most if soft == resource.RLIM_INFINITY else min(soft, most), hard))
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    signal.signal(TIME_IS_UP, signal.SIG_DFL)
