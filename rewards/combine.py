"""Several rewards become one number. The scorer calls it, in the learner's process.

A combination sees one whole group at a time: the mark of each reward for each attempt. What an attempt's value is made
of is in ``Score.parts``, whatever the combination does with it. Those that know all beforehand are in
`rewards.combinations`, those that learn in `rewards.controllers`.

Shapes: G attempts of a group.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rewards.combinations import Combination, Gated, NormalizedSum, WeightedSum
from rewards.combine_config import CombineConfig
from rewards.config import RewardConfig
from rewards.controllers import Constrained, GradientGuided, HypervolumeGuided
from rewards.types import FAILURES, Graded, Mark, RewardError, Score

COMBINATIONS: dict[str, Callable[[Any, Mapping[str, float]], Combination]] = {
    "weighted_sum": WeightedSum,
    "normalized_sum": NormalizedSum,
    "gated": Gated,
    "constrained": Constrained,
    "hypervolume_guided": HypervolumeGuided,
    "gradient_guided": GradientGuided,
}
"""Every type, and what is built from its config and the rewards' weights."""


def scores(combination: Combination, graded: Graded) -> list[Score]:
    """Make one score an attempt: its first failure decides, and what could be scored is combined."""
    marks_G = [dict(zip(graded.marks, row, strict=True)) for row in zip(*graded.marks.values(), strict=True)]
    failures_G = [_first_failure(marks) for marks in marks_G]
    parts_G = [{label: mark.value for label, mark in marks.items()} for marks in marks_G]
    scorable = [parts for parts, failure in zip(parts_G, failures_G, strict=True) if failure is None]
    values = iter(combination.values(scorable))
    found = []
    for marks, parts, failure in zip(marks_G, parts_G, failures_G, strict=True):
        reads = {label: mark.read for label, mark in marks.items() if mark.read}
        score = Score(value=None, cause="not_applicable", parts=parts, reads=reads, seconds=graded.seconds)
        if failure is not None:
            score = replace(score, cause=failure.cause, detail=failure.detail)
        elif (value := next(values)) is not None:
            score = replace(score, value=value, cause="ok")
        found.append(score)
    return found


def _first_failure(marks: Mapping[str, Mark]) -> Mark | None:
    return next((mark for mark in marks.values() if mark.cause in FAILURES), None)


def build(config: CombineConfig, rewards: Sequence[RewardConfig]) -> Combination:
    """Return the combination that a recipe asks for; RewardError where it names a reward that is not there."""
    weights = {reward.label: reward.weight for reward in rewards}
    for label in config.named():
        if label not in weights:
            raise RewardError(f"combine: there is no reward {label!r}; there are {', '.join(map(repr, weights))}")
    return COMBINATIONS[config.type](config, weights)
