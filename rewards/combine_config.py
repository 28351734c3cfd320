"""What a recipe may say about how several rewards become one number. Imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field


class _Combination(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def named(self) -> list[str]:
        """Rewards that the combination names."""
        return []


class WeightedSumConfig(_Combination):
    """The sum of weight times value over the rewards that apply."""

    type: Literal["weighted_sum"] = "weighted_sum"


class NormalizedSumConfig(_Combination):
    """Each reward normalised within the group, then the weighted sum (GDPO)."""

    type: Literal["normalized_sum"] = "normalized_sum"
    epsilon: float = Field(default=1e-4, gt=0)
    """Added to the standard deviation."""


class GatedConfig(_Combination):
    """Rewards in order; a later one counts only where all earlier ones reach their gates."""

    type: Literal["gated"] = "gated"
    gates: dict[str, float] = Field(min_length=1)
    """Reward -> least value, in the order in which they are passed; rewards without a gate come after them all."""

    def named(self) -> list[str]:
        """The gates."""
        return list(self.gates)


class ConstrainedConfig(_Combination):
    """Each named reward is wanted up to its threshold; Lagrange multipliers move its weight (Constrained RLHF)."""

    type: Literal["constrained"] = "constrained"
    thresholds: dict[str, float] = Field(min_length=1)
    """Reward -> mean value, before its weight, that is wanted and no more."""
    learning_rate: float = Field(default=0.01, gt=0)
    """Of the multipliers, a step."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    initial: float = 0.0
    """Multiplier at the start; a constraint's share is its sigmoid."""

    def named(self) -> list[str]:
        """The constraints."""
        return list(self.thresholds)


class HypervolumeGuidedConfig(_Combination):
    """The weighted sum; steps that widen the front of what the rewards reach together teach more than others."""

    type: Literal["hypervolume_guided"] = "hypervolume_guided"
    every_steps: int = Field(default=10, ge=1)
    """Steps whose mean rewards make a point of the front."""
    floors: dict[str, float] = {}
    """Reward -> value from which on it counts as reached; 0 where none is given."""

    def named(self) -> list[str]:
        """Rewards with a floor."""
        return list(self.floors)


class GradientGuidedConfig(_Combination):
    """The weighted sum, with more weight for rewards whose gradients serve the others too.

    Every so many steps there is one more backward pass for each reward, and memory for its gradient.
    """

    type: Literal["gradient_guided"] = "gradient_guided"
    every_steps: int = Field(default=10, ge=1)
    learning_rate: float = Field(default=0.1, gt=0)
    """Of the factors' logarithms, for gradients that point the same way."""


CombineConfig = Annotated[
    WeightedSumConfig
    | NormalizedSumConfig
    | GatedConfig
    | ConstrainedConfig
    | HypervolumeGuidedConfig
    | GradientGuidedConfig,
    Discriminator("type"),
]
