"""What a recipe may say about rewards. Imports nothing heavy."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    field_validator,
    model_validator,
)
from typing_extensions import override

from rewards.final_answer import final_answer
from rewards.hub import HubName
from rewards.paths import Place

SandboxKind = Literal["bubblewrap", "container", "none"]
SANDBOX_GRACE_S: dict[SandboxKind, float] = {"bubblewrap": 1.0, "container": 10.0, "none": 1.0}
"""Seconds that a sandbox may take to start and end, besides what runs in it."""
ANALYSIS_GRACE_S = 1.0
"""Seconds that static analysis may take to look at a program."""


class RewardConfigBase(BaseModel):
    """What every reward has."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    weight: float = 1.0
    """Factor of this reward in the sum."""
    name: str | None = None
    """Name in metrics and score parts; by default the type, or the function's own name."""
    gold_value: float | None = 1.0
    """What a gold answer must score at least, before the weight; null leaves this reward out of the check."""
    concurrency: int = Field(default=1, ge=1)
    """How many groups its worker may mark at once; more than 1 gives it a worker of its own, with one event loop."""

    has_own_worker: ClassVar[bool] = False
    """Whether it is run apart from the others: it holds a model, or asks one."""

    @property
    def holds_model(self) -> bool:
        """Whether its worker, or what that starts, holds a model, and is run without limits on memory and processor
        time."""
        return self.own_model is not None

    @property
    def num_trials(self) -> int:
        """How many rows of the data it is tried on before a run; 0 where that takes too long, or would tell nothing."""
        return 8

    @property
    def own_model(self) -> str | None:
        """Folder or Hub id of a model that it loads."""
        return None

    def hub_name(self) -> HubName | None:
        """Return that model with its revision."""
        return None

    @property
    def label(self) -> str:
        """The name under which this reward's values appear."""
        return self.name or str(getattr(self, "type"))  # noqa: B009 - each member of the union has it

    def right_answer(self, gold: Any) -> str:
        """Return what a policy would say that answers a row with this gold answer rightly; of several, the first."""
        return str(gold[0] if isinstance(gold, list) and gold else gold)

    def columns(self) -> list[str]:
        """Columns without which it does not apply to a row, as far as the config says."""
        return []

    def reads(self) -> list[str]:
        """Columns that the config names: those, and what it looks at where a row has it."""
        return self.columns()

    def remarks(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """Yield what is worth knowing of it on such rows, before a run."""
        return iter(())

    def applies_to(self, columns: Mapping[str, Any]) -> bool:
        """Say whether a row has the columns that it needs; null is as good as missing."""
        return all(columns.get(name) is not None for name in self.columns())

    def longest_s(self, num_attempts: int) -> float:
        """Seconds that a group of so many attempts may rightly take, as far as the config bounds it."""
        return 0.0


class _AgainstGold(RewardConfigBase):
    answer_column: str = "answer"
    """Column that holds the gold answer."""

    def columns(self) -> list[str]:
        """The gold answer's."""
        return [self.answer_column]


class MathRewardConfig(_AgainstGold):
    """1 when the final answer equals the gold answer as mathematics, else 0."""

    type: Literal["math"] = "math"

    @override
    def right_answer(self, gold: Any) -> str:
        """All of a list, which is one answer of several parts; of a solution what it ends in."""
        parts = gold if isinstance(gold, list) else final_answer(str(gold)).parts
        return ", ".join(map(str, parts))


class ExactRewardConfig(_AgainstGold):
    """1 when the final answer is the gold answer's text, else 0."""

    type: Literal["exact"] = "exact"
    ignore_case: bool = False


class ChoiceRewardConfig(_AgainstGold):
    """1 when the letter that the final answer picks is the right one, else 0."""

    type: Literal["choice"] = "choice"
    letters: str = Field(default="ABCDEFGHIJ", pattern="^[A-Z]+$")
    """Letters that may be picked."""

    @override
    def right_answer(self, gold: Any) -> str:
        """The letter, also of an index."""
        is_index = isinstance(gold, int) and 0 <= gold < len(self.letters)
        return self.letters[gold] if is_index else str(gold)


class LengthRewardConfig(RewardConfigBase):
    """-1 to 0 near and beyond a limit, or 0 to 1 around a target, by tokens of the completion."""

    type: Literal["length"] = "length"
    limit: int | None = Field(default=None, ge=1)
    """Tokens from which on the mark is -1. Give this or `target`."""
    buffer: int = Field(default=1, ge=1)
    """Tokens before the limit over which the mark falls from 0 to -1."""
    target: int | None = Field(default=None, ge=1)
    """Tokens at which the mark is 1. Give this or `limit`."""
    gold_value: float | None = None
    """Gold answers may be of any length."""

    @model_validator(mode="after")
    def _limit_or_target(self) -> Self:
        if (self.limit is None) == (self.target is None):
            raise ValueError("a length reward has either a limit or a target")
        if self.limit is not None and self.buffer > self.limit:
            raise ValueError(f"buffer {self.buffer} is more than the limit of {self.limit} tokens")
        return self


class RepetitionRewardConfig(RewardConfigBase):
    """0 when no run of words comes twice, down to almost -1."""

    type: Literal["repetition"] = "repetition"
    ngram: int = Field(default=4, ge=1)
    """Words in a run."""
    gold_value: float | None = None
    """Gold answers may repeat themselves."""


class VoteRewardConfig(RewardConfigBase):
    """1 for the group's most frequent final answer, else 0."""

    type: Literal["vote"] = "vote"
    least_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the group below which the most frequent answer decides nothing."""


class ConfidenceRewardConfig(RewardConfigBase):
    """0 to 1: how likely the completion was to the policy that sampled it."""

    type: Literal["confidence"] = "confidence"
    per: Literal["sequence", "token"] = "sequence"
    """The probability of the whole completion, or its geometric mean by token."""
    gold_value: float | None = None
    """Nobody sampled the gold answers."""

    @property
    def num_trials(self) -> int:
        """None, for the same reason."""
        return 0


class FormatRewardConfig(RewardConfigBase):
    """1 when the completion's text ends in a box, or matches a pattern, or has the tags, else 0."""

    type: Literal["format"] = "format"
    tags: list[str] = []
    """Elements that make up the whole text, once each, in this order: `[think, answer]`. Instead of the pattern."""
    pattern: str | None = None
    r"""Regular expression of Python's that the whole text must match; none: it must end in `\boxed{...}`, as in
    `$\boxed{\frac{1}{2}}$.`"""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"pattern {pattern!r} is no regular expression of Python's: {error}") from error
        return pattern


class CodeRewardConfig(RewardConfigBase):
    """0 to 1: how far a Python program comes with its tests, run in a sandbox; less for what static analysis finds."""

    type: Literal["code"] = "code"
    tests_column: str = "tests"
    """Column with the tests: asserts, `{input, output}` of whole programs, or both lists as JSON; with `fn_name` they
    are arguments and results of that function."""
    setup_column: str | None = None
    """Column with Python to execute before the program and its tests, such as imports."""
    entry_point_column: str | None = None
    """Column with the name of the function to hand to a test's own `check(candidate)`, or that `testtype: functional`
    calls."""
    compare: Literal["tokens", "exact"] = "tokens"
    """How outputs are compared: word by word, numbers by value, or to the last character."""
    parses: float = Field(default=0.1, ge=0, le=1)
    """Credit for a program that parses."""
    runs: float = Field(default=0.1, ge=0, le=1)
    """Further credit for one that runs without an error; the rest is for the tests."""
    all_or_nothing: bool = False
    """Whether the tests' credit is for passing all of them, not for the share that is passed."""
    most_tests: int = Field(default=32, ge=1)
    """Tests of a row that are run, from the first on."""
    deduct: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Rule of ruff or its prefix -> price of a finding: `{S: 0.2, F: 0.05}` for bandit's and for pyflakes'."""
    most_deducted: float = Field(default=0.5, ge=0)
    """Most that findings may cost together."""
    sandbox: SandboxKind = "bubblewrap"
    """What the program is jailed by; `container` is Podman or Docker. `none` leaves it the network, your files and your
    processes."""
    sandbox_image: str = Field(default="python:3.11-slim", min_length=1)
    """For `container`: an image with Python from 3.10 on, which must have been pulled."""
    parallel: int = Field(default=2, ge=1)
    """Programs of a group that are tried at once, each with memory, processes and files of its own."""
    seconds: float = Field(default=3.0, gt=0)
    """For all tests of a program; those that are not reached are not passed."""
    seconds_a_test: float = Field(default=2.0, gt=0)
    memory_mb: int = Field(default=512, ge=64)
    """Of a program's processes and files together, and address space of each process; numpy fits, torch needs some
    thousands. With `sandbox: none` the latter alone."""
    processes: int = Field(default=16, ge=2)
    """Of a program, at once; holds in the sandbox only."""
    output_kb: int = Field(default=64, ge=1)
    """Printed in one test."""
    disk_mb: int = Field(default=16, ge=1)
    """Files in memory, of which they are a part."""

    @model_validator(mode="after")
    def _has_room_for_files(self) -> Self:
        if self.disk_mb >= self.memory_mb:
            raise ValueError(f"disk_mb {self.disk_mb} is part of memory_mb {self.memory_mb}, and must be less")
        return self

    @model_validator(mode="after")
    def _leaves_credit_for_tests(self) -> Self:
        if self.parses + self.runs >= 1:
            raise ValueError(f"parses {self.parses:g} and runs {self.runs:g} leave no credit for passing tests")
        return self

    def columns(self) -> list[str]:
        """The tests'."""
        return [self.tests_column]

    def reads(self) -> list[str]:
        """The tests' and those of what goes with them, which not every row needs."""
        return [name for name in (self.tests_column, self.setup_column, self.entry_point_column) if name]

    @override
    def remarks(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """How many of its tests a program could deceive."""
        from rewards.code_tests import remarks  # the forms of tests, which name this class

        return remarks(self, rows)

    def longest_s(self, num_attempts: int) -> float:
        """All programs running for all their time."""
        each_s = self.seconds + SANDBOX_GRACE_S[self.sandbox] + (ANALYSIS_GRACE_S if self.deduct else 0.0)
        return math.ceil(num_attempts / self.parallel) * each_s


class ModelRewardConfig(RewardConfigBase):
    """The logit of a trained reward model, any number."""

    type: Literal["model"] = "model"
    model: Place | None = Field(default=None, min_length=1)
    """A Hugging Face id or a folder, with a sequence-classification head of one label."""
    model_revision: str | None = Field(default=None, min_length=1)
    """Branch, tag or commit of a model on the Hub; none: its branch `main`. A run keeps the commit that it was when the
    run began."""
    stage: str | None = Field(default=None, min_length=1)
    """Or the stage of the same run that makes it."""
    batch_size: int = Field(default=8, ge=1)
    """Conversations forwarded at once."""
    max_tokens: int = Field(default=2048, ge=8)
    """Longest conversation; of a longer one the end is kept."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """`auto`: the stage's first GPU, or the processor where there is none."""
    trust_remote_code: bool = False
    """Whether code in the model's folder may run. Of a model on the Hub `model_revision` must be a commit then."""
    gold_value: float | None = None
    """A logit has no full marks."""

    has_own_worker: ClassVar[bool] = True

    @model_validator(mode="after")
    def _is_one_model(self) -> Self:
        if (self.model is None) == (self.stage is None):
            raise ValueError("a reward of type model says either model, an id or a folder, or stage, one of this run")
        if self.model is None and self.model_revision is not None:
            raise ValueError(
                f"model_revision {self.model_revision!r} is of a model on the Hub, and what stage {self.stage!r} makes "
                "has none; leave it out"
            )
        return self

    @property
    def holds_model(self) -> bool:
        """Also where the model is a stage's that has not run yet."""
        return True

    @property
    def num_trials(self) -> int:
        """Loading it takes as long as the run's own model."""
        return 0

    @property
    def own_model(self) -> str | None:
        """The reward model."""
        return self.model

    @override
    def hub_name(self) -> HubName | None:
        if self.model is None:
            return None
        return HubName(kind="model", id=self.model, revision=self.model_revision, runs_code=self.trust_remote_code)


class PriceConfig(BaseModel):
    """Dollars for a million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    prompt: float = Field(default=0.0, ge=0)
    completion: float = Field(default=0.0, ge=0)


class AskingConfig(RewardConfigBase):
    """What rewards share that ask a language model."""

    model: Place = Field(min_length=1)
    """As the endpoint calls it; or, without one, a Hugging Face id or a folder."""
    model_revision: str | None = Field(default=None, min_length=1)
    """Branch, tag or commit of a model on the Hub that a server of our own serves; none: its branch `main`. A run keeps
    the commit that it was when the run began."""
    base_url: str | None = Field(default=None, pattern="^https?://")
    """OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1; none: a vLLM server that the worker starts."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Variable of the environment that holds the endpoint's key."""
    proxy_variable: str | None = None
    """Variable of the environment that holds the address of a proxy, such as HTTPS_PROXY; none: the endpoint is asked
    without one, whatever the environment says."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest reply."""
    max_model_tokens: int = Field(default=8192, ge=16)
    """Context of a server of our own."""
    temperature: float = Field(default=0.0, ge=0)
    request: dict[str, JsonValue] = {}
    """Further fields of every request, such as top_p or chat_template_kwargs."""
    seconds: float = Field(default=15.0, gt=0)
    """For all requests of a group together, retries included; replies that are not there by then are done without."""
    max_retries: int = Field(default=4, ge=0)
    """Of a request that the endpoint refused or dropped, each after a longer pause."""
    parallel: int = Field(default=32, ge=1)
    """Requests at once."""
    concurrency: int = Field(default=8, ge=1)
    """Groups at once."""
    cache: Place | None = None
    """SQLite file of replies, kept between runs; none: in memory, for as long as the worker lives."""
    price: PriceConfig = Field(default_factory=PriceConfig)
    """For the meter."""

    gpu_memory_utilization: float = Field(default=0.3, gt=0, le=1)
    """Share of the GPU for a server of our own. It runs on the stage's first; give it an endpoint to run elsewhere."""

    has_own_worker: ClassVar[bool] = True

    @field_validator("base_url")
    @classmethod
    def _holds_no_secret(cls, base_url: str | None) -> str | None:
        if base_url is not None and "@" in base_url.split("://")[1].partition("/")[0]:
            raise ValueError("the address holds a name or password; a key is read from api_key_variable")
        return base_url

    @field_validator("request")
    @classmethod
    def _leaves_us_our_fields(cls, request: dict[str, JsonValue]) -> dict[str, JsonValue]:
        ours = {"messages", "model", "n", "stream"} & request.keys()
        if ours:
            raise ValueError(f"{sorted(ours)} are not for a recipe to set: one reply is read, as a whole")
        return request

    @model_validator(mode="after")
    def _endpoint_has_no_revision(self) -> Self:
        if self.base_url is not None and self.model_revision is not None:
            raise ValueError(
                f"model_revision {self.model_revision!r} is of a model that is served here, and {self.base_url} serves "
                "what it likes under a name; leave out model_revision, or base_url"
            )
        return self

    @property
    def num_trials(self) -> int:
        """One with an endpoint, since it costs; none with a server of our own."""
        return 0 if self.base_url is None else 1

    @property
    def own_model(self) -> str | None:
        """What a server of our own serves."""
        return self.model if self.base_url is None else None

    @override
    def hub_name(self) -> HubName | None:
        if self.base_url is not None:
            return None
        return HubName(kind="model", id=self.model, revision=self.model_revision)

    def longest_s(self, num_attempts: int) -> float:
        """All requests running for all their time."""
        return self.seconds + 1


class JudgeRewardConfig(AskingConfig):
    """0 to 1: what a language model thinks of the answer, by a rubric."""

    type: Literal["judge"] = "judge"
    compare: Literal["pointwise", "pairwise"] = "pointwise"
    """Each answer by itself, or against others of its group."""
    rubric: str = "A good answer is right, says what was asked for, and no more than that."
    template: str | None = None
    """Whole text of the request instead of ours, with {answer}, or {first} and {second}; see rewards/judge.py. They are
    put in between tags, with a note on these first, or where {note} is. The verdict is a line of its own."""
    reference_column: str | None = None
    """Column with an answer to compare with, text or messages."""
    lowest: float = 1.0
    """Worst mark, pointwise."""
    highest: float = 10.0
    opponents: int = Field(default=3, ge=1)
    """Others of the group that each answer is compared with, and that are compared with it as well."""
    swap: bool = True
    """Show each pair in both orders, against the judge's liking for one place."""
    gold_value: float | None = None
    """A judge has no full marks."""

    @model_validator(mode="after")
    def _asks_about_the_answer(self) -> Self:
        if not self.lowest < self.highest:
            raise ValueError(f"lowest {self.lowest:g} must lie below highest {self.highest:g}")
        needed = ["{first}", "{second}"] if self.compare == "pairwise" else ["{answer}"]
        missing = [name for name in needed if self.template is not None and name not in self.template]
        if missing:
            raise ValueError(f"a {self.compare} template must hold {' and '.join(missing)}")
        return self

    def columns(self) -> list[str]:
        """The reference's."""
        return [self.reference_column] if self.reference_column else []


class VerifierRewardConfig(AskingConfig):
    """0 to 1: the share of a verifying policy's verdicts that find the answer right."""

    type: Literal["verifier"] = "verifier"
    num_samples: int = Field(default=1, ge=1)
    """Verdicts an answer; more than 1 needs a temperature."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest verification."""
    gold_value: float | None = None
    """A verifier may be wrong."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.num_samples > 1 and self.temperature == 0:
            raise ValueError("at temperature 0 all verdicts are one; set a temperature, or num_samples to 1")
        return self


class FunctionRewardConfig(RewardConfigBase):
    """A function of the user's, in TRL's signature: f(prompts, completions, **columns) -> list of floats."""

    type: Literal["function"] = "function"
    import_path: str
    """`module:function`, importable from the folder in which the run was started."""
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """Further keyword arguments, passed at every call."""
    factory: bool = False
    """Whether what is imported makes the reward, called once with ``kwargs``, as TRL's `get_...` functions do."""

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
    | Annotated[ExactRewardConfig, Tag("exact")]
    | Annotated[ChoiceRewardConfig, Tag("choice")]
    | Annotated[FormatRewardConfig, Tag("format")]
    | Annotated[LengthRewardConfig, Tag("length")]
    | Annotated[RepetitionRewardConfig, Tag("repetition")]
    | Annotated[VoteRewardConfig, Tag("vote")]
    | Annotated[ConfidenceRewardConfig, Tag("confidence")]
    | Annotated[CodeRewardConfig, Tag("code")]
    | Annotated[ModelRewardConfig, Tag("model")]
    | Annotated[JudgeRewardConfig, Tag("judge")]
    | Annotated[VerifierRewardConfig, Tag("verifier")]
    | Annotated[FunctionRewardConfig, Tag("function")],
    Discriminator(_reward_type),
    BeforeValidator(_in_short),
]
