"""How several rewards become one number. The scorer calls it, in the learner's process.

A combination sees one whole group at a time: the mark of each reward for each attempt. What an attempt's value is made
of is in ``Score.parts``, whatever the combination does with it.

Shapes: G attempts of a group.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rewards.config import (
    CombineConfig,
    ConstrainedConfig,
    GatedConfig,
    NormalizedSumConfig,
    RewardConfig,
    WeightedSumConfig,
)
from rewards.types import FAILURES, Cause, Graded, Mark, RewardError, Score

Parts = Mapping[str, float | None]
"""One attempt's value by reward; None where the reward does not apply."""


class Combination(Protocol):
    """Turns the marks of a group into values, and may learn from them how to weigh."""

    def values(self, parts_G: Sequence[Parts]) -> list[float | None]:
        """Return [G]; None where no reward applies. Attempts that could not be scored are not among them."""
        ...

    def observe(self, means: Mapping[str, float]) -> None:
        """Take note of each reward's mean over a step's attempts, once a step."""
        ...

    def metrics(self) -> dict[str, float]:
        """Return the state as metrics."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON, for a checkpoint."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        ...


def scores(combination: Combination, graded: Graded) -> list[Score]:
    """Make one score an attempt: its first failure decides, and what could be scored is combined."""
    marks_G = [dict(zip(graded.marks, row, strict=True)) for row in zip(*graded.marks.values(), strict=True)]
    failures_G = [_first_failure(marks) for marks in marks_G]
    parts_G = [{label: mark.value for label, mark in marks.items()} for marks in marks_G]
    scorable = [parts for parts, failure in zip(parts_G, failures_G, strict=True) if failure is None]
    values = iter(combination.values(scorable))
    found = []
    for parts, failure in zip(parts_G, failures_G, strict=True):
        if failure is not None:
            score = Score(value=None, cause=failure.cause, parts=parts, seconds=graded.seconds, detail=failure.detail)
        else:
            value = next(values)
            cause: Cause = "not_applicable" if value is None else "ok"
            score = Score(value=value, cause=cause, parts=parts, seconds=graded.seconds)
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
    if isinstance(config, NormalizedSumConfig):
        return NormalizedSum(config, weights)
    if isinstance(config, GatedConfig):
        return Gated(config, weights)
    if isinstance(config, ConstrainedConfig):
        return Constrained(config, weights)
    return WeightedSum(config, weights)


class WeightedSum:
    """The sum of weight times value over the rewards that apply."""

    def __init__(self, config: WeightedSumConfig, weights: Mapping[str, float]) -> None:
        self._weights = weights

    def values(self, parts_G: Sequence[Parts]) -> list[float | None]:
        """Return [G]."""
        return [weighted_sum(self._weights, parts) for parts in parts_G]

    def observe(self, means: Mapping[str, float]) -> None:
        """Nothing is learned."""

    def metrics(self) -> dict[str, float]:
        """Nothing changes."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Nothing is kept."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing was kept."""


class NormalizedSum(WeightedSum):
    """Each reward is normalised within the group before the weighted sum: GDPO (Liu et al. 2026, arXiv 2601.05242).

    A plain sum of 0/1 rewards cannot tell (1, 0) from (0, 1); normalised, the rarer reward counts more.
    """

    def __init__(self, config: NormalizedSumConfig, weights: Mapping[str, float]) -> None:
        super().__init__(WeightedSumConfig(), weights)
        self._epsilon = config.epsilon

    def values(self, parts_G: Sequence[Parts]) -> list[float | None]:
        """Return [G]; over one reward's values of the group the mean is 0 and the deviation nearly 1."""
        columns = {label: [parts[label] for parts in parts_G] for label in self._weights}
        normalized = {label: normalize(column, self._epsilon) for label, column in columns.items()}
        return super().values([{label: normalized[label][at] for label in columns} for at in range(len(parts_G))])


class Gated(WeightedSum):
    """Rewards in order: a later one counts only where all earlier gates are met (ChipSeek-R1, arXiv 2507.04736)."""

    def __init__(self, config: GatedConfig, weights: Mapping[str, float]) -> None:
        super().__init__(WeightedSumConfig(), weights)
        self._gates = config.gates

    def values(self, parts_G: Sequence[Parts]) -> list[float | None]:
        """Return [G]: the weighted sum up to, and with, the first gate that is not met."""
        return super().values([self._open_parts(parts) for parts in parts_G])

    def _open_parts(self, parts: Parts) -> Parts:
        """Put 0 for what lies behind a closed gate. A gate whose reward does not apply is open."""
        last = list(self._gates)
        closed = next(
            (at for at, label in enumerate(last) if (v := parts[label]) is not None and v < self._gates[label]), None
        )
        if closed is None:
            return parts
        reached = set(last[: closed + 1])
        return {label: value if label in reached or value is None else 0.0 for label, value in parts.items()}


class Constrained(WeightedSum):
    """Each constrained reward is wanted up to a threshold and no further (Constrained RLHF, arXiv 2310.04373).

    With multiplier l of a constraint c, its share is sigmoid(l), and the task's is what the shares leave on average:
    value = mean over c of (1 - sigmoid(l_c)) * task + sigmoid(l_c) * w_c * value_c. Each step moves l_c by gradient
    descent with momentum on l_c * (mean of c - threshold): below its threshold a reward gains weight, above it loses.
    """

    def __init__(self, config: ConstrainedConfig, weights: Mapping[str, float]) -> None:
        super().__init__(WeightedSumConfig(), weights)
        self._config = config
        self._multipliers = dict.fromkeys(config.thresholds, config.initial)
        self._momenta = dict.fromkeys(config.thresholds, 0.0)

    def values(self, parts_G: Sequence[Parts]) -> list[float | None]:
        """Return [G]."""
        shares = {label: sigmoid(multiplier) for label, multiplier in self._multipliers.items()}
        task_share = statistics.fmean(1 - share for share in shares.values())
        factors = {label: shares[label] / len(shares) if label in shares else task_share for label in self._weights}
        weights = {label: weight * factors[label] for label, weight in self._weights.items()}
        return [weighted_sum(weights, parts) for parts in parts_G]

    def observe(self, means: Mapping[str, float]) -> None:
        """Move the multipliers."""
        for label, threshold in self._config.thresholds.items():
            if label in means:
                gradient = means[label] - threshold
                self._momenta[label] = self._config.momentum * self._momenta[label] + gradient
                self._multipliers[label] -= self._config.learning_rate * self._momenta[label]

    def metrics(self) -> dict[str, float]:
        """Return each constraint's share."""
        return {f"reward/{label}/share": sigmoid(value) for label, value in self._multipliers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return multipliers and momenta."""
        return {"multipliers": dict(self._multipliers), "momenta": dict(self._momenta)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them up."""
        self._multipliers, self._momenta = dict(state["multipliers"]), dict(state["momenta"])


def weighted_sum(weights: Mapping[str, float], parts: Parts) -> float | None:
    """Return the weighted sum of what applies; None where nothing does."""
    terms = [weights[label] * value for label, value in parts.items() if value is not None]
    return sum(terms) if terms else None


def normalize(values_G: Sequence[float | None], epsilon: float) -> list[float | None]:
    """Return (value - mean) / (population deviation + epsilon) over the values that there are."""
    there = [value for value in values_G if value is not None]
    if not there:
        return list(values_G)
    mean, scale = statistics.fmean(there), statistics.pstdev(there) + epsilon
    return [None if value is None else (value - mean) / scale for value in values_G]


def sigmoid(x: float) -> float:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
