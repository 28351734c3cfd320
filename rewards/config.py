"""What a recipe may say about rewards. Imports nothing heavy."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, JsonValue, Tag, field_validator


class RewardConfigBase(BaseModel):
    """What every reward has."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    weight: float = 1.0
    """Factor of this reward in the sum."""
    name: str | None = None
    """Name in metrics and score parts; by default the type, or the function's own name."""
    gold_value: float | None = 1.0
    """What a gold answer must score at least, before the weight; null leaves this reward out of the check."""

    @property
    def label(self) -> str:
        """The name under which this reward's values appear."""
        return self.name or str(getattr(self, "type"))  # noqa: B009 - each member of the union has it


class MathRewardConfig(RewardConfigBase):
    """1 when the last boxed answer (or the last expression) equals the gold answer, else 0."""

    type: Literal["math"] = "math"
    answer_column: str = "answer"
    """Column that holds the gold answer."""


class FormatRewardConfig(RewardConfigBase):
    """1 when the completion's text matches a pattern, else 0."""

    type: Literal["format"] = "format"
    pattern: str = r"(?s).*\\boxed\{[^{}]+\}\s*\Z"
    r"""Regular expression of Python's that the whole text must match; by default: ends in a box."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"pattern {pattern!r} is no regular expression of Python's: {error}") from error
        return pattern


class FunctionRewardConfig(RewardConfigBase):
    """A function of the user's, in TRL's signature: f(prompts, completions, **columns) -> list of floats."""

    type: Literal["function"] = "function"
    import_path: str
    """`module:function`, importable from the folder in which the run was started."""
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """Further keyword arguments, passed at every call."""

    @field_validator("import_path")
    @classmethod
    def _names_a_function(cls, import_path: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", import_path):
            raise ValueError("an import path is 'module:function', such as my_rewards:cites_a_source")
        return import_path

    @property
    def label(self) -> str:
        """The given name, or the function's."""
        return self.name or self.import_path.split(":")[1]


def _reward_type(value: Any) -> str | None:
    """The union's tag; a bare `import_path` means a function."""
    if isinstance(value, dict):
        return value.get("type", "function" if "import_path" in value else None)
    return getattr(value, "type", None)


def _in_short(value: Any) -> Any:
    """Take `math` for ``{type: math}``, and `module:function` for ``{import_path: module:function}``."""
    if isinstance(value, str):
        return {"import_path": value} if ":" in value else {"type": value}
    return value


RewardConfig = Annotated[
    Annotated[MathRewardConfig, Tag("math")]
    | Annotated[FormatRewardConfig, Tag("format")]
    | Annotated[FunctionRewardConfig, Tag("function")],
    Discriminator(_reward_type),
    BeforeValidator(_in_short),
]


def columns_needed(rewards: Sequence[RewardConfig]) -> list[str]:
    """Return the columns that these rewards cannot do without, as far as their configs say."""
    return [reward.answer_column for reward in rewards if isinstance(reward, MathRewardConfig)]


class ScoringConfig(BaseModel):
    """How rewards are run: processes, deadlines, and how much failure a run bears."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    num_workers: int = Field(default=1, ge=1)
    """Worker processes; each imports the rewards once."""
    deadline_s: float = Field(default=20.0, gt=0)
    """Seconds that one group may take before its worker is killed and replaced."""
    start_timeout_s: float = Field(default=120.0, gt=0)
    """Seconds that a worker may take to start and import the rewards."""
    max_memory_gb: float | None = Field(default=4.0, gt=0)
    """Most private memory of a worker, and of each process that a reward starts; none: no limit."""
    max_cpu_s: float | None = Field(default=60.0, gt=0)
    """Seconds of processor time, over all its threads, that one group may take; none: no limit."""
    max_retries: int = Field(default=1, ge=0)
    """How often a group is tried again when its worker was killed from outside."""
    max_unscorable_fraction: float = Field(default=0.2, ge=0, le=1)
    """Share of unscorable attempts, over the last `window_attempts`, past which the run stops."""
    window_attempts: int = Field(default=512, ge=1)
    """Length of that window, in attempts."""

    @property
    def longest_wait_s(self) -> float:
        """Seconds after which a group that a worker took up has its scores, whatever the rewards do."""
        return (self.max_retries + 1) * (self.start_timeout_s + self.deadline_s)
