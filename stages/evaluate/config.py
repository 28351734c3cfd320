"""What a recipe may say about exams."""

import re
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from rewards.config import MathRewardConfig, RewardConfig
from stages.answering import AnsweringStageConfig
from stages.base import Config, DataUse
from stages.data.config import DataConfig, DataSetConfig


class TaskConfig(Config):
    """One set of held-out problems."""

    data: DataConfig
    """Rows with `prompt` and what the reward reads. No stage may train or select on them."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest answer, in tokens."""
    num_samples: int = Field(default=0, ge=0)
    """Answers a problem at temperature 1, besides the greedy one; 0: greedy alone."""


class EarlyStopConfig(AnsweringStageConfig):
    """Have the policy sit an exam before it learns and at each checkpoint; stop once it no longer improves, and hand
    over the best checkpoint. The start, which is none, is never handed over. A stage with this starts engines, too."""

    exam: DataConfig
    """Rows with `prompt` and what the reward reads; none that is trained on, nor of an `evaluate` stage."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest answer, in tokens; the greedy one."""
    reward: RewardConfig = Field(default_factory=MathRewardConfig)
    """What marks the answers; its mean is the accuracy."""
    patience: int = Field(default=2, ge=1)
    """Learning stops after so many exams in a row that were no better than the best before them."""
    min_gain: float = Field(default=0.0, ge=0)
    """By more than this a better exam counts as better."""

    data_are_for: ClassVar[DataUse] = "selection"

    def scored_by(self) -> list[RewardConfig]:
        """The one reward."""
        return [self.reward]

    def longest_answer(self, role: str) -> int:
        """As the exam allows."""
        return self.max_tokens

    def largest_group(self) -> int:
        """The greedy answer alone."""
        return 1

    def datasets(self) -> dict[str, DataSetConfig]:
        """The exam."""
        return {"exam": self.exam}


class EvaluateStage(AnsweringStageConfig):
    """Have earlier stages' models sit the same exams, and say what each gained over the one before."""

    kind: Literal["evaluate"]
    of: list[str] = Field(min_length=1)
    """Stages whose models are examined, in the order of the climb; `base` is the run's base model."""
    tasks: dict[str, TaskConfig] = Field(min_length=1)
    """Exams by name."""
    reward: RewardConfig = Field(default_factory=MathRewardConfig)
    """What marks the answers; its mean is the accuracy."""

    produces: ClassVar[str] = "exam"
    data_are_for: ClassVar[DataUse] = "exam"

    @field_validator("tasks")
    @classmethod
    def _names_are_folder_names(cls, tasks: dict[str, TaskConfig]) -> dict[str, TaskConfig]:
        for name in tasks:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
                raise ValueError(f"exam name {name!r} will not do: up to 64 letters, digits, '-' and '_'")
        return tasks

    def scored_by(self) -> list[RewardConfig]:
        """The one reward."""
        return [self.reward]

    def longest_answer(self, role: str) -> int:
        """As this exam allows."""
        return self.tasks[role].max_tokens

    def largest_group(self) -> int:
        """The greedy answer alone, or the sampled ones."""
        return max(1, *(task.num_samples for task in self.tasks.values()))

    def inputs(self) -> dict[str, str]:
        """The examined stages, each under its own name."""
        return {**super().inputs(), **{name: name for name in self.of if name != "base"}}

    def datasets(self) -> dict[str, DataSetConfig]:
        """The exams."""
        return {name: task.data for name, task in self.tasks.items()}
