"""Combinations that know all beforehand: how the marks of several rewards become one number.

Shapes: G attempts of a group.
"""

import statistics
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from rewards.combine_config import GatedConfig, NormalizedSumConfig, WeightedSumConfig

Parts = Mapping[str, float | None]
"""One attempt's value by reward; None where the reward does not apply."""
TOLERANCE = 1e-6
"""Values of a group that lie closer together than this are taken for equal."""


class Combination(ABC):
    """Turns the marks of a group into values. Those that learn how to weigh have a state; this one has none."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights

    @abstractmethod
    def values(self, parts_G: Sequence[Parts]) -> list[float | None]:
        """Return [G]; None where no reward applies. Attempts that could not be scored are not among them."""

    def observe(self, means: Mapping[str, float]) -> None:  # noqa: B027 - most learn nothing
        """Take note of each reward's mean over a step's attempts, once a step."""

    def scale(self) -> float:
        """Return the factor on the learning rate of a step."""
        return 1.0

    def wants_gradients(self, step: int) -> bool:
        """Whether it is to be shown the rewards' gradients after this step."""
        return False

    def observe_gradients(self, products: Mapping[tuple[str, str], float]) -> None:  # noqa: B027
        """Take note of the inner products of the gradients that each reward alone would give, by pair of labels."""

    def metrics(self) -> dict[str, float]:
        """Return the state as metrics."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON, for a checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take up what `state_dict` gave."""


class WeightedSum(Combination):
    """The sum of weight times value over the rewards that apply."""

    def __init__(self, config: WeightedSumConfig, weights: Mapping[str, float]) -> None:
        super().__init__(weights)

    def values(self, parts_G: Sequence[Parts]) -> list[float | None]:
        """Return [G]."""
        return [weighted_sum(self._weights, parts) for parts in parts_G]


class NormalizedSum(Combination):
    """Each reward is normalised within the group before the weighted sum: GDPO (Liu et al. 2026, arXiv 2601.05242).

    A plain sum of 0/1 rewards cannot tell (1, 0) from (0, 1); normalised, the rarer reward counts more. GDPO then
    normalises the sums over the batch, which is what advantages of type `batch_normalized` do.
    """

    def __init__(self, config: NormalizedSumConfig, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self._epsilon = config.epsilon

    def values(self, parts_G: Sequence[Parts]) -> list[float | None]:
        """Return [G]; over one reward's values of the group the mean is 0 and the deviation nearly 1."""
        columns = {label: normalize([parts[label] for parts in parts_G], self._epsilon) for label in self._weights}
        rows = [{label: column[at] for label, column in columns.items()} for at in range(len(parts_G))]
        return [weighted_sum(self._weights, row) for row in rows]


class Gated(Combination):
    """Rewards in order: a later one counts only where all earlier gates are met (ChipSeek-R1, arXiv 2507.04736).

    What would lower the value counts behind a closed gate too; else a penalty could be escaped by failing the gate.
    """

    def __init__(self, config: GatedConfig, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self._gates = config.gates

    def values(self, parts_G: Sequence[Parts]) -> list[float | None]:
        """Return [G]: the weighted sum up to, and with, the first gate that is not met, and of penalties."""
        return [weighted_sum(self._weights, self._counted(parts)) for parts in parts_G]

    def _counted(self, parts: Parts) -> Parts:
        """Put 0 for merits behind a closed gate. A gate whose reward does not apply is open."""
        order = list(self._gates)
        closed = next(
            (at for at, label in enumerate(order) if (v := parts[label]) is not None and v < self._gates[label]), None
        )
        if closed is None:
            return parts
        reached = set(order[: closed + 1])
        return {
            label: value if label in reached or value is None or self._weights[label] * value < 0 else 0.0
            for label, value in parts.items()
        }


def weighted_sum(weights: Mapping[str, float], parts: Parts) -> float | None:
    """Return the weighted sum of what applies; None where nothing does."""
    terms = [weights[label] * value for label, value in parts.items() if value is not None]
    return sum(terms) if terms else None


def normalize(values_G: Sequence[float | None], epsilon: float) -> list[float | None]:
    """Return (value - mean) / (population deviation + epsilon) over the values that there are; 0 where they are equal.

    Without that, two copies of 0.1 computed differently would end up far apart.
    """
    there = [value for value in values_G if value is not None]
    if not there or max(there) - min(there) <= TOLERANCE:
        return [None if value is None else 0.0 for value in values_G]
    mean, scale = statistics.fmean(there), statistics.pstdev(there) + epsilon
    return [None if value is None else (value - mean) / scale for value in values_G]
