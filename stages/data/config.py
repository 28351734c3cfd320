"""What a recipe may say about a data set. Imports nothing heavy."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, field_validator

from rewards.hub import HubName
from rewards.paths import Place


class ColumnConfig(BaseModel):
    """Where one of our columns comes from in a data set with names of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    column: str
    """The data set's name for it; `a.b` is column b inside column a."""
    pattern: str | None = None
    """Regular expression; what its first group matches is kept, and a row that does not match is an error."""
    template: str = "{}"
    """Text around the value, `{}` standing for it."""

    @field_validator("pattern")
    @classmethod
    def _compiles_with_a_group(cls, pattern: str | None) -> str | None:
        try:
            groups = re.compile(pattern).groups if pattern is not None else 1
        except re.error as error:
            raise ValueError(f"pattern {pattern!r} is not a regular expression: {error}") from error
        if groups < 1:
            raise ValueError(f"pattern {pattern!r} has no group; put what is to be kept in parentheses")
        return pattern


def _column_alone(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


class DataSetConfig(BaseModel):
    """A JSONL file or a Hub data set, and how its columns map to ours.

    Ours are `prompt` (messages, or text for one user turn), `completion` (likewise, for the assistant), `tools` and
    whatever rewards read, such as `answer`. The layouts of common sets (`messages`, ShareGPT, Alpaca, HH-RLHF, whole
    conversations as pairs) are taken as they are. In a recipe a bare string stands for ``{path: ...}``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    path: Place = Field(min_length=1)
    """A `.jsonl` file, or the id of a data set on the Hub."""
    name: str | None = None
    """Configuration of a Hub data set."""
    split: str = "train"
    """Split of a Hub data set; a file has none."""
    revision: str | None = Field(default=None, min_length=1)
    """Branch, tag or commit of a Hub data set; none: its branch `main`. A run keeps the commit that it was when the run
    began."""
    columns: dict[str, Annotated[ColumnConfig, BeforeValidator(_column_alone)]] = Field(default_factory=dict)
    """Our column -> theirs, a name or ``{column: ..., pattern: ...}``. Empty: the names are ours already."""
    system: str | None = None
    """System turn of every prompt; one of the row's own is replaced."""
    chat_template_kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """What the chat template is given by name, such as `{enable_thinking: false}`, in training, sampling and length
    counts alike; a row's own column `chat_template_kwargs` comes before it."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many rows."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """What becomes of prompts that leave no room for an answer in the engine's context."""

    @property
    def is_file(self) -> bool:
        """Whether the path names a file rather than a Hub data set."""
        return self.path.endswith((".jsonl", ".json"))

    def hub_name(self) -> HubName:
        """The data set."""
        return HubName(kind="dataset", id=self.path, revision=self.revision)


def _path_alone(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


DataConfig = Annotated[DataSetConfig, BeforeValidator(_path_alone)]
