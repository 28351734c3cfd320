"""The runtime of rewards: groups in, scores out, whatever the rewards do. The collector calls it.

Each worker is a process that can be killed, and a thread that feeds it. Threads take groups from one queue. A
worker that is lost is replaced before its thread takes the next group.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from rewards.config import RewardConfig, ScoringConfig
from rewards.process import REAP_TIMEOUT_S, RewardProcess, WorkerError
from rewards.registry import check_labels
from rewards.types import FAILURES, Attempt, Cause, RewardError, Score

MIN_WINDOW_ATTEMPTS = 64
"""A share of failures means nothing before so many attempts, or a full window where that is shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    group: tuple[Attempt, ...]
    scores: Future[list[Score]]


class Scorer:
    """Worker processes that score whole prompt groups. Thread-safe; use it in a ``with``, or ``close`` it."""

    def __init__(self, rewards: Sequence[RewardConfig], scoring: ScoringConfig) -> None:
        """Start the workers and wait until they have imported the rewards; RewardError where they cannot."""
        check_labels(rewards)
        self._rewards = tuple(rewards)
        self._scoring = scoring
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._processes: set[RewardProcess] = set()
        self._is_closed = False
        self._counts: Counter[Cause] = Counter()
        self._window: deque[Score] = deque(maxlen=scoring.window_attempts)
        started: list[Future[None]] = [Future() for _ in range(scoring.num_workers)]
        self._threads = [
            threading.Thread(target=self._serve, args=(ready,), name=f"scorer-{i}", daemon=True)
            for i, ready in enumerate(started)
        ]
        for thread in self._threads:
            thread.start()
        try:
            for ready in started:
                ready.result(scoring.start_timeout_s + REAP_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def submit(self, group: Sequence[Attempt]) -> Future[list[Score]]:
        """Score one whole prompt group; the future never raises for what a reward does.

        It is done within ``longest_wait_s`` of a worker's taking it up.
        It raises RewardError when the scorer is closed first.
        """
        job = _Job(group=tuple(group), scores=Future())
        with self._lock:
            if self._is_closed:
                raise RewardError("the scorer is closed; submit groups before close()")
            self._jobs.put(job)
        return job.scores

    @property
    def longest_wait_s(self) -> float:
        """Seconds within which a worker scores a group that it has taken up, whatever the rewards do."""
        return self._scoring.longest_wait_s

    def counts(self) -> Mapping[Cause, int]:
        """How many attempts ended with each cause, since the start."""
        with self._lock:
            return dict(self._counts)

    def check_budget(self) -> None:
        """Raise RewardError when too many of the last ``window_attempts`` could not be scored."""
        with self._lock:
            window = list(self._window)
        failures = [score for score in window if score.cause in FAILURES]
        enough = len(window) >= min(MIN_WINDOW_ATTEMPTS, self._scoring.window_attempts)
        if not enough or len(failures) <= self._scoring.max_unscorable_fraction * len(window):
            return
        examples = {score.cause: score.detail for score in failures}
        by_cause = Counter(score.cause for score in failures)
        lines = [f"  {cause}: {num}, for instance: {examples[cause]}" for cause, num in by_cause.items()]
        raise RewardError(
            f"{len(failures)} of the last {len(window)} attempts could not be scored, more than "
            f"max_unscorable_fraction={self._scoring.max_unscorable_fraction:g}. Mend the reward, or raise "
            "the limit. By cause:\n" + "\n".join(lines)
        )

    def close(self) -> None:
        """Kill every worker, fail what is not scored yet, and leave nothing behind; safe to call twice."""
        with self._lock:
            self._is_closed = True
            processes = list(self._processes)
        for _ in self._threads:
            self._jobs.put(None)
        for process in processes:
            process.kill()
        for thread in self._threads:
            thread.join(2 * REAP_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self, started: Future[None]) -> None:
        """Feed one worker, from its start to the end of the scorer. Runs in a thread."""
        try:
            process = self._spawn()
            process.wait_ready(self._scoring.start_timeout_s)
        except Exception as error:
            started.set_exception(error)
            return
        started.set_result(None)
        while (job := self._jobs.get()) is not None:
            if not job.scores.set_running_or_notify_cancel():
                continue
            try:
                scores, process = self._score(job.group, process)
            except Exception as error:  # closed, or no process can be started: the future says so
                job.scores.set_exception(error)
            else:
                job.scores.set_result(scores)
        process.kill()

    def _score(self, group: tuple[Attempt, ...], process: RewardProcess) -> tuple[list[Score], RewardProcess]:
        """Score the group, on replaced workers if need be; also return the worker to go on with."""
        start = time.monotonic()
        for tries_left in range(self._scoring.max_retries, -1, -1):
            try:
                process.wait_ready(self._scoring.start_timeout_s)
                scores = process.score(group, self._scoring.deadline_s)
                break
            except WorkerError as failure:
                process = self._replace(process)
                scores = self._failed(failure, len(group), time.monotonic() - start)
                if failure.cause != "killed" or not tries_left:
                    break
        with self._lock:
            self._counts.update(score.cause for score in scores)
            self._window.extend(scores)
        return scores, process

    def _failed(self, failure: WorkerError, num_attempts: int, seconds: float) -> list[Score]:
        parts = dict.fromkeys(reward.label for reward in self._rewards)
        return [
            Score(value=None, cause=failure.cause, parts=parts, seconds=seconds, detail=str(failure))
        ] * num_attempts

    def _replace(self, process: RewardProcess) -> RewardProcess:
        process.kill()
        with self._lock:
            self._processes.discard(process)
        return self._spawn()

    def _spawn(self) -> RewardProcess:
        """Start a worker that `close` knows of."""
        with self._lock:
            if self._is_closed:
                raise RewardError("the scorer was closed before this group was scored")
            process = RewardProcess(self._rewards, self._scoring)
            self._processes.add(process)
            return process
