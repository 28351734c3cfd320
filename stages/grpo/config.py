"""What a recipe may say about group-relative policy optimisation."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rollout.config import ByDifficulty, PromptOrder, Shuffled
from rollout.engine import Precision
from stages.adapter_config import (
    require_fixed_data,
    require_no_dropout,
    require_servable,
    require_start_of_reference,
    require_still_base,
)
from stages.answering import SamplingStageConfig
from stages.base import Config
from stages.data.rows import Row
from stages.grpo.loss_config import (
    AdvantageConfig,
    ClippedRatio,
    CorrectionConfig,
    GroupNormalized,
    KLConfig,
    LossConfig,
    OnlinePreference,
)
from stages.training import TrainingStageConfig


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
    def _learns_pairs_alone(self) -> Self:
        if isinstance(self.loss, OnlinePreference):
            clashes = {
                "advantage": self.advantage != GroupNormalized(),
                "correction": self.correction is not None,
                "kl": self.kl.coef > 0,
                "hint": self.hint is not None,
                "mask_truncated": self.mask_truncated,
                "combine": self.combine.type == "gradient_guided",
            }
            wrong = [name for name, is_set in clashes.items() if is_set]
            if wrong:
                raise ValueError(
                    f"{wrong[0]}: loss online_preference learns from pairs, with a reference of its own; leave it out"
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
    def _adapter_can_be_compared_and_served(self) -> Self:
        require_no_dropout(self.params)
        require_servable(self.params)
        require_fixed_data(self.params)
        if self.has_reference:
            require_start_of_reference(self.params)
            require_still_base(self.params)
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

    @property
    def samples_while_learning(self) -> bool:
        """From one step of staleness on."""
        return self.max_staleness > 0

    def learner_processes(self) -> int:
        """As the config says."""
        return self.num_learners

    @property
    def has_reference(self) -> bool:
        """Whether the loss looks at where the stage started."""
        return self.kl.coef > 0 or (isinstance(self.loss, OnlinePreference) and self.loss.of.has_reference)

    def largest_group(self) -> int:
        """As many as are sampled."""
        return self.group_size

    def bytes_per_parameter(self, precision: Precision) -> float:
        """A reference of its own comes on top; under an adapter the policy without it is the reference."""
        has_reference = self.has_reference and self.params.type == "full"
        return super().bytes_per_parameter(precision) + (4 if has_reference else 0)
