"""One reward worker process, seen from its parent: start it, ask it, kill it. For scorer and gold check.

Why not a pool from a library: the ones we tried break for good when an idle worker is killed (as the kernel
does when memory runs out), share locks and pipes between workers, and import the parent's main module again
in each of them.
"""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rewards.types import Attempt, Cause, RewardError, Score
from rewards.worker import WorkerOrder

if TYPE_CHECKING:
    from rewards.config import RewardConfigBase, ScoringConfig

BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from rewards.worker import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
"""Finds modules where the parent finds them, and imports nothing of the parent's main module."""
MARK_VARIABLE = "STROP_REWARD_WORKER"
"""By its value, which only they inherit, the processes that a worker has started are found."""
MAX_PRINTED_BYTES = 1 << 18
"""How much of what a worker prints is passed on."""
LOOK_EVERY_S = 0.5
"""How often to look whether a silent worker is alive, besides listening for the end of its pipe."""
REAP_TIMEOUT_S = 10.0
"""How long a killed process may take to be gone."""


class WorkerError(RewardError):
    """A worker that did not answer: late, killed, or without its rewards. It is not to be asked again."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause: Cause = cause


class RewardProcess:
    """A worker process with its own pipe. It starts at once and loads by itself; ``wait_ready`` waits.

    What a reward has started is killed with it: it leads a process group of its own, and those who leave the group
    are known by an environment variable. What it prints goes to standard error, up to a limit. Used by one thread,
    which must outlive it: Linux ends the worker with the thread that started it.
    """

    def __init__(self, rewards: Sequence["RewardConfigBase"], scoring: "ScoringConfig") -> None:
        """Start the process and send it what to load."""
        self._pipe, child_end = Pipe()
        self._is_ready = False
        self._is_killed = False
        self._max_cpu_s = scoring.max_cpu_s
        self._number = 0  # of the group that is being scored
        self._mark = uuid.uuid4().hex
        search_path = [os.path.abspath(entry) for entry in [*sys.path, os.getcwd()]]
        fd = child_end.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-c", BOOTSTRAP, json.dumps(search_path), str(fd), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, MARK_VARIABLE: self._mark, "PYTHONUNBUFFERED": "1"},
            pass_fds=[fd],
            start_new_session=True,
        )
        threading.Thread(target=_forward, args=(self._process.stdout, self.pid), daemon=True).start()
        memory = None if scoring.max_memory_gb is None else int(scoring.max_memory_gb * 2**30)
        order = WorkerOrder(rewards=tuple(rewards), max_memory_bytes=memory, max_cpu_s=scoring.max_cpu_s)
        self._pipe.send(order)  # cannot fail: this process still holds the other end
        child_end.close()

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    def wait_ready(self, deadline_s: float) -> None:
        """Wait until the rewards are imported; WorkerError where they are not."""
        if self._is_ready:
            return
        kind, body = self._receive(time.monotonic() + deadline_s, "the rewards were being imported")
        if kind == "failed":
            raise WorkerError("error", body)
        self._is_ready = True

    def score(self, group: Sequence[Attempt], deadline_s: float) -> list[Score]:
        """Score one group; WorkerError names the reward that ran when the worker died or was late."""
        end = time.monotonic() + deadline_s
        doing = "the group was being sent"
        self._number += 1
        self._send((self._number, tuple(group)), doing)
        while True:
            kind, body = self._receive(end, doing)
            if kind == "scored":
                return list(body)
            doing = f"reward {body!r} was running"

    def kill(self) -> None:
        """End the worker and all that it started by SIGKILL; safe to call twice and from another thread."""
        if not self._is_killed:
            self._is_killed = True
            with contextlib.suppress(ProcessLookupError):  # nothing of it is left
                os.killpg(self.pid, signal.SIGKILL)
            for pid in _processes_with(f"{MARK_VARIABLE}={self._mark}"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait(REAP_TIMEOUT_S)

    def _send(self, message: object, doing: str) -> None:
        try:
            self._pipe.send(message)
        except ConnectionError as error:
            raise self._died(doing) from error

    def _receive(self, end: float, doing: str) -> tuple[str, Any]:
        """Wait for the worker's next message until ``end`` on the monotonic clock."""
        start = time.monotonic()
        while not self._pipe.poll(max(0.0, min(LOOK_EVERY_S, end - time.monotonic()))):
            if self._process.poll() is not None and not self._pipe.poll():
                raise self._died(doing)
            if time.monotonic() >= end:
                waited = time.monotonic() - start
                raise WorkerError("timeout", f"{doing}, for {waited:.1f} s, when the deadline passed")
        try:
            number, kind, body = self._pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError, ValueError, TypeError) as error:
            raise self._died(doing) from error
        if number not in (0, self._number):  # of an earlier group: somebody else writes to the worker's pipe
            raise self._died(doing)
        return kind, body

    def _died(self, doing: str) -> WorkerError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LOOK_EVERY_S)  # its pipe ended before it: its own exit code tells more than our signal
        self.kill()
        code = self._process.returncode
        if code == -signal.SIGXCPU:
            return WorkerError("timeout", f"{doing}, and used its {self._max_cpu_s:g} s of processor time (max_cpu_s)")
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return WorkerError("killed", f"the reward worker {self.pid} ended {how} while {doing}")


def _forward(printed: IO[bytes], pid: int) -> None:
    """Pass on what a worker prints, up to a limit, and read the rest away so that it can go on. Runs in a thread."""
    left = MAX_PRINTED_BYTES
    with printed, contextlib.suppress(OSError, ValueError):  # our own standard error is closed
        while chunk := os.read(printed.fileno(), 1 << 16):
            if left > 0:
                sys.stderr.write(chunk[:left].decode(errors="replace"))
                sys.stderr.flush()
                left -= len(chunk)
                if left <= 0:
                    sys.stderr.write(f"\nreward worker {pid} prints more than it should; the rest is dropped\n")


def _processes_with(variable: str) -> list[int]:
    """Return the processes that were started with this `NAME=value` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone by now, or another user's
                if variable.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found
