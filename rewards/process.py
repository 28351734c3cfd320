"""One reward worker process, seen from its parent: start it, ask it, kill it. For scorer and gold check.

Why not a pool from a library: the ones we tried break for good when an idle worker is killed (as the kernel
does when memory runs out), share locks and pipes between workers, and import the parent's main module again
in each of them.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Any

from rewards.types import Attempt, Cause, RewardError, Score

if TYPE_CHECKING:
    from rewards.config import RewardConfigBase

BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from rewards.worker import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
"""Finds modules where the parent finds them, and imports nothing of the parent's main module."""
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

    It leads a process group of its own, so that what a reward has started is killed with it. Used by one
    thread, which must outlive it: Linux ends the worker with the thread that started it.
    """

    def __init__(self, rewards: Sequence["RewardConfigBase"]) -> None:
        """Start the process and send it what to load."""
        self._pipe, child_end = Pipe()
        self._is_ready = False
        self._is_killed = False
        search_path = [os.path.abspath(entry) for entry in [*sys.path, os.getcwd()]]
        fd = child_end.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-c", BOOTSTRAP, json.dumps(search_path), str(fd), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            pass_fds=[fd],
            start_new_session=True,
        )
        self._pipe.send(tuple(rewards))  # cannot fail: this process still holds the other end
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
        self._send(tuple(group), doing)
        while True:
            kind, body = self._receive(end, doing)
            if kind == "scored":
                return list(body)
            doing = f"reward {body!r} was running"

    def kill(self) -> None:
        """End the worker and its children by SIGKILL; safe to call twice and from another thread."""
        if not self._is_killed:
            self._is_killed = True
            with contextlib.suppress(ProcessLookupError):  # nothing of it is left
                os.killpg(self.pid, signal.SIGKILL)
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
            message: tuple[str, Any] = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise self._died(doing) from error
        return message

    def _died(self, doing: str) -> WorkerError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LOOK_EVERY_S)  # its pipe ended before it: its own exit code tells more than our signal
        self.kill()
        code = self._process.returncode
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return WorkerError("killed", f"the reward worker {self.pid} ended {how} while {doing}")
