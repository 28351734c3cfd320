"""What a recipe may say about generation. Imports nothing heavy."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, field_validator

from rewards.hub import HubName
from rewards.paths import Place

OTHER_MODELS = ("tokenizer", "hf_config_path", "spec_model", "revision", "code_revision", "tokenizer_revision")
"""Arguments of vLLM's by which it would load something else than the folder of the run's model."""


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class EngineConfigBase(_Config):
    """What every engine has."""

    max_model_tokens: int = Field(default=1024, ge=8)
    """Context of the engine: prompt and completion together, in tokens."""

    def worker_gpus(self) -> list[int]:
        """Return how many GPUs each worker process wants, one entry a worker; none for an engine in process."""
        return []

    def identity(self) -> dict[str, Any]:
        """Return what decides which tokens are sampled; sizes and time limits do not."""
        return self.model_dump(mode="json", include={"type", "max_model_tokens", "extra"})


class VLLMEngineConfig(EngineConfigBase):
    """Workers around vLLM's asynchronous engine, one Ray actor each."""

    type: Literal["vllm"] = "vllm"
    num_engines: int = Field(default=1, ge=1)
    """Rollout workers."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs of one worker."""
    max_num_seqs: int = Field(default=128, ge=1)
    """Sequences that one worker decodes at a time."""
    memory_fraction: float = Field(default=0.4, gt=0, lt=1)
    """Share of a GPU's memory for weights and cache; the learner needs the rest when they share a card."""
    sleep: bool = False
    """Whether a worker gives its GPU's memory up while the learner works, for a card that both share: nothing may be
    sampled meanwhile, so `max_staleness` must be 0. Without a GPU there is nothing to give up."""
    cpu_cache_gib: int = Field(default=1, ge=1)
    """Key-value cache of a worker without a GPU, in GiB."""
    cpu_threads: int = Field(default=1, ge=1)
    """Threads of a worker's model, without a GPU. Small models are slower with more."""
    start_timeout_s: float = Field(default=300.0, gt=0)
    """How long a worker may take to be ready. While another one works in its place; where there is no other, a
    replacement has two minutes."""
    request_timeout_s: float = Field(default=600.0, gt=0)
    """How long a worker may answer nothing, while it has something to answer, before it is killed and replaced."""
    max_restarts: int = Field(default=3, ge=0)
    """How often in a row a worker is replaced without having answered anything."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """Any further argument of vLLM's AsyncEngineArgs."""

    @field_validator("extra")
    @classmethod
    def _loads_what_is_named(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for key in OTHER_MODELS:
            if key in extra:
                raise ValueError(
                    f"extra.{key} makes vLLM load something else than the run's own model, which it is given as the "
                    "folder of one commit; leave it out"
                )
        draft = extra.get("speculative_config")
        if isinstance(draft, dict) and isinstance(draft.get("model"), str):
            revisions = {key: draft.get(key) for key in ("revision", "code_revision")}
            for key, given in revisions.items():
                name = HubName(kind="model", id=str(draft["model"]), revision=None if given is None else str(given))
                if name.is_on_hub and not name.is_pinned:
                    raise ValueError(
                        f"extra.speculative_config.{key} is {given!r}, and must be a commit by its 40 digits: the "
                        f"draft model {name.id} on the Hub may be another one tomorrow"
                    )
        return extra

    def worker_gpus(self) -> list[int]:
        """Return the GPUs of each worker."""
        return [self.tensor_parallel] * self.num_engines


class TransformersEngineConfig(EngineConfigBase):
    """transformers in the stage's own process: exact and slow, for machines without vLLM."""

    type: Literal["transformers"] = "transformers"
    max_batch_tokens: int = Field(default=16384, ge=1)
    """Tokens (prompt and completion) generated together; bounds memory."""


def _engine_type(value: Any) -> str:
    """Return the union's tag; vLLM unless another is named."""
    found = value.get("type", "vllm") if isinstance(value, dict) else getattr(value, "type", "vllm")
    return str(found)


EngineConfig = Annotated[
    Annotated[VLLMEngineConfig, Tag("vllm")] | Annotated[TransformersEngineConfig, Tag("transformers")],
    Discriminator(_engine_type),
]


class SamplingConfig(_Config):
    """How completions are sampled."""

    temperature: float = Field(default=1.0, ge=0)
    """Divides the logits; 0 is greedy."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest completion, in tokens; with an environment all turns together, and what it says."""
    deadline_s: float | None = Field(default=None, gt=0)
    """Seconds after which an engine cuts a prompt's completions where they are; none: it waits for all of them. With an
    environment, seconds a turn."""


class _EnvironmentConfig(_Config):
    max_turns: int = Field(default=8, ge=1)
    """Most turns of the policy in one answer."""

    @property
    def steps_at_once(self) -> int:
        """How many steps a worker may take at the same time."""
        return 1


IMPORT_PATH = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
ImportPath = Annotated[str, Field(pattern=IMPORT_PATH)]
"""`module:name`."""


class ToolsConfig(_EnvironmentConfig):
    """Functions that the policy may call."""

    type: Literal["tools"] = "tools"
    functions: list[ImportPath] = Field(min_length=1)
    """Import paths, `module:function`; annotations and docstrings become what the chat template shows of them."""

    @property
    def label(self) -> str:
        """Name in messages."""
        return "tools"

    def modules(self) -> list[str]:
        """Modules whose code decides what is said."""
        return [path.split(":")[0] for path in self.functions]


class OwnEnvironmentConfig(_EnvironmentConfig):
    """A class of the user's own; `rollout.environment` says what it must have."""

    type: Literal["own"] = "own"
    import_path: ImportPath
    """`module:Class`."""
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """What it is made with."""
    concurrency: int = Field(default=1, ge=1)
    """How many steps a worker may take at once; of use where they are coroutines."""

    @property
    def steps_at_once(self) -> int:
        """As the recipe says."""
        return self.concurrency

    @property
    def label(self) -> str:
        """Name in messages."""
        return self.import_path.split(":")[1]

    def modules(self) -> list[str]:
        """Modules whose code decides what is said."""
        return [self.import_path.split(":")[0]]


def _environment_type(value: Any) -> str:
    """Return the union's tag; functions are tools, an import path is a class."""
    if isinstance(value, dict):
        return str(value.get("type", "tools" if "functions" in value else "own"))
    return str(getattr(value, "type", "own"))


EnvironmentConfig = Annotated[
    Annotated[ToolsConfig, Tag("tools")] | Annotated[OwnEnvironmentConfig, Tag("own")],
    Discriminator(_environment_type),
]


class Shuffled(_Config):
    """Every prompt once an epoch."""

    type: Literal["shuffled"] = "shuffled"


class ByDifficulty(_Config):
    """Prompts that are always or never passed come more rarely in later epochs."""

    type: Literal["by_difficulty"] = "by_difficulty"
    reward: str
    """Name of the reward by which an answer passes."""
    passes: float = 1.0
    """Least value of a passing answer, before its weight."""
    floor: float = Field(default=0.1, gt=0, le=1)
    """Least chance of a prompt to be in an epoch."""
    newest: float = Field(default=0.5, gt=0, le=1)
    """Weight of the newest group in a prompt's running pass rate."""


PromptOrder = Annotated[Shuffled | ByDifficulty, Discriminator("type")]


class WeightSyncConfig(_Config):
    """How weights reach the engines, and how that is verified."""

    num_probes: int = Field(default=4, ge=1)
    """Sequences whose log-probabilities learner and engines compare after each sync."""
    max_drift: float | None = Field(default=None, gt=0)
    """Largest difference on a probe token, in nats, past which the run stops.

    By default what the run's precision allows: 1e-3 in float32, 0.1 in float16, 0.5 in bfloat16.
    """
    timeout_s: float = Field(default=120.0, gt=0)
    """How long one sync may take."""
    transport: Literal["auto", "shared_memory", "cuda_ipc", "broadcast"] = "auto"
    """How weights travel: as files; opened where they are, by an engine on the learner's GPU; or sent, by NCCL between
    GPUs and gloo between CPUs. By default what fits where the engines are."""
    folder: Place | None = Field(default=None, min_length=1)
    """Where `shared_memory` puts its files, made where it is not there; by default shared memory, of which a container
    may have little."""
