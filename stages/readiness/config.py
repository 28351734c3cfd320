"""What a recipe may say about a readiness report."""

from typing import ClassVar, Literal

from pydantic import Field

from rewards.config import RewardConfig
from rollout.config import SamplingConfig
from stages.answering import AnsweringStageConfig
from stages.data.config import DataConfig, DataSetConfig


class ReadinessStage(AnsweringStageConfig):
    """Sample answers to some prompts, and say how many groups a learner could learn from."""

    kind: Literal["readiness"]
    init_from: str | None = Field(default=None, min_length=1)
    """Stage whose model answers; none: the run's base model."""
    prompts: DataConfig
    """Rows with `prompt` and whatever the rewards read."""
    rewards: list[RewardConfig] = Field(min_length=1)
    """The first says what passes."""
    passes: float = 1.0
    """Least value of a passing answer by the first reward, before its weight."""
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    num_prompts: int = Field(default=64, ge=1)
    """Prompts that are tried, drawn by the seed."""
    num_samples: int = Field(default=8, ge=2)
    """Answers a prompt."""
    tolerance: float = Field(default=1e-6, ge=0)
    """A group whose rewards spread (max - min) no further than this has no signal."""

    produces: ClassVar[str] = "report"

    def inputs(self) -> dict[str, str]:
        """The policy, where another stage made it."""
        return {"policy": self.init_from} if self.init_from else {}

    def scored_by(self) -> list[RewardConfig]:
        """Its rewards."""
        return self.rewards

    def longest_answer(self, role: str) -> int:
        """As sampled."""
        return self.sampling.max_tokens

    def largest_group(self) -> int:
        """As many as are sampled."""
        return self.num_samples

    def datasets(self) -> dict[str, DataSetConfig]:
        """The prompts."""
        return {"prompts": self.prompts}
