"""What a recipe may say about preference optimisation."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from rollout.engine import Precision
from stages.adapter_config import require_no_dropout, require_servable, require_start_of_reference
from stages.base import Config, StageConfig
from stages.data.config import DataConfig, DataSetConfig
from stages.data.rows import Row
from stages.evaluate.config import EarlyStopConfig
from stages.pairs.config import PairsStage
from stages.preference.labels import require_both
from stages.preference.loss_config import DPOLoss, KTOLoss, Labelling, PreferenceLoss
from stages.preference.losses import only_good, require_good
from stages.training import SupervisedConfig


class StageData(Config):
    """What an earlier stage of pairs made."""

    stage: str
    """Its name."""
    answers: Labelling | None = None
    """Every scored answer of that stage in place of its pairs, for `kto`."""


def _source(value: Any) -> str:
    return "stage" if isinstance(value, StageData) or (isinstance(value, dict) and "stage" in value) else "data"


PairsSource = Annotated[Annotated[StageData, Tag("stage")] | Annotated[DataConfig, Tag("data")], Discriminator(_source)]


class PairedConfig(SupervisedConfig):
    """Base of the stages that learn from pairs."""

    data: PairsSource
    """`{stage: NAME}`, or rows with `prompt`, `chosen`, `rejected`."""
    bad_pairs: Literal["refuse", "drop"] = "refuse"
    """What becomes of pairs that teach nothing: the same answer on both sides, or, where scores are read, one that is
    not finite, a rejected answer above the chosen one, or a gap that makes no offset. Dropped ones are counted."""

    @model_validator(mode="after")
    def _two_passes_are_the_same(self) -> Self:
        require_no_dropout(self.params)
        return self

    def loss_of_pairs(self) -> PreferenceLoss | None:
        """Return the loss under which pairs must teach something; None where rows are no pairs."""
        raise NotImplementedError

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Raise StageError for pairs that teach nothing, or where none teaches anything."""
        loss = self.loss_of_pairs()
        if loss is not None:
            (require_good if self.bad_pairs == "refuse" else only_good)(rows, loss)

    def num_dropped(self, rows: Sequence[Row]) -> int:
        """Return how many of some rows would be left out."""
        loss = self.loss_of_pairs()
        return 0 if loss is None or self.bad_pairs == "refuse" else len(rows) - len(only_good(rows, loss))

    def check_inputs(self, sources: Mapping[str, StageConfig]) -> None:
        """Pairs that are yet to be made must have gaps of which the loss can make something."""
        pairs, loss = sources.get("pairs"), self.loss_of_pairs()
        if loss is not None and isinstance(pairs, PairsStage) and self.bad_pairs == "refuse":
            loss.check_gaps(pairs.pairing.least_gap, f"in {self.inputs()['pairs']!r}")

    def input_kind(self, role: str) -> str:
        """A policy, and pairs."""
        return "pairs" if role == "pairs" else super().input_kind(role)

    def inputs(self) -> dict[str, str]:
        """The policy, and the pairs where a stage made them."""
        pairs = {"pairs": self.data.stage} if isinstance(self.data, StageData) else {}
        return {**super().inputs(), **pairs}

    def datasets(self) -> dict[str, DataSetConfig]:
        """The pairs, where they come from outside."""
        return {} if isinstance(self.data, StageData) else {"data": self.data}


class Monitor(Config):
    """What is looked at while a preference is learned: how likely good, bad and the policy's own greedy answers are.

    Ren and Sutherland 2024, arXiv 2407.10490."""

    every_steps: int = Field(default=10, ge=1)
    """Steps between two looks."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Share of prompts that are not learned from, and watched; 0: some are watched that are learned from."""
    num_prompts: int = Field(default=16, ge=1)
    """Most pairs, or answers of each class, that are watched."""
    max_tokens: int = Field(default=128, ge=1)
    """Longest answer that the policy gives when it is looked at."""


class PreferenceStage(PairedConfig):
    """Learn from pairs to prefer the better answer, held to where the stage started."""

    kind: Literal["preference"]
    data: PairsSource
    """`{stage: NAME}`, or rows with `prompt`, `chosen`, `rejected`. ODPO reads `score_chosen`, `score_rejected`, too.
    KTO reads `prompt`, `completion` and `label`, unless it says `from_pairs`."""
    loss: PreferenceLoss = Field(default_factory=DPOLoss, discriminator="type")
    micro_batch_tokens: int | None = Field(default=2048, ge=1)
    """Tokens of pairs forwarded at once inside a micro-batch, padding included, each prompt once where that is cheaper.
    None: TRL's own padded forward, without it; so under WPO and KTO."""

    token_weights: bool = False
    """Whether pairs have `chosen_weights` and `rejected_weights`: one number for each token of an answer as the chat
    template writes it, its end of the turn among them, by which the token's log-probability counts on both sides, the
    policy's and the reference's."""
    monitor: Monitor | None = Field(default_factory=Monitor)
    """None: nothing is looked at."""
    early_stop: EarlyStopConfig | None = None
    """Exams at the checkpoints, after which the stage may stop, and whose best one it hands over."""

    of_the_machine: ClassVar[frozenset[str]] = SupervisedConfig.of_the_machine | {"micro_batch_tokens", "monitor"}

    @model_validator(mode="after")
    def _is_examined_at_checkpoints(self) -> Self:
        if self.early_stop is not None and not self.checkpoint.every_steps:
            raise ValueError("early_stop examines checkpoints, and checkpoint.every_steps is 0; say how often")
        if self.early_stop is not None:
            require_servable(self.params)
        return self

    @model_validator(mode="after")
    def _adapter_begins_as_the_reference(self) -> Self:
        if self.loss.has_reference:
            require_start_of_reference(self.params)
        return self

    @property
    def row_tokens(self) -> int | None:
        """The same, where the loss allows it: WPO needs more of a distribution than a token's own share."""
        weighted = isinstance(self.loss, DPOLoss) and self.loss.weighted
        return None if weighted else self.micro_batch_tokens

    @model_validator(mode="after")
    def _takes_answers_one_by_one(self) -> Self:
        takes_answers = isinstance(self.data, StageData) and self.data.answers is not None
        if takes_answers and not isinstance(self.loss, KTOLoss):
            raise ValueError(f"data.answers is for loss: {{type: kto}}; {self.loss.type} learns from pairs")
        return self

    @model_validator(mode="after")
    def _weighs_tokens_of_pairs(self) -> Self:
        if self.token_weights and isinstance(self.loss, KTOLoss):
            raise ValueError("token_weights are for losses of pairs; kto has none")
        if self.token_weights and isinstance(self.loss, DPOLoss) and self.loss.weighted:
            raise ValueError("loss.weighted (WPO) weighs pairs by all of their tokens; leave it or token_weights out")
        if self.token_weights and isinstance(self.data, StageData):
            raise ValueError("token_weights are columns of pairs from outside; a stage of pairs makes none")
        return self

    @model_validator(mode="after")
    def _compares_neighbours(self) -> Self:
        if isinstance(self.loss, KTOLoss) and self.loss.compares_neighbours and self.micro_batch_size < 2:
            raise ValueError(
                "micro_batch_size must be 2 or more under kto, which compares an answer with its neighbour"
            )
        return self

    def parts(self) -> dict[str, StageConfig]:
        """The exam that may stop it."""
        return {"early_stop": self.early_stop} if self.early_stop is not None else {}

    def inputs(self) -> dict[str, str]:
        """What marks that exam, too."""
        return {**super().inputs(), **(self.early_stop.inputs() if self.early_stop is not None else {})}

    def input_kind(self, role: str) -> str:
        """As the exam has it, where the role is one of its own."""
        is_of_exam = self.early_stop is not None and role in self.early_stop.inputs()
        return "reward_model" if is_of_exam else super().input_kind(role)

    def bytes_per_parameter(self, precision: Precision) -> float:
        """The copies of the exam's engine come on top."""
        own = super().bytes_per_parameter(precision)
        return own if self.early_stop is None else own + self.early_stop.engine_bytes_per_parameter(precision)

    def columns(self) -> list[str]:
        """Those that the loss reads, and weights of tokens."""
        return [*self.loss.columns(), *(["chosen_weights", "rejected_weights"] if self.token_weights else [])]

    def loss_of_pairs(self) -> PreferenceLoss | None:
        """Its own, unless rows are answers with labels."""
        return self.loss if self.loss.reads_pairs else None

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Labels must be of both classes, too."""
        super().check_rows(rows)
        if self.loss_of_pairs() is None:
            require_both(rows)

    @property
    def held_out(self) -> float:
        """Share of prompts that are not learned from."""
        return self.monitor.held_out if self.monitor is not None else 0.0

    def identity(self) -> dict[str, Any]:
        """Of what is looked at, only what is kept apart for it; how often the policy is examined; and the neighbours
        that some losses compare."""
        identity = {**super().identity(), "held_out": self.held_out}
        if self.early_stop is not None:
            identity["early_stop"] = {**self.early_stop.identity(), "every_steps": self.checkpoint.every_steps}
        compares = self.loss.compares_neighbours
        return {**identity, "micro_batch_size": self.micro_batch_size} if compares else identity
