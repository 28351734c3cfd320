"""The gold check: does every reward give full marks to the right answer? `strop check` asks, before a run."""

import math
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rewards import combine
from rewards.combine_config import WeightedSumConfig
from rewards.config import RewardConfig
from rewards.process import WorkerError, WorkerProcess, reward_order
from rewards.registry import check_labels
from rewards.scoring_config import ScoringConfig
from rewards.types import FAILURES, Attempt, Score


class GoldCheck:
    """A check under way in a worker process: start it early, do other work, ask for ``problems`` last.

    Example::

        with GoldCheck(rewards) as check:   # the worker imports the rewards meanwhile
            attempts = read_gold_answers()
            problems = check.problems(attempts)
    """

    def __init__(self, rewards: Sequence[RewardConfig], scoring: ScoringConfig | None = None) -> None:
        """Start the worker, which goes on by itself; RewardError when the list of rewards is wrong."""
        check_labels(rewards)
        self._rewards = tuple(rewards)
        self._scoring = scoring or ScoringConfig()
        self._combination = combine.build(WeightedSumConfig(), rewards)
        if any(reward.holds_model for reward in rewards):
            self._scoring = self._scoring.model_copy(update={"max_memory_gb": None, "max_cpu_s": None})
        self._process = WorkerProcess(reward_order(self._rewards, self._scoring))
        self.silent = {reward.label for reward in rewards}
        """Labels of rewards that have marked nothing so far: they returned None for each attempt."""

    def problems(self, gold: Sequence[Attempt], other: Sequence[Attempt] = ()) -> list[str]:
        """Score gold answers, each as a group of two copies; say what is wrong in a line a reward, or nothing.

        A reward is wrong when it fails, or gives a gold answer less than its ``gold_value``; one that does not apply
        to a row is not. Of ``other`` answers only failures are told. An attempt's row is named by its ``group_id``, or
        by its place from 1, gold ones first. The deadlines are those of a run.
        """
        attempts = [*gold, *other]
        scores: list[Score] = []
        where = ""
        try:
            self._process.wait_ready(self._scoring.start_timeout_s)
            for at, attempt in enumerate(attempts):
                where = f" on the answer of {_named(attempts, [at])}"
                graded = self._process.ask((attempt, attempt), self._scoring.deadline_s)
                scores += combine.scores(self._combination, graded)[:1]
        except WorkerError as error:
            labels = ", ".join(repr(reward.label) for reward in self._rewards)
            what = str(error) if error.cause == "error" else f"trying reward {labels}: {error}{where}"
            return [*self._found(gold, attempts, scores), what]
        return self._found(gold, attempts, scores)

    def close(self) -> None:
        """End the worker; safe to call twice."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _found(self, gold: Sequence[Attempt], tried: Sequence[Attempt], scores: Sequence[Score]) -> list[str]:
        """Return at most one line of failures, and one for each reward with low marks."""
        self.silent -= {label for score in scores for label, mark in score.parts.items() if mark is not None}
        failed = [row for row, score in enumerate(scores) if score.cause in FAILURES]
        found = [f"{scores[row].detail}, on the answer of {_named(tried, failed)}" for row in failed[:1]]
        for reward in self._rewards:
            marks = [score.parts[reward.label] for score in scores[: len(gold)]]
            least = -math.inf if reward.gold_value is None else reward.gold_value
            low = [row for row, mark in enumerate(marks) if mark is not None and mark < least]
            found += [
                f"reward {reward.label!r} gives {marks[row]:g} to the gold answer of {_named(gold, low)}, "
                f"{gold[row].completion[-1]['content']!r:.200}; the right answer must score at least "
                f"{least:g}. Mend the reward or the gold answers, or set its `gold_value` to null if it does "
                "not judge rightness"
                for row in low[:1]
            ]
        return found


def _named(attempts: Sequence[Attempt], places: Sequence[int]) -> str:
    more = f" (and of {len(places) - 1} more)" if len(places) > 1 else ""
    return f"{attempts[places[0]].group_id or f'row {places[0] + 1}'}{more}"
