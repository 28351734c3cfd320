"""What every training stage may say of its optimisation. Imports nothing heavy."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from rollout.engine import Precision
from stages.adapter_config import FullParams, LoraParams
from stages.base import Config, StageConfig

SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
"""Our names of learning rate schedules -> transformers'."""


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

    adapts: ClassVar[Literal["CAUSAL_LM", "SEQ_CLS"]] = "CAUSAL_LM"
    """PEFT's name for what an adapter is put on."""
    adapts_head: ClassVar[bool] = True
    """Whether an adapter on the output layer would train."""

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

    adapts_head: ClassVar[bool] = False  # TRL's losses multiply by the layer's own weight
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
