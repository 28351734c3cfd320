"""What the stages share whose answers engines write and rewards mark. Imports nothing heavy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from rewards import combine
from rewards.combine_config import CombineConfig, WeightedSumConfig
from rewards.config import ModelRewardConfig, RewardConfig
from rewards.registry import check_labels
from rewards.scorer import check_deadline
from rewards.scoring_config import ScoringConfig
from rollout.config import EngineConfig, EnvironmentConfig, SamplingConfig, WeightSyncConfig
from rollout.engine import Precision
from stages.base import StageConfig
from stages.data.config import DataConfig, DataSetConfig


def role_of(reward: ModelRewardConfig) -> str:
    """Return the role in which a stage reads the reward model of another."""
    return f"reward {reward.label!r}"


class AnsweringStageConfig(StageConfig):
    """Base of the stages that start engines and reward workers."""

    combine: CombineConfig = Field(default_factory=WeightedSumConfig)
    """How several rewards become one number."""
    scoring: ScoringConfig = Field(default_factory=ScoringConfig)
    """How rewards are run."""
    sync: WeightSyncConfig = Field(default_factory=WeightSyncConfig)
    """How weights reach the engines."""
    environment: EnvironmentConfig | None = None
    """Who answers the policy between its turns: `{functions: [...]}` that it may call, or a class of the user's own,
    `{import_path: ...}`; none: an answer is one turn."""

    generates: ClassVar[bool] = True
    needs_columns: ClassVar[tuple[str, ...]] = ("prompt",)

    def scored_by(self) -> list[RewardConfig]:
        """The rewards that mark the answers."""
        raise NotImplementedError

    def longest_answer(self, role: str) -> int:
        """Most tokens that engines may answer to a prompt of this data set."""
        raise NotImplementedError

    def largest_group(self) -> int:
        """Most answers to one prompt that are marked together."""
        raise NotImplementedError

    def inputs(self) -> dict[str, str]:
        """The reward models that other stages make, too."""
        return {**super().inputs(), **{role_of(reward): str(reward.stage) for reward in self._from_stages()}}

    def input_kind(self, role: str) -> str:
        """Reward models are no policies."""
        is_reward = role in [role_of(reward) for reward in self._from_stages()]
        return "reward_model" if is_reward else super().input_kind(role)

    def rewards_with(self, inputs: Mapping[str, Path]) -> list[RewardConfig]:
        """Return the rewards with the folders of the models that other stages made."""
        folders = {reward.label: str(inputs[role_of(reward)]) for reward in self._from_stages()}
        return [
            reward.model_copy(update={"model": folders[reward.label]}) if reward.label in folders else reward
            for reward in self.scored_by()
        ]

    def _from_stages(self) -> list[ModelRewardConfig]:
        return [reward for reward in self.scored_by() if isinstance(reward, ModelRewardConfig) and reward.stage]

    def check_rewards(self) -> None:
        """Raise RewardError where the rewards cannot be combined, or may take longer than they are given."""
        check_labels(self.scored_by())
        combine.build(self.combine, self.scored_by())
        check_deadline(self.scored_by(), self.scoring, self.largest_group())

    def room(self, role: str, engine: EngineConfig) -> int:
        """Most tokens that a prompt of this data set may have in the engine's context."""
        return engine.max_model_tokens - self.longest_answer(role)

    def identity(self) -> dict[str, Any]:
        """Without what only the gold check reads."""
        identity = super().identity()
        for reward in identity.get("rewards", [identity.get("reward", {})]):
            reward.pop("gold_value", None)
        return identity

    def bytes_per_parameter(self, precision: Precision) -> float:
        """The engine's comes on top."""
        return super().bytes_per_parameter(precision) + self.engine_bytes_per_parameter(precision)

    def engine_bytes_per_parameter(self, precision: Precision) -> float:
        """The engine's copy, and the one that was sent to it."""
        return 2.0 * (4 if precision == "float32" else 2)


class SamplingStageConfig(AnsweringStageConfig):
    """Base of the stages that sample several answers to each of their prompts."""

    prompts: DataConfig
    """Rows with `prompt` and whatever the rewards read."""
    rewards: list[RewardConfig] = Field(min_length=1)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)

    def scored_by(self) -> list[RewardConfig]:
        """Its rewards."""
        return self.rewards

    def longest_answer(self, role: str) -> int:
        """As sampled."""
        return self.sampling.max_tokens

    def datasets(self) -> dict[str, DataSetConfig]:
        """The prompts."""
        return {"prompts": self.prompts}
