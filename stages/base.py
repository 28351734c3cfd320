"""What every stage is given and gives back: facts of the run, its own config and context, and a result.

Imports nothing heavy; `pipeline` builds these and a stage's ``run(config, context)`` reads them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from rewards.hub import HubName
from rewards.paths import Place
from rollout.config import EngineConfig, VLLMEngineConfig
from rollout.engine import Precision
from rollout.engine_logs import warnings_in as warnings_in  # for those who look at runs
from rollout.types import NodeLostError as NodeLostError  # for those who run stages
from stages.data.config import DataConfig
from stages.data.rows import Row
from stages.metrics import MetricsFile

DataUse = Literal["learning", "selection", "exam"]
Problem = str
"""What is wrong, the rule, and the way out; a warning begins with `note:`."""


class StageError(RuntimeError):
    """A stage cannot start or go on: what is wrong, the rule, and the way out."""


class Config(BaseModel):
    """Base of every config object: frozen, unknown keys refused, a string under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class RunFacts(Config):
    """What holds for the whole run and is written once, at the top of the recipe."""

    model: Place
    """Base model: a Hugging Face id or a folder."""
    model_revision: str | None = Field(default=None, min_length=1)
    """Branch, tag or commit of a model on the Hub; none: its branch `main`. A run keeps the commit that it was when the
    run began."""
    seed: int = 0
    """Everything random in the run follows from it."""
    precision: Precision = "float32"
    """One setting for learner, reference and engine."""
    engine: EngineConfig = Field(default_factory=VLLMEngineConfig)
    """Who generates: `{type: vllm}` or `{type: transformers}`."""
    trust_remote_code: bool = False
    """Whether code in the base model's folder may run. Of a model on the Hub `model_revision` must be a commit then."""

    def hub_name(self) -> HubName:
        """The base model."""
        return HubName(kind="model", id=self.model, revision=self.model_revision, runs_code=self.trust_remote_code)

    def identity(self, *, generates: bool) -> dict[str, Any]:
        """Return what of these facts decides what comes of a stage that starts engines, or of one that does not."""
        engine = self.engine.identity() if generates else None
        return {"model": self.model, "seed": self.seed, "precision": self.precision, "engine": engine}


class StageConfig(Config):
    """Base of every stage's config. The graph of a run is what its stages say here that they read."""

    produces: ClassVar[str] = "model"
    """What the stage hands over: `model`, `pairs`, `reward_model`, `exam` or `report`."""
    generates: ClassVar[bool] = False
    """Whether the stage starts engines."""
    data_are_for: ClassVar[DataUse] = "learning"
    """Questions may be of one use only: those that select are not learned from, and those of an exam do neither."""
    needs_columns: ClassVar[tuple[str, ...]] = ()
    """Columns that each row must have whatever the config says."""
    of_the_machine: ClassVar[frozenset[str]] = frozenset({"checkpoint", "scoring", "sync", "micro_batch_size"})
    """Keys that change how the work is done and not what comes of it; no change of theirs re-runs a stage."""

    def inputs(self) -> dict[str, str]:
        """Earlier stages that this one reads, by role (`policy`, `pairs`, ...)."""
        return {}

    def datasets(self) -> dict[str, DataConfig]:
        """Data sets from outside the run that this stage reads, by role."""
        return {}

    def parts(self) -> dict[str, "StageConfig"]:
        """What of this stage is a stage's config itself, by key: it is checked as one, and runs within this one."""
        return {}

    def whole(self) -> list["StageConfig"]:
        """This config and its parts."""
        return [self, *self.parts().values()]

    @property
    def samples_while_learning(self) -> bool:
        """Whether engines work while the learner does."""
        return False

    @property
    def makes_artifact(self) -> bool:
        """Whether it hands over files with a manifest; exams and reports are figures alone."""
        return self.produces not in ("exam", "report")

    def learner_processes(self) -> int:
        """How many processes hold the learner together."""
        return 1

    def input_kind(self, role: str) -> str:
        """What the stage in this role must hand over."""
        return "model"

    def columns(self) -> list[str]:
        """Columns that each row of its data sets must have."""
        return list(self.needs_columns)

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Raise ValueError where rows make no sense under this config."""

    def check_inputs(self, sources: Mapping[str, "StageConfig"]) -> None:
        """Raise ValueError where what the stages in these roles would hand over makes no sense under this config."""

    def bytes_per_parameter(self, precision: Precision) -> float:
        """Memory for weights, gradients and optimizer by parameter of the model; activations and caches left out."""
        return 4.0  # the policy, in float32 whatever the precision

    def identity(self) -> dict[str, Any]:
        """Return what of the config decides what comes of the stage."""
        return self.model_dump(mode="json", exclude=set(self.of_the_machine))


def with_parts(stages: Mapping[str, StageConfig]) -> dict[str, StageConfig]:
    """Return the stages, and what of them is a stage's config itself under `stage.key`."""
    parts = {f"{name}.{key}": part for name, stage in stages.items() for key, part in stage.parts().items()}
    return {**stages, **parts}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """Which of a stage's learner processes one is."""

    index: int
    """The first, 0, runs the stage; the others help its learner."""
    num: int


ALONE = Rank(index=0, num=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """All that a stage may know besides its own config."""

    name: str
    """The stage's name in the recipe."""
    folder: Path
    """The stage's own folder; `checkpoints/`, `rollouts/` and `output/` go below it."""
    inputs: Mapping[str, Path]
    """Output folder of each input stage, by role."""
    facts: RunFacts
    fingerprint: str
    """Identity of this stage's config, data and inputs."""
    seed: int
    """The stage's own, derived from the run's and its name."""
    metrics: MetricsFile
    rank: Rank = ALONE

    @property
    def checkpoints(self) -> Path:
        """Where the stage keeps what it needs to go on after a kill."""
        return self.folder / "checkpoints"

    @property
    def cache(self) -> Path:
        """Where other runs next to this one keep what they may take from each other."""
        return self.folder.parent.parent / ".cache"

    @property
    def rollouts(self) -> Path:
        """Where every scored group is kept, as Parquet."""
        return self.folder / "rollouts"

    @property
    def output(self) -> Path:
        """Where the finished artifact goes, whole or not at all."""
        return self.folder / "output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float
    num: int
    """How many problems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """What a finished stage says of itself; becomes `result.json`."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """Last or summary values, by metric name."""
    exams: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    """Of an exam: estimates by stage name and quantity (`dev/accuracy`)."""
    gains: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    """Of an exam: paired differences by `earlier->later` and quantity."""
