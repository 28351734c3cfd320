"""One worker process, seen from its parent: start it, ask it, kill it. For lanes and the gold check.

Why not a pool from a library: the ones we tried break for good when an idle worker is killed (as the kernel
does when memory runs out), share locks and pipes between workers, and import the parent's main module again
in each of them.
"""

import codecs
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from multiprocessing import Pipe
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING, Any

from rewards.importing import ROOT
from rewards.printable import log_text
from rewards.strays import kill_those_with
from rewards.types import OUT_OF_MEMORY, Cause, RewardError, WorkerOrder
from rewards.waits import Wait

if TYPE_CHECKING:
    from rewards.config import RewardConfigBase
    from rewards.scoring_config import ScoringConfig

BOOTSTRAP = (
    "import json, sys; path = json.loads(sys.argv[1]); sys.path[:] = [sys.argv[2], *path]; "
    "from rewards.importing import import_ours; import_ours(); sys.path[:] = path; "
    "from rewards.keeper import keep; keep(int(sys.argv[4])); "
    "from rewards.worker import main; main(int(sys.argv[3]))"
)
"""Finds modules where the parent finds them, but ours before all; imports nothing of the parent's main module."""
MARK_VARIABLE = "STROP_WORKER"
"""By its value, which only they inherit, the processes that a worker has started are found."""
MAX_PRINTED_BYTES = 1 << 16
"""How much of what a worker prints is passed on."""
LOOK_EVERY_S = 0.5
"""How often to look whether a silent worker is alive, besides listening for the end of its pipe."""
REAP_TIMEOUT_S = 10.0
"""How long a killed process may take to be gone."""
CANCEL_TIMEOUT_S = 2.0
"""How long a worker that answers several questions at once may take to give up one of them."""
READY = 0
"""Number of the message that says whether the worker has loaded; questions count from 1."""
_ENDED = ("ended", None)


class WorkerError(RewardError):
    """A worker that did not answer: late, killed, or without what it was to load."""

    def __init__(self, cause: Cause, detail: str, *, is_lost: bool = True) -> None:
        super().__init__(detail)
        self.cause: Cause = cause
        self.is_lost = is_lost
        """Whether the worker is not to be asked again."""


def reward_order(rewards: Sequence["RewardConfigBase"], scoring: "ScoringConfig", concurrency: int = 1) -> WorkerOrder:
    """Return the order of a worker that marks groups by these rewards."""
    return WorkerOrder(
        kind="reward",
        server="rewards.grading:Grader",
        given=tuple(rewards),
        concurrency=concurrency,
        max_memory_bytes=scoring.max_memory_bytes,
        max_cpu_s=scoring.max_cpu_s,
    )


class WorkerProcess:
    """A worker process with its own pipe. It starts at once and loads by itself; ``wait_ready`` waits.

    What it has started ends with it, however it ends: a keeper stands above it (`rewards.keeper`). What it prints goes
    to standard error, up to a limit, and does not act there. Thread-safe. The thread that makes it must outlive it:
    Linux ends the worker with the thread that started it.
    """

    def __init__(self, order: WorkerOrder) -> None:
        """Start the process and send it what to load."""
        self._order = order
        self._pipe, child_end = Pipe()
        self._loading = threading.Lock()
        self._loaded: tuple[str, Any] | None = None
        self._is_killed = False
        self._numbers = itertools.count(READY + 1)
        self._inboxes: dict[int, SimpleQueue[tuple[str, Any]]] = {READY: SimpleQueue()}
        self._outbox: SimpleQueue[Any] = SimpleQueue()
        self._ended = threading.Event()
        self._mark = uuid.uuid4().hex
        self._pid: int | None = None
        search_path = [os.path.abspath(entry) for entry in [*sys.path, os.getcwd()]]
        fd = child_end.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", BOOTSTRAP, json.dumps(search_path), ROOT, str(fd), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, MARK_VARIABLE: self._mark, "PYTHONUNBUFFERED": "1"},
            pass_fds=[fd],
            start_new_session=True,
        )
        child_end.close()
        self._outbox.put(order)
        for work in (self._read, self._write, self._forward):
            threading.Thread(target=work, name=f"{work.__name__}-{self.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id of the worker; until it has begun, of its keeper."""
        return self._pid or self._process.pid

    def wait_ready(self, deadline_s: float) -> Any:
        """Wait until it has loaded and return what it says of that; WorkerError where it has not."""
        with self._loading:  # one thread waits, the others find what it has heard
            if self._loaded is None:
                inbox = self._inboxes[READY]
                doing = f"the {self._order.kind}s were being imported"
                self._loaded = self._receive(inbox, time.monotonic() + deadline_s, doing)
        kind, body = self._loaded
        if kind == "failed":
            raise WorkerError("error", body)
        return body

    def ask(self, question: Any, deadline_s: float) -> Any:
        """Return the answer to one question; WorkerError names what ran when the worker died or was late."""
        end = time.monotonic() + deadline_s
        number, inbox, doing = next(self._numbers), SimpleQueue[tuple[str, Any]](), "the question was being sent"
        self._inboxes[number] = inbox
        try:
            self._outbox.put((number, question))
            while True:
                kind, body = self._receive(inbox, end, doing)
                if kind == "answered":
                    return body
                if kind == "cancelled":
                    raise WorkerError("error", f"{doing} and cancelled its own task", is_lost=False)
                doing = f"{body} was running"
        except WorkerError as error:
            if self._order.concurrency > 1 and error.cause == "timeout":
                error.is_lost = not self._gives_up(number, inbox)
            raise
        finally:
            del self._inboxes[number]

    def kill(self) -> None:
        """End the worker and all that it started by SIGKILL; safe to call twice and from another thread."""
        if not self._is_killed:
            self._is_killed = True
            self._process.terminate()  # by which the keeper ends all
            try:
                self._process.wait(REAP_TIMEOUT_S / 2)
            except subprocess.TimeoutExpired:  # the keeper itself hangs, or was stopped
                self._process.kill()
            kill_those_with(f"{MARK_VARIABLE}={self._mark}")  # should somebody have killed the keeper
            self._outbox.put(None)
        with contextlib.suppress(subprocess.TimeoutExpired):  # in the kernel's hands, such as on a dead file server
            self._process.wait(REAP_TIMEOUT_S / 2)

    def _receive(self, inbox: "SimpleQueue[tuple[str, Any]]", end: float, doing: str) -> tuple[str, Any]:
        """Wait for the worker's next message until ``end`` on the monotonic clock."""
        limit_s = max(0.0, end - time.monotonic())
        late = WorkerError("timeout", f"{doing}, for {limit_s:.1f} s, when the deadline passed")
        with Wait(f"{self._order.kind} worker {self.pid}: {doing}", limit_s, fails=lambda _: late) as wait:
            while True:
                try:
                    message = inbox.get(timeout=wait.slice_s())
                except Empty:
                    has_ended = self._ended.is_set() or self._process.poll() is not None
                    if has_ended and inbox.empty():
                        raise self._died(doing) from None
                    wait.look()
                    continue
                if message == _ENDED:
                    inbox.put(message)
                    raise self._died(doing)
                return message

    def _gives_up(self, number: int, inbox: "SimpleQueue[tuple[str, Any]]") -> bool:
        """Ask a worker that answers several questions at once to drop one; say whether it did."""
        self._outbox.put((number, None))
        end = time.monotonic() + CANCEL_TIMEOUT_S
        try:
            while True:
                kind, _ = self._receive(inbox, end, "the question was being given up")
                if kind in ("cancelled", "answered"):
                    return True
        except WorkerError:
            return False

    def _died(self, doing: str) -> WorkerError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LOOK_EVERY_S)  # its pipe ended before it: its own exit code tells more than our signal
        self.kill()
        code = self._process.returncode
        if code == -signal.SIGXCPU:
            limit = f"{self._order.max_cpu_s:g} s of processor time (max_cpu_s)"
            return WorkerError("timeout", f"{doing}, and used its {limit}")
        if code == OUT_OF_MEMORY:
            most = self._order.max_memory_bytes
            limit = "all memory there is" if most is None else f"its {most / 2**30:g} GB of memory (max_memory_gb)"
            return WorkerError("error", f"{doing}, and used {limit}")
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return WorkerError("killed", f"the {self._order.kind} worker {self.pid} ended {how} while {doing}")

    def _read(self) -> None:
        """Bring each message to whoever waits for it; one that nobody waits for is late. Runs in a thread."""
        with contextlib.suppress(Exception):  # the worker is gone, or sends what cannot be read
            while True:
                number, kind, body = self._pipe.recv()
                if kind == "started":
                    self._pid = body
                    continue
                inbox = self._inboxes.get(number)
                if inbox is not None:
                    inbox.put((kind, body))
        self._ended.set()
        for inbox in list(self._inboxes.values()):
            inbox.put(_ENDED)

    def _write(self) -> None:
        """Send what is asked, at the worker's pace; the deadlines are kept by those who wait. Runs in a thread."""
        with contextlib.suppress(OSError):
            while (message := self._outbox.get()) is not None:
                self._pipe.send(message)

    def _forward(self) -> None:
        """Pass on what the worker prints, up to a limit, and read the rest away so that it can go on."""
        printed: IO[bytes] | None = self._process.stdout
        assert printed is not None
        left, decoder = MAX_PRINTED_BYTES, codecs.getincrementaldecoder("utf-8")("replace")
        with printed, contextlib.suppress(OSError, ValueError):  # our own standard error is closed
            while chunk := os.read(printed.fileno(), 1 << 16):
                if left > 0:
                    sys.stderr.write(log_text(decoder.decode(chunk[:left])))
                    sys.stderr.flush()
                    left -= len(chunk)
                    if left <= 0:
                        sys.stderr.write(
                            f"\n{self._order.kind} worker {self.pid} prints too much; the rest is dropped\n"
                        )
