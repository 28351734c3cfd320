"""What a recipe may say about group-relative policy optimisation."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Discriminator, Field, model_validator

from rewards.config import RewardConfig
from rollout.config import SamplingConfig
from rollout.engine import Precision
from stages.answering import AnsweringStageConfig
from stages.base import Config
from stages.data.config import DataConfig, DataSetConfig
from stages.training import NOT_SERVED, LoraParams, TrainingStageConfig


class GroupNormalized(Config):
    """(reward - group mean) / (group standard deviation + epsilon): GRPO, Shao et al. 2024, arXiv 2402.03300."""

    type: Literal["group_normalized"] = "group_normalized"
    epsilon: float = Field(default=1e-4, gt=0)
    """Added to the standard deviation."""
    tolerance: float = Field(default=1e-6, ge=0)
    """A group whose rewards spread (max - min) no further than this has no signal and trains nothing."""


class BatchNormalized(Config):
    """(reward - group mean) / (standard deviation of these over the batch + epsilon).

    A group whose rewards differ little then teaches little: REINFORCE++ with a baseline, Hu et al. 2025, arXiv
    2501.03262; and the last step of GDPO, after `combine: {type: normalized_sum}`.
    """

    type: Literal["batch_normalized"] = "batch_normalized"
    epsilon: float = Field(default=1e-4, gt=0)
    """Added to the standard deviation."""
    tolerance: float = Field(default=1e-6, ge=0)
    """A group whose rewards spread (max - min) no further than this has no signal and trains nothing."""


AdvantageConfig = Annotated[GroupNormalized | BatchNormalized, Discriminator("type")]


class ClippedRatio(Config):
    """Importance ratio by token, clipped on either side (PPO's surrogate, Schulman et al. 2017, arXiv 1707.06347)."""

    type: Literal["clipped_ratio"] = "clipped_ratio"
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """The ratio counts down to 1 - clip_low."""
    clip_high: float = Field(default=0.2, gt=0)
    """The ratio counts up to 1 + clip_high."""
    aggregate: Literal["sequence", "token"] = "token"
    """`token`: mean over all tokens of the batch (DAPO). `sequence`: mean over answers of their token means (GRPO)."""


class KLConfig(Config):
    """Penalty for leaving the reference: the k3 estimate, exp(d) - d - 1 with d = log p_ref - log p, by token."""

    coef: float = Field(default=0.0, ge=0)
    """0 keeps no reference in memory."""


class GRPOStage(AnsweringStageConfig, TrainingStageConfig):
    """Sample groups from the current policy, score them, and learn from the differences inside each group."""

    kind: Literal["grpo"]
    prompts: DataConfig
    """Rows with `prompt` and whatever the rewards read."""
    rewards: list[RewardConfig] = Field(min_length=1)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    num_steps: int = Field(ge=1)
    """Optimizer steps."""
    prompts_per_step: int = Field(default=32, ge=1)
    group_size: int = Field(default=8, ge=2)
    """Completions a prompt."""
    micro_batch_size: int = Field(default=64, ge=1)
    """Completions forwarded at once."""
    max_empty_batches: int = Field(default=8, ge=0)
    """How many batches in a row may hold no group with signal before the run stops."""
    advantage: AdvantageConfig = Field(default_factory=GroupNormalized)
    loss: ClippedRatio = Field(default_factory=ClippedRatio)
    kl: KLConfig = Field(default_factory=KLConfig)

    of_the_machine: ClassVar[frozenset[str]] = TrainingStageConfig.of_the_machine | {"max_empty_batches"}

    @model_validator(mode="after")
    def _samples(self) -> Self:
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature 0 makes all answers of a group equal; GRPO learns from differences")
        return self

    @model_validator(mode="after")
    def _normalizes_once(self) -> Self:
        if self.combine.type == "normalized_sum" and self.advantage.type == "group_normalized":
            raise ValueError(
                "combine: normalized_sum normalises rewards within each group already; say "
                "advantage: {type: batch_normalized}"
            )
        return self

    @model_validator(mode="after")
    def _ratios_are_without_dropout(self) -> Self:
        if isinstance(self.params, LoraParams) and self.params.dropout > 0:
            raise ValueError(
                "params.dropout must be 0 in a grpo stage: the ratio of two passes would show it as a change of the "
                "policy"
            )
        return self

    @model_validator(mode="after")
    def _engines_can_serve_the_adapter(self) -> Self:
        wrong = [name for name in NOT_SERVED if isinstance(self.params, LoraParams) and self.params.extra.get(name)]
        if wrong:
            raise ValueError(
                f"params.extra.{wrong[0]} changes more than engines are sent; leave it out of a grpo stage"
            )
        return self

    def scored_by(self) -> list[RewardConfig]:
        """Its rewards."""
        return self.rewards

    def longest_answer(self, role: str) -> int:
        """As sampled."""
        return self.sampling.max_tokens

    def largest_group(self) -> int:
        """As many as are sampled."""
        return self.group_size

    def bytes_per_parameter(self, precision: Precision) -> float:
        """A reference of its own comes on top; under an adapter the policy without it is the reference."""
        has_reference = self.kl.coef > 0 and self.params.type == "full"
        return super().bytes_per_parameter(precision) + (4 if has_reference else 0)

    def datasets(self) -> dict[str, DataSetConfig]:
        """The prompts."""
        return {"prompts": self.prompts}
