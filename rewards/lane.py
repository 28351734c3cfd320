"""Workers that are all alike: questions in, answers out. A scorer has a lane or more, an environment one.

    questions -> one queue -> threads, each with its seat at a worker -> WorkerProcess -> answers

A lane whose workers answer one question at a time has one thread a worker. Where a worker answers several at once, it
has as many threads. A worker that is lost is replaced before its next question.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from rewards.process import REAP_TIMEOUT_S, WorkerError, WorkerProcess
from rewards.scoring_config import ScoringConfig
from rewards.types import RewardError, WorkerOrder
from rewards.waits import Wait

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job(Generic[Q, A]):
    question: Q
    answer: Future[A]


class Lane(Generic[Q, A]):
    """Workers for one kind of question. Thread-safe; ``close`` it."""

    def __init__(
        self,
        order: WorkerOrder,
        scoring: ScoringConfig,
        failed: Callable[[Q, WorkerError, float], A],
        *,
        num_workers: int,
    ) -> None:
        """Start workers and threads, which load by themselves; ``wait_ready`` waits for them.

        ``failed`` makes an answer of a failure and the seconds that it took. Of ``scoring``, the time limits hold.
        """
        self._order = order
        self._scoring = scoring
        self._failed = failed
        self._jobs: SimpleQueue[_Job[Q, A] | None] = SimpleQueue()
        self._is_closed = threading.Event()
        self._seats = [_Seat(self.new_worker) for _ in range(num_workers)]
        self._ready: list[Future[Any]] = []
        self._threads: list[threading.Thread] = []
        for number in range(len(self._seats) * order.concurrency):
            ready = Future[Any]()
            arguments = (self._seats[number % len(self._seats)], ready)
            thread = threading.Thread(target=self._serve, args=arguments, name=f"lane-{number}", daemon=True)
            self._ready.append(ready)
            self._threads.append(thread)
            thread.start()

    def wait_ready(self) -> Any:
        """Wait until the workers have loaded and return what one says of that; RewardError where they cannot."""
        limit_s = self._scoring.start_timeout_s + REAP_TIMEOUT_S
        with Wait(f"{len(self._seats)} workers to load", limit_s, fails=RewardError) as wait:
            said = [wait.result_of(ready) for ready in self._ready]
        return said.pop()

    def submit(self, question: Q) -> "Future[A]":
        """Have one question answered; the future raises RewardError when the lane is closed, and for nothing else."""
        job: _Job[Q, A] = _Job(question=question, answer=Future())
        self._jobs.put(job)
        return job.answer

    @property
    def num_waiting(self) -> int:
        """Questions that no worker has taken up yet."""
        return self._jobs.qsize()

    def new_worker(self) -> WorkerProcess:
        """Start a worker; RewardError once the lane is closed."""
        if self._is_closed.is_set():
            raise RewardError(f"the {self._order.kind} workers were closed before this was answered")
        return WorkerProcess(self._order)

    def close(self) -> None:
        """Kill every worker, fail what is not answered yet, and leave nothing behind; safe to call twice."""
        self._is_closed.set()
        for seat in self._seats:
            seat.close()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(2 * REAP_TIMEOUT_S)

    def _serve(self, seat: "_Seat", ready: "Future[Any]") -> None:
        """Feed one seat's worker, from its start to the end of the lane. Runs in a thread."""
        try:
            about = seat.worker().wait_ready(self._scoring.start_timeout_s)
        except Exception as error:
            ready.set_exception(error)
            return
        ready.set_result(about)
        while (job := self._jobs.get()) is not None:
            if not job.answer.set_running_or_notify_cancel():
                continue
            try:
                job.answer.set_result(self._answer(job.question, seat))
            except Exception as error:  # closed, or no process can be started: the future says so
                job.answer.set_exception(error)

    def _answer(self, question: Q, seat: "_Seat") -> A:
        """Have the question answered, on replaced workers if need be."""
        start = time.monotonic()
        for tries_left in range(self._scoring.max_retries, -1, -1):
            worker = seat.worker()
            try:
                worker.wait_ready(self._scoring.start_timeout_s)
                answer: A = worker.ask(question, self._scoring.deadline_s)
                return answer
            except WorkerError as failure:
                if failure.is_lost:
                    seat.replace(worker)
                if failure.cause != "killed" or not tries_left:
                    return self._failed(question, failure, time.monotonic() - start)
        raise AssertionError("the last try returns")


class _Seat:
    """A worker's place, at which one or several threads sit; whoever finds the worker lost has it replaced, once."""

    def __init__(self, new_worker: Callable[[], WorkerProcess]) -> None:
        self._new_worker = new_worker
        self._lock = threading.Lock()
        self._worker: WorkerProcess | None = None

    def worker(self) -> WorkerProcess:
        """Return the worker, started if there is none."""
        with self._lock:
            if self._worker is None:
                self._worker = self._new_worker()
            return self._worker

    def replace(self, lost: WorkerProcess) -> None:
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
