"""What a recipe may say about group-relative policy optimisation."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, model_validator

from rollout.config import ByDifficulty, PromptOrder, Shuffled
from rollout.engine import Precision
from stages.answering import SamplingStageConfig
from stages.base import Config
from stages.data.rows import Row
from stages.training import NOT_SERVED, LoraParams, TrainingStageConfig


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


LossConfig = Annotated[
    ClippedRatio | SequenceRatio | ClippedWeight | SoftGate | AdvantageRegression | PolicyGradient,
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


CorrectionConfig = Annotated[TruncatedWeights | MaskedWeights, Discriminator("type")]


class KLConfig(Config):
    """Penalty for leaving the reference, by token, with d = log p_ref - log p (Schulman 2020)."""

    coef: float = Field(default=0.0, ge=0)
    """0 keeps no reference in memory."""
    estimate: Literal["k1", "k2", "k3"] = "k3"
    """-d, d^2 / 2, or exp(d) - d - 1. As a loss, k2 has the gradient of the KL, and k1 none on average."""
    where: Literal["loss", "reward"] = "loss"
    """A term of the loss by token; or summed over each answer's tokens and taken from its reward."""


def steps_of_solution(solution: Any, separator: str) -> list[str]:
    """Return the steps of a text, or of messages that end with it, each with what follows it; else none."""
    if isinstance(solution, list) and solution and isinstance(solution[-1], Mapping):
        solution = solution[-1].get("content")
    if not isinstance(solution, str) or not solution:
        return []
    parts = solution.split(separator)
    return [part + separator for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


class HintConfig(Config):
    """Answers begin with steps of a worked solution, fewer and fewer, which are learned by likelihood: UFT, Liu et al.
    2025, arXiv 2505.16984."""

    column: str = "completion"
    """Column with the solution, a text or messages that end with it."""
    separator: str = Field(default="\n", min_length=1)
    """What stands between two steps of a solution."""
    num_steps: int = Field(ge=1)
    """Optimizer steps until there are no hints any more."""
    most: float = Field(default=0.95, ge=0, le=1)
    """Chance of a step to be given at first."""
    least: float = Field(default=0.05, ge=0, le=1)
    """The same shortly before the end; it falls along half a cosine."""
    coef: float = Field(default=1e-3, ge=0)
    """Weight of the hints' negative log-likelihood, in nats a prompt."""


class GRPOStage(SamplingStageConfig, TrainingStageConfig):
    """Sample groups from the current policy, score them, and learn from the differences inside each group."""

    kind: Literal["grpo"]
    num_steps: int = Field(ge=1)
    """Optimizer steps."""
    prompts_per_step: int = Field(default=32, ge=1)
    group_size: int = Field(default=8, ge=2)
    """Completions a prompt."""
    micro_batch_tokens: int = Field(default=8192, ge=1)
    """Tokens forwarded at once, padding included; more where one answer is longer."""
    num_learners: int = Field(default=1, ge=1)
    """Processes, each with a GPU where there are any, that hold weights and optimizer together and share the work."""
    prompt_order: PromptOrder = Field(default_factory=Shuffled)
    """Which prompts come next."""
    max_staleness: int = Field(default=0, ge=0)
    """How many versions behind a group's oldest token may be when it is learned from. 0: every step waits for answers
    of the version that it improves. 1: the next step's answers are sampled while this one learns; and so on."""
    stale_groups: Literal["drop", "keep"] = "drop"
    """What is done with groups that are older all the same, such as after a resume with a lower limit."""
    replace_up_to: int = Field(default=0, ge=0)
    """Prompts that a step may take in place of such whose groups have no signal (DAPO's dynamic sampling)."""
    max_empty_batches: int = Field(default=8, ge=0)
    """How many batches in a row may hold no group with signal before the run stops."""
    advantage: AdvantageConfig = Field(default_factory=GroupNormalized)
    loss: LossConfig = Field(default_factory=ClippedRatio)
    correction: CorrectionConfig | None = None
    """Weights for tokens that an older or slightly different policy sampled; the loss's ratio is then to the policy
    before the update. None: the ratio is to the engine that sampled."""
    kl: KLConfig = Field(default_factory=KLConfig)
    entropy_coef: float = Field(default=0.0, ge=0)
    """Bonus on the entropy of the policy at each token, in nats."""
    hint: HintConfig | None = None
    """The beginnings of answers that are given, and learned; none: the policy begins them itself."""
    mask_truncated: bool = False
    """Whether answers that were cut off teach nothing; their rewards still count in the group."""

    of_the_machine: ClassVar[frozenset[str]] = TrainingStageConfig.of_the_machine | {
        "max_empty_batches",
        "micro_batch_tokens",
        "num_learners",
    }

    @model_validator(mode="after")
    def _samples(self) -> Self:
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature 0 makes all answers of a group equal; GRPO learns from differences")
        return self

    @model_validator(mode="after")
    def _hints_at_one_turn(self) -> Self:
        if self.hint is not None and self.environment is not None:
            raise ValueError("hint: hints are for answers of one turn; leave out environment, or hint")
        return self

    @model_validator(mode="after")
    def _corrects_what_is_stale(self) -> Self:
        if self.max_staleness and self.loss.type == "policy_gradient" and self.correction is None:
            raise ValueError(
                "loss: policy_gradient is for answers of the policy itself; with max_staleness above 0 set a "
                "correction, or take a loss with a ratio"
            )
        return self

    @model_validator(mode="after")
    def _knows_the_reward_that_says_what_is_hard(self) -> Self:
        labels = [reward.label for reward in self.rewards]
        if isinstance(self.prompt_order, ByDifficulty) and self.prompt_order.reward not in labels:
            raise ValueError(f"prompt_order: there is no reward {self.prompt_order.reward!r}; there are {labels}")
        return self

    @model_validator(mode="after")
    def _keeps_the_scale_of_a_penalty(self) -> Self:
        if self.kl.coef > 0 and self.kl.where == "reward" and self.advantage.type == "group_normalized":
            raise ValueError(
                "kl.where: reward needs an advantage that keeps the scale of rewards; divided by the deviation of its "
                "group, a penalty would weigh the same whatever its coef. Take mean_only or leave_one_out"
            )
        return self

    @model_validator(mode="after")
    def _normalizes_once(self) -> Self:
        if self.combine.type == "normalized_sum" and self.advantage.type == "group_normalized":
            raise ValueError(
                "combine: normalized_sum normalises rewards within each group already; say "
                "advantage: {type: batch_normalized}"
            )
        return self

    @model_validator(mode="after")
    def _ratios_are_without_dropout(self) -> Self:
        if isinstance(self.params, LoraParams) and self.params.dropout > 0:
            raise ValueError(
                "params.dropout must be 0 in a grpo stage: the ratio of two passes would show it as a change of the "
                "policy"
            )
        return self

    @model_validator(mode="after")
    def _engines_can_serve_the_adapter(self) -> Self:
        wrong = [name for name in NOT_SERVED if isinstance(self.params, LoraParams) and self.params.extra.get(name)]
        if wrong:
            raise ValueError(
                f"params.extra.{wrong[0]} changes more than engines are sent; leave it out of a grpo stage"
            )
        return self

    def columns(self) -> list[str]:
        """That of the solutions, too."""
        return [*super().columns(), *([self.hint.column] if self.hint is not None else [])]

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Raise ValueError for a row that hints could not be taken from."""
        hint = self.hint
        if hint is None:
            return
        for at, row in enumerate(rows, start=1):
            solution = row.get(hint.column)
            if not steps_of_solution(solution, hint.separator):
                raise ValueError(f"hint: row {at} has no worked solution in column {hint.column!r}: {solution!r:.80}")

    def learner_processes(self) -> int:
        """As the config says."""
        return self.num_learners

    def largest_group(self) -> int:
        """As many as are sampled."""
        return self.group_size

    def bytes_per_parameter(self, precision: Precision) -> float:
        """A reference of its own comes on top; under an adapter the policy without it is the reference."""
        has_reference = self.kl.coef > 0 and self.params.type == "full"
        return super().bytes_per_parameter(precision) + (4 if has_reference else 0)
