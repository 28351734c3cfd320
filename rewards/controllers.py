"""Combinations that learn how to weigh: they look at what came of each step, and have a state to be saved.

Shapes: G attempts of a group.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rewards.combinations import Combination, Parts, weighted_sum
from rewards.combine_config import ConstrainedConfig, GradientGuidedConfig, HypervolumeGuidedConfig


class Constrained(Combination):
    """Each constrained reward is wanted up to a threshold and no further (Constrained RLHF, arXiv 2310.04373).

    With multiplier l of a constraint c, its share is sigmoid(l), and the task's is what the shares leave on average:
    value = mean over c of (1 - sigmoid(l_c)) * task + sigmoid(l_c) * w_c * value_c. Each step moves l_c by gradient
    descent with momentum on l_c * (mean of c - threshold): below its threshold a reward gains weight, above it loses.
    """

    def __init__(self, config: ConstrainedConfig, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
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


class HypervolumeGuided(Combination):
    """The weighted sum; steps that widen the front of what the rewards reach together teach more than others.

    A point is what the rewards' means were over some steps. The factor on the learning rate, until the next point, is
    0.5 + 1.5 * tanh(the volume that the point adds to what earlier ones dominate): 0.5 where it adds nothing, up to 2.
    Source: hypervolume-guided weights, Lu et al. 2025, arXiv 2509.11452. There the points are of a validation set and
    the factor is the reward's, which Adam, and advantages that are normalised, would undo.
    """

    def __init__(self, config: HypervolumeGuidedConfig, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self._config = config
        self._front: list[list[float]] = []
        self._volume = 0.0
        self._seen: list[dict[str, float]] = []
        self._scale = 1.0

    def values(self, parts_G: Sequence[Parts]) -> list[float | None]:
        """Return [G]."""
        return [weighted_sum(self._weights, parts) for parts in parts_G]

    def scale(self) -> float:
        """Return the factor."""
        return self._scale

    def observe(self, means: Mapping[str, float]) -> None:
        """Take note; every so many steps, make a point of their mean."""
        self._seen.append(dict(means))
        if len(self._seen) < self._config.every_steps:
            return
        seen, self._seen = self._seen, []
        weights = {label: weight for label, weight in self._weights.items() if weight}
        if not all(label in means for means in seen for label in weights):
            return  # a reward that nobody got says nothing of what can be reached
        point = [
            math.copysign(1, weight) * (statistics.fmean(means[label] for means in seen) - self._floor(label))
            for label, weight in weights.items()
        ]
        added = contribution(point, self._front)
        self._front = undominated([*self._front, point])
        self._volume += added
        self._scale = 0.5 + 1.5 * math.tanh(added)

    def metrics(self) -> dict[str, float]:
        """Return the factor and the volume."""
        return {"reward/front/scale": self._scale, "reward/front/volume": self._volume}

    def state_dict(self) -> dict[str, Any]:
        """Return the front, its volume, the means since its last point, and the factor."""
        return {"front": self._front, "volume": self._volume, "seen": self._seen, "scale": self._scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them up."""
        self._front, self._volume = list(state["front"]), state["volume"]
        self._seen, self._scale = list(state["seen"]), state["scale"]

    def _floor(self, label: str) -> float:
        return self._config.floors.get(label, 0.0)


class GradientGuided(Combination):
    """A reward gains weight while learning from it also serves the others, and loses where it works against them.

    Every so many steps f_i, a factor on the weight of reward i, becomes f_i * exp(rate * cos(g_i, g)), where g_i is the
    gradient that reward i alone would give and g the sum of these; then all factors are scaled to a mean of 1. After
    the gradient-based weights of Lu et al. 2025, arXiv 2509.11452, with the angle in the place of the inner product,
    which would favour whatever has the larger gradients.
    """

    def __init__(self, config: GradientGuidedConfig, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self._config = config
        self._factors = dict.fromkeys(weights, 1.0)

    def values(self, parts_G: Sequence[Parts]) -> list[float | None]:
        """Return [G]."""
        weights = {label: weight * self._factors[label] for label, weight in self._weights.items()}
        return [weighted_sum(weights, parts) for parts in parts_G]

    def wants_gradients(self, step: int) -> bool:
        """Whether ``observe_gradients`` is due after this step."""
        return step % self._config.every_steps == 0

    def observe_gradients(self, products: Mapping[tuple[str, str], float]) -> None:
        """Move the factors by the inner products of the rewards' own gradients, by pair of labels.

        Rewards without a gradient of their own, since no group differed in them, are not among the pairs and stay; so
        do those without a weight. A penalty's gradient points where there is less of it.
        """
        signs = {
            label: math.copysign(1, weight)
            for label, weight in self._weights.items()
            if weight and (label, label) in products
        }
        wanted = {(a, b): signs[a] * signs[b] * products[a, b] for a in signs for b in signs}
        length = math.sqrt(max(0.0, sum(wanted.values())))
        for label in signs:
            own = math.sqrt(products[label, label])
            if own > 0 and length > 0:
                cosine = sum(wanted[label, other] for other in signs) / (own * length)
                self._factors[label] *= math.exp(self._config.learning_rate * cosine)
        mean = statistics.fmean(self._factors.values())
        self._factors = {label: factor / mean for label, factor in self._factors.items()}

    def metrics(self) -> dict[str, float]:
        """Return each reward's factor."""
        return {f"reward/{label}/factor": factor for label, factor in self._factors.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the factors."""
        return {"factors": dict(self._factors)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them up."""
        self._factors = dict(state["factors"])


def undominated(points: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the points, each once, that no other point equals or exceeds in every coordinate."""
    found: list[list[float]] = []
    for point in sorted({tuple(point) for point in points}, reverse=True):
        if not any(all(a >= b for a, b in zip(other, point, strict=True)) for other in found):
            found.append(list(point))
    return found


def hypervolume(points: Sequence[Sequence[float]]) -> float:
    """Return the volume between the origin and what the points dominate: what each adds to those after it.

    Source: the WFG algorithm, While et al. 2012, IEEE Transactions on Evolutionary Computation 16(1).
    """
    front = undominated(points)
    return sum(contribution(point, front[at + 1 :]) for at, point in enumerate(front))


def contribution(point: Sequence[float], others: Sequence[Sequence[float]]) -> float:
    """Return the volume that a point adds to what others dominate."""
    if any(coordinate <= 0 for coordinate in point):
        return 0.0
    shared = [[min(a, b) for a, b in zip(point, other, strict=True)] for other in others]
    return math.prod(point) - hypervolume(shared)


def sigmoid(x: float) -> float:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
