"""What a recipe may say about making preference pairs."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.answering import SamplingStageConfig
from stages.base import Config


class BestVsWorst(Config):
    """The highest-scored answer of a group against the lowest-scored."""

    type: Literal["best_vs_worst"] = "best_vs_worst"
    min_gap: float = Field(default=1e-6, gt=0)
    """Groups whose scores differ by less make no pair."""


class PairsStage(SamplingStageConfig):
    """Sample several answers a prompt, score them, keep a better and a worse one."""

    kind: Literal["pairs"]
    init_from: str | None = Field(default=None, min_length=1)
    """Stage whose model answers; none: the run's base model."""
    num_completions: int = Field(default=8, ge=2)
    """Answers a prompt."""
    prompts_per_chunk: int = Field(default=256, ge=1)
    """Prompts answered between two saves; a resumed stage goes on after the last whole chunk."""
    pairing: BestVsWorst = Field(default_factory=BestVsWorst)

    produces: ClassVar[str] = "pairs"

    @model_validator(mode="after")
    def _answers_in_one_turn(self) -> Self:
        if self.environment is not None:
            raise ValueError("pairs are made of answers of one turn; leave environment out of a pairs stage")
        return self

    @model_validator(mode="after")
    def _samples(self) -> Self:
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature 0 makes all answers of a group equal; pairs are made of differences")
        return self

    def inputs(self) -> dict[str, str]:
        """The policy, where another stage made it."""
        return {"policy": self.init_from} if self.init_from else {}

    def largest_group(self) -> int:
        """As many as are sampled."""
        return self.num_completions
