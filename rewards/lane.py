"""Workers for the rewards that are run alike: several groups in, marks out. A scorer has one lane or more.

    groups -> one queue -> threads, each with its seat at a worker -> RewardProcess -> Graded

A lane of rewards that mark one group at a time has one thread a worker. A reward that marks several at once has a lane
to itself with one worker, and as many threads as groups are marked at once. A reward that holds a model has a lane and
a worker to itself, without limits. A worker that is lost is replaced before its next group.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue

from rewards.config import RewardConfig
from rewards.process import REAP_TIMEOUT_S, RewardProcess, WorkerError
from rewards.scoring_config import ScoringConfig
from rewards.types import Attempt, Graded, Mark, RewardError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    group: tuple[Attempt, ...]
    graded: Future[Graded]


class Lane:
    """Workers for some rewards. Thread-safe; ``close`` it."""

    def __init__(self, rewards: Sequence[RewardConfig], scoring: ScoringConfig) -> None:
        """Start workers and threads, which load by themselves; ``wait_ready`` waits for them."""
        is_apart = any(reward.has_own_worker for reward in rewards)
        self._rewards = tuple(rewards)
        self._scoring = scoring.model_copy(update={"max_memory_gb": None, "max_cpu_s": None}) if is_apart else scoring
        self._concurrency = max(reward.concurrency for reward in rewards)
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._is_closed = threading.Event()
        self._seats = [_Seat(self) for _ in range(1 if is_apart or self._concurrency > 1 else scoring.num_workers)]
        self._ready: list[Future[None]] = []
        self._threads: list[threading.Thread] = []
        for number in range(len(self._seats) * self._concurrency):
            ready = Future[None]()
            arguments = (self._seats[number % len(self._seats)], ready)
            thread = threading.Thread(target=self._serve, args=arguments, name=f"lane-{number}", daemon=True)
            self._ready.append(ready)
            self._threads.append(thread)
            thread.start()

    def wait_ready(self) -> None:
        """Wait until the workers have imported the rewards; RewardError where they cannot."""
        for ready in self._ready:
            ready.result(self._scoring.start_timeout_s + REAP_TIMEOUT_S)

    def submit(self, group: Sequence[Attempt]) -> "Future[Graded]":
        """Mark one whole prompt group; the future raises RewardError when the lane is closed, and for nothing else."""
        job = _Job(group=tuple(group), graded=Future())
        self._jobs.put(job)
        return job.graded

    @property
    def num_waiting(self) -> int:
        """Groups that no worker has taken up yet."""
        return self._jobs.qsize()

    def new_worker(self) -> RewardProcess:
        """Start a worker; RewardError once the lane is closed."""
        if self._is_closed.is_set():
            raise RewardError("the scorer was closed before this group was scored")
        return RewardProcess(self._rewards, self._scoring, self._concurrency)

    def close(self) -> None:
        """Kill every worker, fail what is not marked yet, and leave nothing behind; safe to call twice."""
        self._is_closed.set()
        for seat in self._seats:
            seat.close()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(2 * REAP_TIMEOUT_S)

    def _serve(self, seat: "_Seat", ready: "Future[None]") -> None:
        """Feed one seat's worker, from its start to the end of the lane. Runs in a thread."""
        try:
            seat.worker().wait_ready(self._scoring.start_timeout_s)
        except Exception as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        while (job := self._jobs.get()) is not None:
            if not job.graded.set_running_or_notify_cancel():
                continue
            try:
                job.graded.set_result(self._grade(job.group, seat))
            except Exception as error:  # closed, or no process can be started: the future says so
                job.graded.set_exception(error)

    def _grade(self, group: tuple[Attempt, ...], seat: "_Seat") -> Graded:
        """Have the group marked, on replaced workers if need be."""
        start = time.monotonic()
        for tries_left in range(self._scoring.max_retries, -1, -1):
            worker = seat.worker()
            try:
                worker.wait_ready(self._scoring.start_timeout_s)
                return worker.score(group, self._scoring.deadline_s)
            except WorkerError as failure:
                if failure.is_lost:
                    seat.replace(worker)
                if failure.cause != "killed" or not tries_left:
                    mark = Mark(cause=failure.cause, detail=str(failure))
                    marks = {reward.label: [mark] * len(group) for reward in self._rewards}
                    return Graded(marks=marks, seconds=time.monotonic() - start)
        raise AssertionError("the last try returns")


class _Seat:
    """A worker's place, at which one or several threads sit; whoever finds the worker lost has it replaced, once."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._lock = threading.Lock()
        self._worker: RewardProcess | None = None

    def worker(self) -> RewardProcess:
        """Return the worker, started if there is none."""
        with self._lock:
            if self._worker is None:
                self._worker = self._lane.new_worker()
            return self._worker

    def replace(self, lost: RewardProcess) -> None:
        """Kill a lost worker and start another, unless somebody has done so."""
        with self._lock:
            if self._worker is lost:
                self._worker = None
        lost.kill()
        self.worker()

    def close(self) -> None:
        """Kill the worker."""
        with self._lock:
            if self._worker is not None:
                self._worker.kill()
