"""Combinations that know all beforehand: how the marks of several rewards become one number.

Shapes: G attempts of a group.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rewards.config import GatedConfig, NormalizedSumConfig, WeightedSumConfig

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

    def scale(self) -> float:
        """Return the factor on all advantages of a step."""
        ...

    def wants_gradients(self, step: int) -> bool:
        """Whether it is to be shown the rewards' gradients after this step."""
        ...

    def observe_gradients(self, products: Mapping[tuple[str, str], float]) -> None:
        """Take note of the inner products of the gradients that each reward alone would give, by pair of labels."""
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


class WeightedSum:
    """The sum of weight times value over the rewards that apply."""

    def __init__(self, config: WeightedSumConfig, weights: Mapping[str, float]) -> None:
        self._weights = weights

    def values(self, parts_G: Sequence[Parts]) -> list[float | None]:
        """Return [G]."""
        return [weighted_sum(self._weights, parts) for parts in parts_G]

    def observe(self, means: Mapping[str, float]) -> None:
        """Nothing is learned."""

    def scale(self) -> float:
        """Nothing is scaled."""
        return 1.0

    def wants_gradients(self, step: int) -> bool:
        """They would change nothing."""
        return False

    def observe_gradients(self, products: Mapping[tuple[str, str], float]) -> None:
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
