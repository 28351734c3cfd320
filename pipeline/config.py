"""A recipe becomes one frozen RunConfig, or one readable error. Imports nothing heavy."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from pipeline.secrecy import secrets_in
from stages.base import RunFacts
from stages.config import AnyStage
from stages.yaml_tree import TreeError, read_tree, require_plain, shown, yaml_tree


class ConfigError(ValueError):
    """The recipe is wrong: what, the rule, and the way out."""


TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class RunConfig(RunFacts):
    """One run: facts that hold throughout, and its stages by name."""

    name: str = Field(max_length=100)
    """The run's folder is `runs/<name>`."""
    stages: dict[str, AnyStage] = Field(min_length=1)
    """In the order in which they are to run, as far as the graph leaves a choice."""
    ray_address: str | None = None
    """A cluster to join, such as `auto` or `10.0.0.1:6379`; none: Ray starts here. `RAY_ADDRESS` overrides it. What a
    cluster must have is in `docs/cluster.md`."""
    tracking: list[TrackerName] = Field(default_factory=list)
    """Who gets the metrics, besides `metrics.jsonl`: `tensorboard`, `wandb`, `mlflow`, `trackio`; a word or several.
    Logins, servers and projects come from the trackers' own environment variables (`WANDB_PROJECT`,
    `MLFLOW_TRACKING_URI`, ...); without, all goes to the project `strop`, below `runs/<name>/tracking`."""
    max_restarts: int = Field(default=2, ge=0)
    """How often a stage of which a process died, or that gave no sign of life, goes on from its last checkpoint by
    itself."""
    stall_timeout_s: float = Field(default=1800.0, gt=0)
    """How long a stage may give no sign of life before it is stopped."""
    reserve_timeout_s: float = Field(default=300.0, gt=0)
    """How long a stage may wait for its processors and GPUs: on a cluster others may hold them, or nodes may yet
    join."""

    @field_validator("tracking", mode="before")
    @classmethod
    def _one_is_a_list(cls, tracking: Any) -> Any:
        return [tracking] if isinstance(tracking, str) else tracking

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise ValueError("it names the run's folder: letters, digits, '.', '-' and '_', no spaces")
        return name

    @field_validator("stages")
    @classmethod
    def _names_are_folder_names(cls, stages: dict[str, AnyStage]) -> dict[str, AnyStage]:
        for name in stages:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name) or name == "base":
                raise ValueError(
                    f"stage name {name!r} will not do: up to 64 letters, digits, '-' and '_' name its folder, and "
                    "'base' stands for the base model"
                )
        return stages

    @model_validator(mode="after")
    def _ranks_do_not_scale(self) -> Self:
        several = [name for name, stage in self.stages.items() if stage.learner_processes() > 1]
        if several and self.precision == "float16":
            raise ValueError(
                f"precision float16 scales its loss, which the several learners of stage {several[0]!r} do not do "
                "together; take bfloat16"
            )
        return self

    @property
    def facts(self) -> RunFacts:
        """What stages may know of the run."""
        return RunFacts.model_validate({name: getattr(self, name) for name in RunFacts.model_fields})


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe, apply ``a.b.c=value`` overrides in order, validate. Raises ConfigError."""
    tree = _read(path)
    for override in overrides:
        _apply(tree, override)
    try:
        require_plain(tree)
    except TreeError as error:
        raise ConfigError(f"{path} with what --set says: {error}") from error
    if secrets := sorted(set(secrets_in(tree, path.read_text(encoding="utf-8", errors="replace")))):
        raise ConfigError(
            f"{path}: {', '.join(secrets)} looks like a secret, and a recipe is kept with its run, shown in the report "
            "and given to trackers; leave it in the environment, and have your code, or api_key_variable, name the "
            "variable"
        )
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in _explain(error, tree))) from error


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ConfigError(f"recipe {path} does not exist; shipped ones lie in configs/")
    try:
        tree = read_tree(path)
    except TreeError as error:
        raise ConfigError(f"recipe {path} cannot be read, {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}; a recipe is a mapping of keys such as name, stages")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {shown(override)} has no '='; write it as --set stages.dpo.loss.beta=0.05")
    where, (*parents, leaf) = f"--set {'.'.join(map(_key_shown, path.split('.')[:8]))}", path.split(".")
    stages = tree.get("stages")
    if parents[:1] == ["stages"] and len(parents) > 1 and isinstance(stages, dict) and parents[1] not in stages:
        raise ConfigError(f"{where}: there is no stage {parents[1]!r}{_nearest(parents[1], list(stages))}")
    if not all((*parents, leaf)):
        raise ConfigError(
            f"--set {shown(override)} has an empty name in its path; write it as --set stages.sft.num_steps=9"
        )
    node = tree
    for key in parents:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(
                f"{where}: {_key_shown(key)} holds {shown(node)}, which has no keys below; set the whole value instead"
            )
    try:
        node[leaf] = yaml_tree(value)
    except TreeError as error:
        raise ConfigError(f"{where}: {shown(value)} is not YAML that a recipe may hold: {error}") from error


MOST_TOLD = 20
"""Things that are said to be wrong with a recipe, at most."""


def _explain(error: ValidationError, tree: Mapping[str, Any]) -> Iterator[str]:
    yield from islice(_explained(error, tree), MOST_TOLD)
    if error.error_count() > MOST_TOLD:
        yield f"{error.error_count() - MOST_TOLD} more things are wrong with it"


def _explained(error: ValidationError, tree: Mapping[str, Any]) -> Iterator[str]:
    for problem in error.errors():
        keys, node = _resolve(problem["loc"], tree)
        where = ".".join(map(_key_shown, keys)) or "the recipe"
        if problem["type"] == "extra_forbidden":
            yield f"{where} is not a known key{_nearest(str(keys[-1]), _fields_beside(keys, tree))}"
        elif problem["type"] == "missing":
            yield f"{where} is missing; it has no default"
        elif problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
            yield _explain_tag(where, problem, node)
        else:
            given = f" (given: {shown(node, 80)})" if not isinstance(node, Mapping) else ""
            yield f"{where}: {problem['msg'].removeprefix('Value error, ')}{given}"


def _key_shown(key: int | str) -> str:
    """Return a key for a message, in quotes where it holds more than words do."""
    return str(key) if re.fullmatch(r"[\w-]{1,60}", str(key)) else shown(str(key))


def _resolve(location: Sequence[int | str], tree: Any) -> tuple[list[int | str], Any]:
    """Drop the union tags that pydantic mixes into a location: keep what leads through the given tree."""
    keys: list[int | str] = []
    node = tree
    for position, part in enumerate(location):
        inside = isinstance(node, Mapping) and part in node
        indexed = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if inside or indexed:
            node = node[part]
            keys.append(part)
        elif position == len(location) - 1 and not _is_tag(part, node):
            keys.append(part)
    return keys, node


def _is_tag(part: int | str, node: Any) -> bool:
    """Say whether a part of a location is pydantic's own: a variant of a union, or a validator such as `list[int]`."""
    is_variant = isinstance(node, Mapping) and part in (node.get("kind"), node.get("type"))
    return is_variant or (isinstance(part, str) and ("[" in part or "(" in part))


def _explain_tag(where: str, problem: Any, node: Any) -> str:
    context = problem.get("ctx", {})
    key = str(context.get("discriminator", "'type'")).strip("'")
    valid = str(context.get("expected_tags", "")).replace("'", "").split(", ")
    tag = str(context.get("tag", ""))
    if problem["type"] == "union_tag_not_found":
        return f"{where} has no {key if key in ('kind', 'type') else 'type'}; it says which variant is meant"
    return f"{where}: {shown(tag)} is not one of {', '.join(valid)}{_nearest(tag, valid)}"


ELSEWHERE_CALLED = {
    "dpo": "preference", "odpo": "preference", "kto": "preference", "ppo": "grpo", "rl": "grpo", "eval": "evaluate",
    "exam": "evaluate", "num_generations": "group_size", "lr": "learning_rate", "max_steps": "num_steps",
    "num_train_epochs": "num_epochs", "epochs": "num_epochs", "max_length": "max_tokens",
    "max_seq_length": "max_tokens", "max_completion_length": "max_tokens", "lora": "params", "peft": "params",
    "epsilon": "clip_low",
}  # fmt: skip
"""Other systems' words -> ours, as far as spelling does not tell."""


def _nearest(name: str, valid: Sequence[str]) -> str:
    if ELSEWHERE_CALLED.get(name) in valid:
        return f". Did you mean {ELSEWHERE_CALLED[name]!r}?"
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if close:
        return f". Did you mean {close[0]!r}?"
    return f"; known here: {', '.join(sorted(valid))}" if valid else ""


def _fields_beside(keys: Sequence[int | str], tree: Any) -> list[str]:
    """Return the valid names where an unknown one stands: those of the variant that the recipe names there."""
    models: list[type[BaseModel]] = [RunConfig]
    node = tree
    for key in keys[:-1]:
        below = [m.model_fields[str(key)].annotation for m in models if str(key) in m.model_fields]
        models = [model for annotation in below for model in _models_in(annotation)] or models
        node = node[key]
        models = [model for model in models if _is_meant(model, node)] or models
    names = {name for model in models for name in model.model_fields}
    return sorted(names - {str(keys[-1])})


def _is_meant(model: type[BaseModel], node: Any) -> bool:
    """Say whether a node's `kind` or `type`, where it gives one, is this model's."""
    for tag in ("kind", "type"):
        if tag in model.model_fields and isinstance(node, Mapping) and tag in node:
            return node[tag] in get_args(model.model_fields[tag].annotation)
    return True


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
