"""Rewards tried on gold answers before a run: full marks are due. `check` asks, and `strop rewards test`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from rewards.config import RewardConfig
from rewards.gold import GoldCheck
from rewards.scoring_config import ScoringConfig
from rewards.types import Attempt
from stages.answering import AnsweringStageConfig
from stages.base import Problem, StageConfig, with_parts
from stages.data.marking import column_names, varied
from stages.data.read_once import ReadOnce
from stages.data.rows import Row, reward_columns


class GoldTrial:
    """One reward, being tried in a process of its own on what the stages that use it read."""

    def __init__(self, reward: RewardConfig, scoring: ScoringConfig) -> None:
        self.stages: dict[str, AnsweringStageConfig] = {}
        self._reward = reward
        self._num_rows = reward.num_trials
        self._check = GoldCheck([reward], scoring)

    def problems(self, read: ReadOnce) -> Iterator[Problem]:
        """Say where the reward gives a gold answer less than full marks, or cannot run at all; the first stage's."""
        tried = set[str]()
        for name, stage in self.stages.items():
            for data in stage.datasets().values():
                if not data.is_file or data.model_dump_json() in tried:
                    continue
                tried.add(data.model_dump_json())
                rows = read.rows(data, stage.columns())
                found = self._check.problems(*trial_attempts(rows, [self._reward], self._num_rows))
                yield from (f"stage {name!r}: {line}" for line in found)
                if found:
                    return
                about = f"note: stage {name!r}: reward {self._reward.label!r}"
                yield from (f"{about}: {line}" for line in self._reward.remarks(rows))
        for label in sorted(self._check.silent) if tried else ():
            where = " and ".join(repr(name) for name in self.stages)
            yield (
                f"note: stage {where}: reward {label!r} returned None for every row that it was tried on; if that is "
                "not meant, look at the columns that it reads"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._check.close()


def start_gold_trials(stages: Mapping[str, StageConfig]) -> list[GoldTrial]:
    """Start a trial of every reward, one where several stages use the same."""
    trials: dict[str, GoldTrial] = {}
    for name, stage in with_parts(stages).items():
        if isinstance(stage, AnsweringStageConfig):
            for reward in stage.scored_by():
                if reward.num_trials == 0:
                    continue
                identity = reward.model_dump_json(exclude={"weight"})
                trials[identity] = trials.get(identity) or GoldTrial(reward, stage.scoring)
                trials[identity].stages[name] = stage
    return list(trials.values())


def trial_attempts(
    rows: Sequence[Row], rewards: Sequence[RewardConfig], num_rows: int
) -> tuple[list[Attempt], list[Attempt]]:
    """Return gold answers to try rewards on, and for rows that have none, answers of which nothing is asked.

    They are of rows that the rewards apply to, of each kind some. A gold answer is a row's completion, or its `answer`
    in a box.
    """
    gold: list[Attempt] = []
    other: list[Attempt] = []
    names = column_names(rows)
    for at in varied(rows, rewards, num_rows):
        row = rows[at]
        completion = row.get("completion")
        gold_answer = row.get("answer")
        boxed = None if gold_answer is None else f"\\boxed{{{_right_answer(rewards, gold_answer)}}}"
        text = completion or boxed or "an answer"
        turns = text if isinstance(text, list) else [{"role": "assistant", "content": text}]
        columns = {**dict.fromkeys(names), **reward_columns(row)}
        attempt = Attempt(prompt=row["prompt"], completion=turns, columns=columns, group_id=f"row {at + 1}")
        (gold if completion or boxed else other).append(attempt)
    return gold, other


def _right_answer(rewards: Sequence[RewardConfig], gold: Any) -> str:
    """Return the answer that the first reward which reads one would call right."""
    reading = next((reward for reward in rewards if hasattr(reward, "answer_column")), rewards[0])
    return reading.right_answer(gold)
