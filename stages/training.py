"""What every training stage may say of its optimisation. Imports nothing heavy."""

from typing import ClassVar, Literal, Self

from pydantic import Field, JsonValue, model_validator

from rollout.engine import Precision
from stages.base import Config, StageConfig

SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
"""Our names of learning rate schedules -> transformers'."""


class FullParams(Config):
    """Every parameter trains."""

    type: Literal["full"] = "full"


class LoraParams(Config):
    """A low-rank adapter trains, by PEFT; the finished artifact has it merged, and keeps it beside."""

    type: Literal["lora"] = "lora"
    r: int = Field(default=16, ge=1)
    """Rank."""
    alpha: float = 32.0
    """The adapter's effect is scaled by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: list[str] | str = "all-linear"
    """Module names, or `all-linear`."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """Any further field of PEFT's LoraConfig."""


NOT_SERVED = ("use_dora", "lora_bias", "modules_to_save", "target_parameters", "trainable_token_indices")
"""Fields of LoraConfig whose effect is not in the adapter's two matrices, so that engines would not get it."""


def require_servable(params: FullParams | LoraParams) -> None:
    """Raise ValueError where engines cannot be sent all that an adapter changes."""
    wrong = [name for name in NOT_SERVED if isinstance(params, LoraParams) and params.extra.get(name)]
    if wrong:
        raise ValueError(f"params.extra.{wrong[0]} changes more than engines are sent; leave it out of this stage")


def require_no_dropout(params: FullParams | LoraParams) -> None:
    """Raise ValueError where an adapter drops out: a comparison of two passes would show it as a change."""
    if isinstance(params, LoraParams) and params.dropout > 0:
        raise ValueError(
            f"params.dropout is {params.dropout:g}, and must be 0 in a stage that compares two passes over the same "
            "tokens: it would show as a change of the policy"
        )


class CheckpointConfig(Config):
    """When a training stage saves what it needs to go on."""

    every_steps: int = Field(default=50, ge=0)
    """0: only at the end."""
    keep: int = Field(default=2, ge=1)
    """How many of the newest are kept; a second one is there for when the disk has damaged the first."""


class TrainingStageConfig(StageConfig):
    """Base of the stages that take optimizer steps."""

    init_from: str | None = Field(default=None, min_length=1)
    """Stage whose model this one starts from; none: the run's base model."""
    params: FullParams | LoraParams = Field(default_factory=FullParams, discriminator="type")
    """Which parameters train."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak, reached after the warm-up."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate goes on after the warm-up; the latter two end at 0."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)

    def bytes_per_parameter(self, precision: Precision) -> float:
        """Gradients and AdamW's two moments come on top, of what trains."""
        return super().bytes_per_parameter(precision) + 12 * (0.02 if self.params.type == "lora" else 1.0)

    def inputs(self) -> dict[str, str]:
        """The policy, where another stage made it."""
        return {"policy": self.init_from} if self.init_from else {}


class SupervisedConfig(TrainingStageConfig):
    """Base of the stages that learn from a fixed data set through one of TRL's trainers."""

    batch_size: int = Field(default=32, ge=1)
    """Examples an optimizer step."""
    micro_batch_size: int = Field(default=8, ge=1)
    """Examples forwarded at once; must divide `batch_size`."""
    num_epochs: float | None = Field(default=None, gt=0)
    """Passes over the data. Give this or `num_steps`."""
    num_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps. Give this or `num_epochs`."""
    max_tokens: int = Field(default=1024, ge=8)
    """Longest example, prompt and answer together; what is beyond is cut."""

    leaves_out_too_long: ClassVar[bool] = False
    """Whether longer examples are left out instead."""

    @model_validator(mode="after")
    def _length_is_given_once(self) -> Self:
        if (self.num_epochs is None) == (self.num_steps is None):
            given = "neither is" if self.num_steps is None else "both are"
            raise ValueError(f"{given} given of num_steps and num_epochs; one of them says how long to train")
        return self

    @model_validator(mode="after")
    def _warms_up_before_the_end(self) -> Self:
        if self.num_steps is not None and self.warmup_steps >= self.num_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} leaves nothing of num_steps {self.num_steps}")
        return self

    @model_validator(mode="after")
    def _micro_batches_divide(self) -> Self:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}; "
                "gradient accumulation needs whole micro-batches"
            )
        return self
