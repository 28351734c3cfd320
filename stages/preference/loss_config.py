"""What a recipe may say about the loss of preferences. Imports nothing heavy."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.base import Config

TRLLossType = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip


BY_MICRO_BATCH = {"aot", "aot_unpaired", "sft"}
"""Losses of TRL's that are no mean over pairs, but sort them or count their tokens within a micro-batch."""
SMOOTHED = {"robust", "exo_pair", "aot", "aot_unpaired"}
"""Losses of TRL's that read an assumed share of flipped labels."""
REVERSE_KL_ONLY = {"nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "sft"}
"""Losses of TRL's that look at log-ratios themselves, and not at another divergence of them."""


class _AnyLoss(Config):
    beta: float
    has_reference: ClassVar[bool] = True
    """Whether the policy is held to where the stage started."""

    @property
    def reads_pairs(self) -> bool:
        """Whether rows are pairs; else answers with labels."""
        return True

    @property
    def compares_neighbours(self) -> bool:
        """Whether what is forwarded together decides what is learned, besides what takes a step together."""
        return False

    def columns(self) -> list[str]:
        """Columns of rows from outside."""
        return ["prompt", "chosen", "rejected"]

    def check_gaps(self, least: float, where: str) -> None:
        """Raise ValueError where pairs with score gaps of at least this cannot be learned; ``where`` they are made."""


class PairLoss(_AnyLoss):
    """Base of the losses of pairs, each of which is one of TRL's, or a sum of them, with a reference moved or left out.

    TRL's are functions of log-ratios between policy and reference. Where the reference gives every answer a
    probability of one, the log-ratio is the policy's own log-probability; where it gives the chosen answer more, a pair
    must be told apart by more.
    """

    def in_trl(self) -> "DPOLoss":
        """Return what TRL computes."""
        raise NotImplementedError

    @property
    def compares_neighbours(self) -> bool:
        """Where one of TRL's does."""
        return bool(BY_MICRO_BATCH & {*self.in_trl().variants})


class DPOLoss(PairLoss):
    """Direct preference optimisation and its family, as TRL has them; several types are summed by their weights."""

    type: Literal["dpo"] = "dpo"
    beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference."""
    variants: list[TRLLossType] = Field(default=["sigmoid"], min_length=1)
    """TRL's `loss_type`; `sigmoid` is DPO itself."""
    weights: list[float] | None = None
    """One a variant; none: all 1."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed share of flipped labels, for `robust`, `exo_pair`, `aot` and `aot_unpaired`."""
    f_divergence: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
    """Divergence to the reference."""
    ld_alpha: float | None = Field(default=None, ge=0, le=1)
    """Weight of the longer answer's surplus tokens (LD-DPO); none: 1."""
    weighted: bool = False
    """Weigh pairs by their likelihood under the policy (WPO)."""

    def in_trl(self) -> "DPOLoss":
        """Itself."""
        return self

    @model_validator(mode="after")
    def _one_weight_a_variant(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.variants):
            raise ValueError(f"{len(self.weights)} weights for {len(self.variants)} variants; give one for each")
        return self

    @model_validator(mode="after")
    def _goes_together_in_trl(self) -> Self:
        if "exo_pair" in self.variants and self.label_smoothing == 0:
            raise ValueError("exo_pair takes the log of label_smoothing, so it must be above 0; 1e-3 is usual")
        if self.label_smoothing and not SMOOTHED & {*self.variants}:
            raise ValueError(f"label_smoothing: {self.variants[0]} takes no notice of it; take variants: [robust]")
        if self.weighted and {"aot", "aot_unpaired"} & {*self.variants}:
            raise ValueError("weighted: aot and aot_unpaired sort pairs apart from each other, so none has a weight")
        without = sorted(REVERSE_KL_ONLY & {*self.variants})
        if self.f_divergence != "reverse_kl" and without:
            raise ValueError(f"f_divergence: {without[0]} knows no divergence but reverse_kl; leave it out")
        return self


class ODPOLoss(PairLoss):
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

    def in_trl(self) -> DPOLoss:
        """DPO."""
        return DPOLoss(beta=self.beta)

    def columns(self) -> list[str]:
        """Scores, too."""
        return [*super().columns(), "score_chosen", "score_rejected"]

    def check_gaps(self, least: float, where: str) -> None:
        """A gap must make an offset."""
        if least < 0:
            raise ValueError(
                f"{where} pairs have any scores, and odpo asks for a margin by their gap; take another pairing, or dpo"
            )
        if self.scale == "log" and not self.allow_negative_offset and least < 1:
            raise ValueError(
                f"the log of a score gap below 1 is negative, and {where} pairs have gaps from {least:g}; take a "
                "pairing with min_gap: 1, or scale: linear, or allow_negative_offset: true"
            )


class SimPOLoss(PairLoss):
    """Log-probabilities by token, without a reference, apart by a margin (Meng et al. 2024, arXiv 2405.14734).

    Loss: -log sigmoid(beta * (mean log-probability of the chosen answer's tokens - of the rejected one's) - gamma).
    """

    type: Literal["simpo"]
    beta: float = Field(default=2.0, gt=0)
    """How sharply the two are told apart."""
    gamma: float = Field(default=1.0, ge=0)
    """By how much beta times the difference must exceed 0; the paper's best are half of beta, and less."""
    has_reference: ClassVar[bool] = False

    def in_trl(self) -> DPOLoss:
        """DPO normalised by length."""
        return DPOLoss(beta=self.beta, variants=["sigmoid_norm"])


class CPOLoss(PairLoss):
    """Log-probabilities without a reference, and likelihood of the chosen answer (Xu et al. 2024, arXiv 2401.08417).

    Loss: -log sigmoid(beta * (log-probability chosen - rejected)) - alpha * (mean log-probability of chosen tokens).
    """

    type: Literal["cpo"]
    beta: float = Field(default=0.1, gt=0)
    """How sharply the two are told apart."""
    alpha: float = Field(default=1.0, ge=0)
    """Weight of the likelihood."""
    has_reference: ClassVar[bool] = False

    def in_trl(self) -> DPOLoss:
        """DPO and likelihood."""
        return DPOLoss(beta=self.beta, variants=["sigmoid", "sft"], weights=[1.0, self.alpha])


class KTOLoss(_AnyLoss):
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

    @property
    def reads_pairs(self) -> bool:
        """As the recipe says."""
        return self.from_pairs

    @property
    def compares_neighbours(self) -> bool:
        """KTO itself takes its KL from them."""
        return self.variant == "kto"

    def columns(self) -> list[str]:
        """Answers and labels, unless they are made from pairs."""
        return super().columns() if self.from_pairs else ["prompt", "completion", "label"]


LossOfPairs = DPOLoss | ODPOLoss | SimPOLoss | CPOLoss
PreferenceLoss = LossOfPairs | KTOLoss


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
