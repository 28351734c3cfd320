"""What a recipe may say about preference optimisation."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from stages.base import Config, StageConfig
from stages.data.config import DataConfig, DataSetConfig
from stages.data.rows import Row
from stages.pairs.config import PairsStage
from stages.training import SupervisedConfig

TRLLossType = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip


BY_MICRO_BATCH = {"aot", "aot_unpaired", "sft"}
"""Losses of TRL's that are no mean over pairs, but sort them or count their tokens within a micro-batch."""
REVERSE_KL_ONLY = {"nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "sft"}
"""Losses of TRL's that look at log-ratios themselves, and not at another divergence of them."""


class DPOLoss(Config):
    """Direct preference optimisation and its family, as TRL has them; several types are summed by their weights."""

    type: Literal["dpo"] = "dpo"
    beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference."""
    variants: list[TRLLossType] = Field(default=["sigmoid"], min_length=1)
    """TRL's `loss_type`; `sigmoid` is DPO itself."""
    weights: list[float] | None = None
    """One a variant; none: all 1."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed share of flipped labels, for `robust` and `exo_pair`."""
    f_divergence: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
    """Divergence to the reference."""
    ld_alpha: float | None = Field(default=None, ge=0, le=1)
    """Weight of the longer answer's surplus tokens (LD-DPO); none: 1."""
    weighted: bool = False
    """Weigh pairs by their likelihood under the policy (WPO)."""

    @model_validator(mode="after")
    def _one_weight_a_variant(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.variants):
            raise ValueError(f"{len(self.weights)} weights for {len(self.variants)} variants; give one for each")
        return self

    @model_validator(mode="after")
    def _goes_together_in_trl(self) -> Self:
        if "exo_pair" in self.variants and self.label_smoothing == 0:
            raise ValueError("exo_pair takes the log of label_smoothing, so it must be above 0; 1e-3 is usual")
        if self.weighted and {"aot", "aot_unpaired"} & {*self.variants}:
            raise ValueError("weighted: aot and aot_unpaired sort pairs apart from each other, so none has a weight")
        without = sorted(REVERSE_KL_ONLY & {*self.variants})
        if self.f_divergence != "reverse_kl" and without:
            raise ValueError(f"f_divergence: {without[0]} knows no divergence but reverse_kl; leave it out")
        return self


class ODPOLoss(Config):
    """DPO with an offset (Amini et al. 2024, arXiv 2402.10571): a pair must be told apart by more the more it differs.

    Loss: -log sigmoid(beta * (policy margin - reference margin) - alpha * f(score_chosen - score_rejected)).
    """

    type: Literal["odpo"] = "odpo"
    beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference."""
    alpha: float = Field(default=1.0, ge=0)
    """Size of the offset; 0 is DPO exactly."""
    scale: Literal["log", "linear"] = "log"
    """f: the paper's log, for gaps of at least 1, or the gap itself."""
    allow_negative_offset: bool = False
    """Under `log`, whether a gap below 1 may ask for a smaller margin than DPO does."""

    def check_gaps(self, least: float, where: str) -> None:
        """Raise ValueError where pairs whose score gaps are this at least make no offset; ``where`` they are made."""
        if least < 0:
            raise ValueError(
                f"{where} pairs have any scores, and odpo asks for a margin by their gap; take another pairing, or dpo"
            )
        if self.scale == "log" and not self.allow_negative_offset and least < 1:
            raise ValueError(
                f"the log of a score gap below 1 is negative, and {where} pairs have gaps from {least:g}; take a "
                "pairing with min_gap: 1, or scale: linear, or allow_negative_offset: true"
            )


class KTOLoss(Config):
    """Answers that are good or bad one by one: KTO (Ethayarajh et al. 2024, arXiv 2402.01306), or APO-zero without
    pairs (D'Oosterlinck et al. 2024, arXiv 2408.06266)."""

    type: Literal["kto"]
    variant: Literal["kto", "apo_zero_unpaired"] = "kto"
    beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference."""
    desirable_weight: float | None = Field(default=None, gt=0)
    """Weight of good answers; none: such that both classes weigh the same, the rarer one weighed up."""
    undesirable_weight: float | None = Field(default=None, gt=0)
    """Weight of bad answers, likewise."""
    from_pairs: bool = False
    """Whether rows from outside are pairs, each of which is a good answer and a bad one; those of a stage are."""


PreferenceLoss = DPOLoss | ODPOLoss | KTOLoss


class Labelling(Config):
    """Which scored answers are good, and which are bad."""

    good_from: float
    """Least score of a good answer; it must have ended its turn."""
    bad_below: float | None = None
    """A bad answer's score is below this; none: below `good_from`. Answers between the two are left out."""

    @model_validator(mode="after")
    def _good_is_not_bad(self) -> Self:
        if self.bad_below is not None and self.bad_below > self.good_from:
            raise ValueError(f"bad_below {self.bad_below:g} is above good_from {self.good_from:g}: some would be both")
        return self


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
    not finite, or a rejected answer above the chosen one. Dropped ones are counted."""

    def loss_of_pairs(self) -> PreferenceLoss | None:
        """Return the loss under which pairs must teach something; None where rows are no pairs."""
        raise NotImplementedError

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Raise StageError for pairs that teach nothing, or where none teaches anything."""
        from stages.preference.losses import only_good, require_good  # which read the losses of this file

        loss = self.loss_of_pairs()
        if loss is not None:
            (require_good if self.bad_pairs == "refuse" else only_good)(rows, loss)

    def num_dropped(self, rows: Sequence[Row]) -> int:
        """Return how many of some rows would be left out."""
        from stages.preference.losses import only_good

        loss = self.loss_of_pairs()
        return 0 if loss is None or self.bad_pairs == "refuse" else len(rows) - len(only_good(rows, loss))

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

    of_the_machine: ClassVar[frozenset[str]] = SupervisedConfig.of_the_machine | {"micro_batch_tokens", "monitor"}

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
        if self.token_weights and isinstance(self.data, StageData):
            raise ValueError("token_weights are columns of pairs from outside; a stage of pairs makes none")
        return self

    @model_validator(mode="after")
    def _compares_neighbours(self) -> Self:
        if isinstance(self.loss, KTOLoss) and self.loss.variant == "kto" and self.micro_batch_size < 2:
            raise ValueError(
                "micro_batch_size must be 2 or more under kto, which compares an answer with its neighbour"
            )
        return self

    def columns(self) -> list[str]:
        """Those of a pair, and scores where the loss reads them."""
        if isinstance(self.loss, KTOLoss) and not self.loss.from_pairs:
            return ["prompt", "completion", "label"]
        scores = ["score_chosen", "score_rejected"] if isinstance(self.loss, ODPOLoss) else []
        weights = ["chosen_weights", "rejected_weights"] if self.token_weights else []
        return ["prompt", "chosen", "rejected", *scores, *weights]

    def loss_of_pairs(self) -> PreferenceLoss | None:
        """Its own, unless rows are answers with labels."""
        return None if isinstance(self.loss, KTOLoss) and not self.loss.from_pairs else self.loss

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Labels must be of both classes, too."""
        super().check_rows(rows)
        if self.loss_of_pairs() is None:
            from stages.preference.labels import require_both

            require_both(rows)

    def check_inputs(self, sources: Mapping[str, StageConfig]) -> None:
        """Pairs that are yet to be made must have gaps of which the loss can take the log."""
        pairs = sources.get("pairs")
        if isinstance(self.loss, ODPOLoss) and isinstance(pairs, PairsStage):
            self.loss.check_gaps(pairs.pairing.least_gap, f"in {self.inputs()['pairs']!r}")

    @property
    def held_out(self) -> float:
        """Share of prompts that are not learned from."""
        return self.monitor.held_out if self.monitor is not None else 0.0

    def identity(self) -> dict[str, Any]:
        """Of what is looked at, only what is kept apart for it; and the neighbours that some losses compare."""
        identity = {**super().identity(), "held_out": self.held_out}
        compares = isinstance(self.loss, KTOLoss) or bool(
            isinstance(self.loss, DPOLoss) and BY_MICRO_BATCH & {*self.loss.variants}
        )
        return {**identity, "micro_batch_size": self.micro_batch_size} if compares else identity
