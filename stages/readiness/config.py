"""What a recipe may say about a readiness report."""

from typing import ClassVar, Literal

from pydantic import Field

from stages.answering import SamplingStageConfig


class ReadinessStage(SamplingStageConfig):
    """Sample answers to some prompts, and say how many groups a learner could learn from."""

    kind: Literal["readiness"]
    init_from: str | None = Field(default=None, min_length=1)
    """Stage whose model answers; none: the run's base model."""
    passes: float = 1.0
    """Least value of a passing answer by the first reward, before its weight."""
    num_prompts: int = Field(default=64, ge=1)
    """Prompts that are tried, drawn by the seed."""
    num_samples: int = Field(default=8, ge=2)
    """Answers a prompt."""
    tolerance: float = Field(default=1e-6, ge=0)
    """A group whose rewards spread (max - min) no further than this has no signal."""

    produces: ClassVar[str] = "report"

    def inputs(self) -> dict[str, str]:
        """The policy, where another stage made it."""
        return {**super().inputs(), **({"policy": self.init_from} if self.init_from else {})}

    def largest_group(self) -> int:
        """As many as are sampled."""
        return self.num_samples
