"""What a recipe may say about making preference pairs."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Discriminator, Field, model_validator

from stages.answering import SamplingStageConfig
from stages.base import Config


class _Pairing(Config):
    """Base of the ways to make pairs of a group."""

    @property
    def least_gap(self) -> float:
        """The smallest difference of scores that a pair may have; below 0 where scores do not decide."""
        return 0.0


class BestVsWorst(_Pairing):
    """The highest-scored answer of a group against the lowest-scored."""

    type: Literal["best_vs_worst"] = "best_vs_worst"
    min_gap: float = Field(default=1e-6, gt=0)
    """Groups whose scores differ by less make no pair."""

    @property
    def least_gap(self) -> float:
        """As the recipe says."""
        return self.min_gap


class Threshold(_Pairing):
    """Good answers against bad ones, in the order they were sampled: the first with the first, and so on."""

    type: Literal["threshold"]
    good_from: float
    """Least score of a good answer."""
    bad_below: float | None = None
    """A bad answer's score is below this; none: below `good_from`."""
    most_pairs: int = Field(default=1, ge=1)
    """Pairs of a group, at most."""

    @model_validator(mode="after")
    def _good_is_not_bad(self) -> Self:
        if self.bad_below is not None and self.bad_below > self.good_from:
            raise ValueError(f"bad_below {self.bad_below:g} is above good_from {self.good_from:g}: some would be both")
        return self

    @property
    def least_gap(self) -> float:
        """Whatever lies between the two."""
        return 0.0 if self.bad_below is None else self.good_from - self.bad_below


class Graded(_Pairing):
    """Pairs of small and of large gaps, spread evenly between a group's smallest gap and its largest; for ODPO."""

    type: Literal["graded"]
    most_pairs: int = Field(default=4, ge=1)
    """Pairs of a group, at most."""
    min_gap: float = Field(default=1e-6, gt=0)
    """Two answers whose scores differ by less make no pair."""

    @property
    def least_gap(self) -> float:
        """As the recipe says."""
        return self.min_gap


class MarginLimited(_Pairing):
    """The pair with the largest gap that is not above a limit: what differs by much teaches little that is new."""

    type: Literal["margin_limited"]
    max_gap: float = Field(gt=0)
    min_gap: float = Field(default=1e-6, gt=0)

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if self.min_gap > self.max_gap:
            raise ValueError(f"min_gap {self.min_gap:g} is above max_gap {self.max_gap:g}: no gap is between them")
        return self

    @property
    def least_gap(self) -> float:
        """As the recipe says."""
        return self.min_gap


class Diverse(_Pairing):
    """The good answer that is the rarest, against the bad one that is the commonest: DivPO, Lanchantin et al. 2025,
    arXiv 2501.18101."""

    type: Literal["diverse"]
    good_from: float
    """Least score of a good answer; all others are bad."""
    measure: Literal["frequency", "probability", "embedding"] = "frequency"
    """What makes an answer rare: few others say the same; the policy finds it unlikely, by token; or it lies far from
    the others, by the cosine between mean hidden states of the policy's last layer."""


class NearMiss(_Pairing):
    """An answer with full marks against the best one without, of programs the one that fails the fewest tests: Miao et
    al. 2024, arXiv 2410.18585."""

    type: Literal["near_miss"]
    full: float = 1.0
    """Full marks."""


class Shorter(_Pairing):
    """The shortest good answer against the longest: pairs that need no reward besides what is good at all."""

    type: Literal["shorter"]
    good_from: float | None = None
    """Least score of both answers; none: any."""

    @property
    def least_gap(self) -> float:
        """Any."""
        return float("-inf")

    min_ratio: float = Field(default=1.2, gt=1)
    """How many times as long, in tokens, the longer answer is at least."""


class FlippedSystem(_Pairing):
    """What is said under one system prompt is chosen under it, and rejected under the other: Gallego 2024, arXiv
    2404.00495. Each prompt is answered under both, and makes two pairs."""

    type: Literal["flipped_system"]
    systems: tuple[str, str]
    """The two system prompts; one of the row's own is replaced."""
    good_from: float | None = None
    """Least score of both answers; none: any."""

    @property
    def least_gap(self) -> float:
        """Any."""
        return float("-inf")

    @model_validator(mode="after")
    def _differs(self) -> Self:
        if self.systems[0] == self.systems[1]:
            raise ValueError("the two system prompts are the same, so nothing is preferred under either")
        return self


Pairing = Annotated[
    BestVsWorst | Threshold | Graded | MarginLimited | Diverse | NearMiss | Shorter | FlippedSystem,
    Discriminator("type"),
]


class PairsStage(SamplingStageConfig):
    """Sample several answers a prompt, score them, keep better and worse ones."""

    kind: Literal["pairs"]
    init_from: str | None = Field(default=None, min_length=1)
    """Stage whose model answers; none: the run's base model."""
    num_completions: int = Field(default=8, ge=2)
    """Answers a prompt."""
    prompts_per_chunk: int = Field(default=256, ge=1)
    """Prompts answered between two saves; a resumed stage goes on after the last whole chunk."""
    pairing: Pairing = Field(default_factory=BestVsWorst)
    hardest: int | None = Field(default=None, ge=1)
    """Keep pairs of so many prompts only, those with the lowest mean score; the hardest come first in the file. None:
    all, in the order of the prompts."""

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

    @model_validator(mode="after")
    def _keeps_both_of_two_prompts(self) -> Self:
        if isinstance(self.pairing, FlippedSystem) and self.prompts.too_long == "drop":
            raise ValueError("prompts.too_long: drop could leave a prompt out under one of its two system prompts")
        return self

    def inputs(self) -> dict[str, str]:
        """The policy, where another stage made it."""
        return {**super().inputs(), **({"policy": self.init_from} if self.init_from else {})}

    def largest_group(self) -> int:
        """As many as are sampled."""
        return self.num_completions
