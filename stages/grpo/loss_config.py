"""What a recipe may say about advantages, losses and what goes with them. Imports nothing heavy."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, model_validator

from stages.base import Config
from stages.pairs.config import BestVsWorst, Diverse, MarginLimited, NearMiss, Shorter
from stages.preference.loss_config import DPOLoss, LossOfPairs


def _type_or(default: str) -> BeforeValidator:
    """Return a validator by which a variant that says no type is the usual one."""
    return BeforeValidator(lambda value: {"type": default, **value} if isinstance(value, dict) else value)


class GroupNormalized(Config):
    """(reward - group mean) / (group standard deviation + epsilon): GRPO, Shao et al. 2024, arXiv 2402.03300."""

    type: Literal["group_normalized"] = "group_normalized"
    epsilon: float = Field(default=1e-4, gt=0)
    """Added to the standard deviation."""
    tolerance: float = Field(default=1e-6, ge=0)
    """A group whose rewards spread (max - min) no further than this has no signal and trains nothing."""


class BatchNormalized(Config):
    """(reward - group mean) / (standard deviation of these over the batch + epsilon).

    A group whose rewards differ little then teaches little: REINFORCE++ with a baseline, Hu et al. 2025, arXiv
    2501.03262; and the last step of GDPO, after `combine: {type: normalized_sum}`.
    """

    type: Literal["batch_normalized"] = "batch_normalized"
    epsilon: float = Field(default=1e-4, gt=0)
    """Added to the standard deviation."""
    tolerance: float = Field(default=1e-6, ge=0)
    """A group whose rewards spread (max - min) no further than this has no signal and trains nothing."""


class MeanOnly(Config):
    """reward - group mean, whatever the spread: Dr. GRPO, Liu et al. 2025, arXiv 2503.20783."""

    type: Literal["mean_only"] = "mean_only"
    tolerance: float = Field(default=1e-6, ge=0)
    """A group whose rewards spread (max - min) no further than this has no signal and trains nothing."""


class LeaveOneOut(Config):
    """reward - mean of the others of the group: RLOO, Ahmadian et al. 2024, arXiv 2402.14740."""

    type: Literal["leave_one_out"] = "leave_one_out"
    tolerance: float = Field(default=1e-6, ge=0)
    """A group whose rewards spread (max - min) no further than this has no signal and trains nothing."""


class GreedyBaseline(Config):
    """reward - reward of the greedy answer, which is scored with the group: ReMax, Li et al. 2023, arXiv 2310.10505."""

    type: Literal["greedy_baseline"] = "greedy_baseline"
    tolerance: float = Field(default=1e-6, ge=0)
    """A group in which no reward is further from the greedy answer's than this has no signal and trains nothing."""


AdvantageConfig = Annotated[
    GroupNormalized | BatchNormalized | MeanOnly | LeaveOneOut | GreedyBaseline,
    Discriminator("type"),
    _type_or("group_normalized"),
]


Aggregate = Literal["token", "sequence", "constant"]
"""How tokens are weighed in the loss. `token`: mean over all tokens of the batch (DAPO). `sequence`: mean over answers
of their token means (GRPO). `constant`: sum over tokens, over answers times `sampling.max_tokens` (Dr. GRPO)."""


class _Loss(Config):
    aggregate: Aggregate = "token"
    """Mean over all tokens (DAPO), over answers of their means (GRPO), or a sum over a constant (Dr. GRPO)."""


class _Clipped(_Loss):
    clip_low: float = Field(default=0.2, gt=0, le=1)
    """The ratio counts down to 1 - clip_low."""
    clip_high: float = Field(default=0.2, gt=0)
    """The ratio counts up to 1 + clip_high."""
    most: float | None = Field(default=None, gt=1)
    """Largest ratio that counts against a bad answer; none: any."""

    @model_validator(mode="after")
    def _clips_twice_in_order(self) -> Self:
        if self.most is not None and self.most <= 1 + self.clip_high:
            raise ValueError(f"most {self.most:g} must lie above 1 + clip_high {self.clip_high:g}")
        return self


class ClippedRatio(_Clipped):
    """Importance ratio by token, clipped on either side (PPO's surrogate, Schulman et al. 2017, arXiv 1707.06347)."""

    type: Literal["clipped_ratio"] = "clipped_ratio"


class SequenceRatio(_Clipped):
    """Importance ratio by answer, clipped (GSPO, Zheng et al. 2025, arXiv 2507.18071)."""

    type: Literal["sequence_ratio"] = "sequence_ratio"
    aggregate: Aggregate = "sequence"
    clip_low: float = Field(default=3e-4, gt=0, le=1)
    """The ratio counts down to 1 - clip_low."""
    clip_high: float = Field(default=4e-4, gt=0)
    """The ratio counts up to 1 + clip_high."""


class ClippedWeight(_Loss):
    """Policy gradient weighted by the ratio, cut at the top (CISPO, MiniMax 2025, arXiv 2506.13585)."""

    type: Literal["clipped_weight"] = "clipped_weight"
    clip_high: float = Field(default=4.0, gt=0)
    """The weight is 1 + clip_high at most."""


class SoftGate(_Loss):
    """Importance ratio through a gate that fades (SAPO, Gao et al. 2025, arXiv 2511.20347)."""

    type: Literal["soft_gate"] = "soft_gate"
    aggregate: Aggregate = "sequence"
    sharpness_good: float = Field(default=1.0, gt=0)
    """Of the gate for answers with a positive advantage."""
    sharpness_bad: float = Field(default=1.05, gt=0)
    """Of the gate for the others."""


class AdvantageRegression(_Loss):
    """The answer's log-ratio is fitted to its advantage (Reg-GRPO, Park et al. 2025, arXiv 2506.07464)."""

    type: Literal["advantage_regression"] = "advantage_regression"
    aggregate: Aggregate = "sequence"
    scale: float = Field(default=1.0, gt=0)
    """Nats of log-ratio for an advantage of 1."""


class PolicyGradient(_Loss):
    """Advantage times log-probability (REINFORCE); for strictly fresh samples."""

    type: Literal["policy_gradient"] = "policy_gradient"


OnlinePairing = Annotated[BestVsWorst | MarginLimited | NearMiss | Shorter | Diverse, Discriminator("type")]


class OnlinePreference(Config):
    """A pair of each group is learned with a loss of preferences, held to where the stage started: online DPO, Guo et
    al. 2024, arXiv 2402.04792. It stands old samples better than policy gradients do: Noukhovitch et al. 2024, arXiv
    2410.18252."""

    type: Literal["online_preference"] = "online_preference"
    of: LossOfPairs = Field(default_factory=DPOLoss, discriminator="type")
    """As in a preference stage."""
    pairing: OnlinePairing = Field(default_factory=BestVsWorst)
    """As in a pairs stage: which two answers of a group."""
    aggregate: Aggregate = "token"
    """Weighs tokens in metrics, and in an entropy bonus."""

    @model_validator(mode="before")
    @classmethod
    def _usual_loss(cls, value: Any) -> Any:
        of = value.get("of") if isinstance(value, dict) else None
        return {**value, "of": {"type": "dpo", **of}} if isinstance(of, dict) else value

    @model_validator(mode="after")
    def _can_be_learned_online(self) -> Self:
        if isinstance(self.of, DPOLoss) and self.of.weighted:
            raise ValueError("of.weighted (WPO) needs whole distributions, which are not kept online; leave it out")
        if isinstance(self.pairing, Diverse) and self.pairing.measure == "embedding":
            raise ValueError("pairing.measure embedding is for a pairs stage; take frequency or probability")
        self.of.check_gaps(self.pairing.least_gap, "here")
        return self


LossConfig = Annotated[
    ClippedRatio | SequenceRatio | ClippedWeight | SoftGate | AdvantageRegression | PolicyGradient | OnlinePreference,
    Discriminator("type"),
    _type_or("clipped_ratio"),
]


class _Correction(Config):
    level: Literal["token", "sequence"] = "token"
    """A weight for each token, or one for all tokens of an answer: the product of theirs."""
    most: float = Field(default=2.0, gt=1)
    """Largest weight."""


class TruncatedWeights(_Correction):
    """Weights above `most` are cut to it (truncated importance sampling)."""

    type: Literal["truncated"] = "truncated"


class MaskedWeights(_Correction):
    """Weights outside of the bounds become 0 (IcePop)."""

    type: Literal["masked"] = "masked"
    least: float = Field(default=0.5, ge=0, lt=1)
    """Smallest weight."""


class Uncorrected(Config):
    """Every token counts once, whoever sampled it: said where a loss without a ratio is to take old samples as they
    are."""

    type: Literal["uncorrected"] = "uncorrected"


CorrectionConfig = Annotated[TruncatedWeights | MaskedWeights | Uncorrected, Discriminator("type")]


class KLConfig(Config):
    """Penalty for leaving the reference, by token, with d = log p_ref - log p (Schulman 2020)."""

    coef: float = Field(default=0.0, ge=0)
    """0 keeps no reference in memory."""
    estimate: Literal["k1", "k2", "k3"] = "k3"
    """-d, d^2 / 2, or exp(d) - d - 1. As a loss, k2 has the gradient of the KL, and k1 none on average."""
    where: Literal["loss", "reward"] = "loss"
    """A term of the loss by token; or summed over each answer's tokens and taken from its reward."""
