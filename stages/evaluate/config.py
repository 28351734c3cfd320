"""What a recipe may say about exams."""

from typing import ClassVar, Literal

from pydantic import Field

from rewards.config import MathRewardConfig, RewardConfig, ScoringConfig
from rollout.config import WeightSyncConfig
from stages.base import Config, StageConfig
from stages.data.config import DataConfig, DataSetConfig


class TaskConfig(Config):
    """One set of held-out problems."""

    data: DataConfig
    """Rows with `prompt` and what the reward reads. No stage may train or select on them."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest answer, in tokens."""
    num_samples: int = Field(default=0, ge=0)
    """Answers a problem at temperature 1, beside the greedy one; 0: greedy alone."""


class EvaluateStage(StageConfig):
    """Have earlier stages' models sit the same exams, and say what each gained over the one before."""

    kind: Literal["evaluate"]
    of: list[str] = Field(min_length=1)
    """Stages whose models are examined, in the order of the climb; `base` is the run's base model."""
    tasks: dict[str, TaskConfig] = Field(min_length=1)
    """Exams by name."""
    reward: RewardConfig = Field(default_factory=MathRewardConfig)
    """What marks the answers; its mean is the accuracy."""
    scoring: ScoringConfig = Field(default_factory=ScoringConfig)
    sync: WeightSyncConfig = Field(default_factory=WeightSyncConfig)

    produces: ClassVar[str] = "exam"
    generates: ClassVar[bool] = True
    needs_columns: ClassVar[tuple[str, ...]] = ("prompt",)

    def inputs(self) -> dict[str, str]:
        """The examined stages, each under its own name."""
        return {name: name for name in self.of if name != "base"}

    def datasets(self) -> dict[str, DataSetConfig]:
        """The exams."""
        return {name: task.data for name, task in self.tasks.items()}
