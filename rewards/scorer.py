"""The runtime of rewards: groups in, scores out, whatever the rewards do. The collector calls it.

group -> every lane (workers that can be killed) -> marks of all rewards -> combination -> Score of each attempt
"""

import math
import statistics
import threading
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from rewards import combine
from rewards.combinations import Combination
from rewards.combine_config import WeightedSumConfig
from rewards.config import RewardConfig
from rewards.futures import settle, when_all
from rewards.lane import Lane
from rewards.process import CANCEL_TIMEOUT_S, REAP_TIMEOUT_S, WorkerError, reward_order
from rewards.registry import check_labels
from rewards.scoring_config import ScoringConfig
from rewards.types import FAILURES, Attempt, Graded, Mark, RewardError, Score

DEVIATIONS = 3.0
"""How far a share of failures must lie above the limit, in standard deviations of a reward that fails just so often."""


class Scorer:
    """Scores whole prompt groups with some rewards. Thread-safe; use it in a ``with``, or ``close`` it."""

    def __init__(
        self,
        rewards: Sequence[RewardConfig],
        scoring: ScoringConfig,
        combination: Combination | None = None,
    ) -> None:
        """Start the workers and wait until they have imported the rewards; RewardError where they cannot.

        The caller keeps the combination, shows it what came of each step, and saves its state.
        """
        check_labels(rewards)
        self._combination = combination or combine.build(WeightedSumConfig(), rewards)
        self._order = [reward.label for reward in rewards]
        self._scoring = scoring
        self._lock = threading.Lock()
        self._is_closed = False
        self._logged: dict[str, list[float]] = {}
        self._window: deque[list[Score]] = deque(maxlen=scoring.window_groups)
        self._lanes = [reward_lane(alike, scoring) for alike in in_lanes(rewards)]
        try:
            for lane in self._lanes:
                lane.wait_ready()
        except BaseException:
            self.close()
            raise

    def submit(self, group: Sequence[Attempt]) -> "Future[list[Score]]":
        """Score one whole prompt group; the future never raises for what a reward does.

        Rewards see the attempts that did not break off. It is done within ``longest_wait_s`` of a worker's taking it
        up; it raises RewardError when the scorer is closed before.
        """
        with self._lock:
            if self._is_closed:
                raise RewardError("the scorer is closed; submit groups before close()")
            whole = tuple(attempt for attempt in group if attempt.failure is None)
            parts = [lane.submit(whole) for lane in self._lanes] if whole else []
        scores, failures = Future[list[Score]](), [attempt.failure for attempt in group]
        when_all(parts, lambda found: settle(scores, lambda: self._score(failures, [part.result() for part in found])))
        return scores

    @property
    def longest_wait_s(self) -> float:
        """Seconds within which a worker scores a group that it has taken up, whatever the rewards do."""
        a_try_s = self._scoring.start_timeout_s + self._scoring.deadline_s + CANCEL_TIMEOUT_S + REAP_TIMEOUT_S
        return (self._scoring.max_retries + 1) * a_try_s

    @property
    def num_waiting(self) -> int:
        """Groups in the longest queue, that no worker has taken up yet."""
        return max(lane.num_waiting for lane in self._lanes)

    def take_metrics(self) -> dict[str, float]:
        """Return the mean of what rewards have logged since the last call, by `reward/NAME/METRIC`."""
        with self._lock:
            logged, self._logged = self._logged, {}
        return {f"reward/{name}": statistics.fmean(values) for name, values in logged.items()}

    def check_budget(self) -> None:
        """Raise RewardError when too many attempts of the last ``window_groups`` could not be scored.

        Until the window is full, chance is allowed for: a group fails as a whole more often than not, so there are as
        many draws as groups. Three groups of which nothing could be scored are beyond the default limit, and a reward
        that fails on a tenth of its calls hardly ever is.
        """
        with self._lock:
            groups = list(self._window)
            is_full = len(groups) == self._window.maxlen
        scores = [score for group in groups for score in group]
        failures = [score for score in scores if score.cause in FAILURES]
        limit = self._scoring.max_unscorable_fraction
        chance = 0.0 if is_full else DEVIATIONS * math.sqrt(limit * (1 - limit) / max(1, len(groups)))
        if len(failures) <= (limit + chance) * len(scores):
            return
        allowed = f"max_unscorable_fraction={limit:g}"
        if chance:
            allowed += f" ({limit + chance:.2g} as long as no more than {len(groups)} groups are known)"
        examples = {score.cause: score.detail for score in failures}
        by_cause = Counter(score.cause for score in failures)
        lines = [f"  {cause}: {num}, for instance: {examples[cause]}" for cause, num in by_cause.items()]
        raise RewardError(
            f"{len(failures)} of the last {len(scores)} attempts could not be scored, more than {allowed}. Mend the "
            "reward, or raise the limit. By cause:\n" + "\n".join(lines)
        )

    def close(self) -> None:
        """Kill every worker, fail what is not scored yet, and leave nothing behind; safe to call twice."""
        with self._lock:
            self._is_closed = True
        for lane in self._lanes:
            lane.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _score(self, failures: Sequence[Mark | None], parts: Sequence[Graded]) -> list[Score]:
        """Join what the lanes found, in the order of the recipe, and count what came of it."""
        scores = [Score(value=None, cause=failure.cause, detail=failure.detail) for failure in failures if failure]
        if parts:
            marks = {label: row for graded in parts for label, row in graded.marks.items()}
            graded = Graded(
                marks={label: marks[label] for label in self._order}, seconds=max(graded.seconds for graded in parts)
            )
            broken, sound = iter(scores), iter(combine.scores(self._combination, graded))
            scores = [next(broken if failure else sound) for failure in failures]
        with self._lock:
            self._window.append(scores)
            for name, values in ((name, values) for graded in parts for name, values in graded.metrics.items()):
                self._logged.setdefault(name, []).extend(values)
        return scores


def reward_lane(rewards: Sequence[RewardConfig], scoring: ScoringConfig) -> Lane[Sequence[Attempt], Graded]:
    """Return workers that mark groups by some rewards.

    A reward that marks several groups at once has one worker; so has one that asks a model, and one that holds it,
    which has no limits.
    """
    is_apart = any(reward.has_own_worker for reward in rewards)
    is_unlimited = any(reward.holds_model for reward in rewards)
    limits = scoring.model_copy(update={"max_memory_gb": None, "max_cpu_s": None}) if is_unlimited else scoring
    concurrency = max(reward.concurrency for reward in rewards)

    def failed(group: Sequence[Attempt], failure: WorkerError, seconds: float) -> Graded:
        mark = Mark(cause=failure.cause, detail=str(failure))
        return Graded(marks={reward.label: [mark] * len(group) for reward in rewards}, seconds=seconds)

    num_workers = 1 if is_apart or concurrency > 1 else scoring.num_workers
    return Lane(reward_order(rewards, limits, concurrency), limits, failed, num_workers=num_workers)


def in_lanes(rewards: Sequence[RewardConfig]) -> list[list[RewardConfig]]:
    """Put plain rewards together, and each that marks several groups at once, or holds a model, by itself."""
    apart = [reward for reward in rewards if reward.concurrency > 1 or reward.has_own_worker]
    plain = [reward for reward in rewards if reward not in apart]
    return [lane for lane in [plain, *([reward] for reward in apart)] if lane]


def check_deadline(rewards: Sequence[RewardConfig], scoring: ScoringConfig, group_size: int) -> None:
    """Raise RewardError where a lane's rewards may rightly take longer for a group than it is given."""
    for lane in in_lanes(rewards):
        longest_s = sum(reward.longest_s(group_size) for reward in lane)
        if longest_s > scoring.deadline_s:
            names = ", ".join(repr(reward.label) for reward in lane if reward.longest_s(group_size))
            raise RewardError(
                f"reward {names} may take {longest_s:g} s for a group of {group_size}, and the deadline is "
                f"{scoring.deadline_s:g} s; raise scoring.deadline_s (--deadline-s), or allow the reward less time"
            )
