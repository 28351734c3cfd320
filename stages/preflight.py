"""What can be known to be wrong before anything heavy starts: data, template, lengths, rewards on the gold answer."""

import hashlib
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Self

from rewards.config import FunctionRewardConfig, RewardConfig, columns_needed
from rewards.gold import GoldCheck
from rewards.registry import check_labels
from rewards.types import Attempt
from rollout.engine import Precision
from stages.base import RunFacts, StageConfig, StageError
from stages.chat_format import ChatFormat, ModelFolderError, read_json_object
from stages.data.rows import Row, load_rows
from stages.evaluate.config import EvaluateStage
from stages.grpo.config import GRPOStage
from stages.pairs.config import PairsStage
from stages.preference.config import PreferenceStage
from stages.preference.losses import pair_offsets
from stages.training import SupervisedConfig, TrainingStageConfig

Problem = str
"""What is wrong, the rule, and the way out; a warning begins with `note:`."""

HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
HASHED_BYTES = 1 << 26
"""How much of each file of a base model its identity is taken from; with the sizes, enough to tell models apart."""
GOLD_SAMPLE = 8
"""How many gold answers each reward is tried on."""


def rewards_of(stage: StageConfig) -> list[RewardConfig]:
    """Return the rewards that a stage uses."""
    if isinstance(stage, (PairsStage, GRPOStage)):
        return list(stage.rewards)
    return [stage.reward] if isinstance(stage, EvaluateStage) else []


def check_data(stages: Mapping[str, StageConfig], facts: RunFacts) -> Iterator[Problem]:
    """Check the base model's folder, every data set against what its stage needs, and exams against training data."""
    chat = None
    if Path(facts.model).is_dir():
        try:
            chat = ChatFormat(Path(facts.model))
            yield from _check_model(chat, stages, facts)
        except ModelFolderError as error:
            yield str(error)
            return
    elif HUB_ID.fullmatch(facts.model):
        yield f"note: {facts.model} is not a folder, so its tokenizer and template are checked when the run loads it"
    else:
        yield f"model {facts.model!r} is no folder seen from {Path.cwd()}, nor can it be the id of a model on the Hub"
    loaded: dict[tuple[str, str], list[Row]] = {}
    for name, stage in stages.items():
        try:
            if rewards_of(stage):
                check_labels(rewards_of(stage))
            for role, data in stage.datasets().items():
                if data.is_file:
                    loaded[name, role] = rows = load_rows(data, needed_columns(stage))
                    yield from _check_rows(name, stage, role, rows, facts, chat)
                else:
                    yield _about_hub_data(name, data.path, stages)
        except (ValueError, StageError) as error:
            yield f"stage {name!r}: {error}"
    yield from _check_exams_are_held_out(stages, loaded)


def needed_columns(stage: StageConfig) -> list[str]:
    """Return the columns that a stage's data sets must have: its own, its loss's and its rewards'."""
    if isinstance(stage, PreferenceStage):
        return stage.columns
    return [*stage.needs_columns, *columns_needed(rewards_of(stage))]


class GoldTrial:
    """One reward of one stage, being tried on the stage's gold answers in a process of its own."""

    def __init__(self, name: str, stage: StageConfig, reward: RewardConfig) -> None:
        self._name = name
        self._stage = stage
        self._check = GoldCheck([reward])

    def problems(self) -> Iterator[Problem]:
        """Say where the reward gives a gold answer less than full marks, or cannot run at all."""
        for line in self._check.problems(gold_attempts(self._stage)):
            yield f"stage {self._name!r}: {line}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._check.close()


def start_gold_trials(stages: Mapping[str, StageConfig]) -> list[GoldTrial]:
    """Start a trial of every reward, once where several stages use the same."""
    first: dict[str, GoldTrial] = {}
    for name, stage in stages.items():
        for reward in rewards_of(stage):
            identity = reward.model_dump_json(exclude={"weight"})
            if identity not in first:
                first[identity] = GoldTrial(name, stage, reward)
    return list(first.values())


def gold_attempts(stage: StageConfig) -> list[Attempt]:
    """Return gold answers as attempts, for trying rewards on; none where the data has no completions or answers."""
    attempts = []
    for data in (data for data in stage.datasets().values() if data.is_file):
        rows = load_rows(data.model_copy(update={"limit": GOLD_SAMPLE}), needed_columns(stage))
        attempts += [_gold_attempt(row) for row in rows if "completion" in row or "answer" in row]
    return attempts


def model_fingerprint(model: str) -> str:
    """Return the identity of a model folder's content, or the Hub id."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".jinja", ".safetensors") and file.is_file():
            digest.update(f"{file.name} {file.stat().st_size}".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(HASHED_BYTES))
    return digest.hexdigest()


def code_fingerprint(reward: RewardConfig) -> str:
    """Return the hash of the file that a reward of the user's own lies in; "" for a built-in one.

    The file is found without importing it; what it imports in turn is not looked at.
    """
    if not isinstance(reward, FunctionRewardConfig):
        return ""
    places: Sequence[str] | None = [*sys.path, str(Path.cwd())]
    found = None
    for part in reward.import_path.split(":")[0].split("."):
        found = PathFinder.find_spec(part, places) if places is not None else None
        places = found.submodule_search_locations if found is not None else None
    if found is None or found.origin is None or not Path(found.origin).is_file():
        return ""  # the reward's own trial says so
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()


def memory_needed(stage: StageConfig, num_parameters: int, precision: Precision) -> float:
    """Return bytes that a stage's weights, gradients and optimizer need, activations and caches left out."""
    each = 4.0  # the policy, in float32 whatever the precision
    if isinstance(stage, TrainingStageConfig):
        trained = 0.02 if stage.params.type == "lora" else 1.0
        each += 12 * trained  # gradients and AdamW's two moments
    if isinstance(stage, GRPOStage) and stage.kl.coef > 0 and stage.params.type == "full":
        each += 4  # the reference
    if stage.generates:
        each += 4 if precision == "float32" else 2  # the engine's
    return each * num_parameters


def count_parameters(folder: Path) -> int | None:
    """Return the number of parameters from the headers of the safetensors files; None where there are none.

    Raises ModelFolderError for a file that is cut short or is no safetensors file.
    """
    files = list(folder.glob("*.safetensors"))
    return sum(_parameters_in(file) for file in files) if files else None


def _parameters_in(file: Path) -> int:
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length < file.stat().st_size:
                raise ValueError(f"its header would have {length} bytes")
            tensors = {k: v for k, v in json.loads(stream.read(length)).items() if k != "__metadata__"}
        end = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        if file.stat().st_size < end:
            raise ValueError(f"it has {file.stat().st_size} bytes of {end}")
        return sum(math.prod(tensor["shape"]) for tensor in tensors.values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelFolderError(f"{file} is not a whole safetensors file ({error}); fetch it again") from error


def _about_hub_data(name: str, path: str, stages: Mapping[str, StageConfig]) -> Problem:
    if path in stages:
        return f"stage {name!r}: {path!r} is a stage; to read what it makes, write data: {{stage: {path}}}"
    if Path(path).exists() or not HUB_ID.fullmatch(path):
        return f"stage {name!r}: {path!r} is no data set; a file of rows is JSONL and ends in .jsonl"
    return f"note: stage {name!r}: {path} is on the Hub; its rows are checked when the stage loads them"


def _check_model(chat: ChatFormat, stages: Mapping[str, StageConfig], facts: RunFacts) -> Iterator[Problem]:
    """Check config, weights and template of a model folder. Raises ModelFolderError where they cannot be read."""
    config = read_json_object(Path(facts.model) / "config.json")
    count_parameters(Path(facts.model))
    limit = config.get("max_position_embeddings")
    generates = any(stage.generates for stage in stages.values())
    if generates and isinstance(limit, int) and facts.engine.max_model_tokens > limit:
        yield f"engine.max_model_tokens {facts.engine.max_model_tokens} is more than the model's own context of {limit}"
    yield from _check_template(chat)


def _check_rows(
    name: str, stage: StageConfig, role: str, rows: Sequence[Row], facts: RunFacts, chat: ChatFormat | None
) -> Iterator[Problem]:
    if isinstance(stage, PreferenceStage):
        pair_offsets(rows, stage.loss)
    if chat is None:
        return
    if stage.generates:
        room = facts.engine.max_model_tokens - _max_tokens(stage, role)
        prompts = [row["prompt"] for row in rows]
        for at, length in chat.longer_than(room, prompts, add_generation_prompt=True)[:1]:
            yield (
                f"stage {name!r}: the prompt of row {at + 1} of {role} has {length} tokens, but the engine's context "
                f"of {facts.engine.max_model_tokens} less the answer's {_max_tokens(stage, role)} leaves {room}; raise "
                "engine.max_model_tokens or lower max_tokens"
            )
    if isinstance(stage, SupervisedConfig):
        answers = [side for side in ("completion", "chosen", "rejected") if side in stage.needs_columns]
        whole = [[*row["prompt"], *row[side]] for row in rows for side in answers]
        cut = len(chat.longer_than(stage.max_tokens, whole, add_generation_prompt=False))
        if cut:
            yield f"note: stage {name!r}: {cut} of {len(whole)} rows are cut to max_tokens {stage.max_tokens}"


def _check_template(chat: ChatFormat) -> Iterator[Problem]:
    question = [{"role": "user", "content": "What is 1 plus 1?"}]
    prompt = chat.render(question, add_generation_prompt=True)
    whole = chat.render([*question, {"role": "assistant", "content": "2"}], add_generation_prompt=False)
    if not whole.rstrip().endswith(chat.eos_token):
        yield (
            f"the model's chat template ends a finished turn with {whole[-20:]!r}, not with the end-of-sequence token "
            f"{chat.eos_token!r}, so the model would never learn to stop; mend the template or set eos_token"
        )
    if not whole.startswith(prompt):
        yield (
            "the model's chat template writes a prompt differently once it is answered, so the model would train on "
            f"another context than it sees when it answers; the prompt alone ends with {prompt[-30:]!r}"
        )


def _check_exams_are_held_out(
    stages: Mapping[str, StageConfig], loaded: Mapping[tuple[str, str], Sequence[Row]]
) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for (name, _), rows in loaded.items():
        if not isinstance(stages[name], EvaluateStage):
            seen |= {json.dumps(row["prompt"]): name for row in rows}
    for (name, task), rows in loaded.items():
        if isinstance(stages[name], EvaluateStage):
            shared = [prompt for row in rows if (prompt := json.dumps(row["prompt"])) in seen]
            if shared:
                yield (
                    f"stage {name!r}: {len(shared)} problems of exam {task!r} are also in the data of stage "
                    f"{seen[shared[0]]!r}, such as {shared[0]:.80}; an exam must be held out"
                )


def _max_tokens(stage: StageConfig, role: str) -> int:
    if isinstance(stage, EvaluateStage):
        return stage.tasks[role].max_tokens
    assert isinstance(stage, (PairsStage, GRPOStage))
    return stage.sampling.max_tokens


def _gold_attempt(row: Row) -> Attempt:
    gold = row.get("completion") or [{"role": "assistant", "content": f"\\boxed{{{row['answer']}}}"}]
    gold = [{"role": "assistant", "content": gold}] if isinstance(gold, str) else gold
    columns = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
    return Attempt(prompt=row["prompt"], completion=gold, columns=columns)
