"""What can be known to be wrong before anything heavy starts: data, template, lengths, rewards on the gold answer."""

import hashlib
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Self, get_args

from rewards.config import FunctionRewardConfig, ModelRewardConfig, RewardConfig
from rewards.gold import GoldCheck
from rewards.scoring_config import ScoringConfig
from rewards.types import Attempt
from rewards.types import RewardError as RewardError  # the command line's to catch
from rollout.config import EngineConfig, EnvironmentConfig, VLLMEngineConfig
from stages.answering import AnsweringStageConfig
from stages.base import DataUse, RunFacts, StageConfig, StageError
from stages.chat_format import ChatFormat, ModelFolderError, read_json_object
from stages.data.config import DataSetConfig
from stages.data.rows import Row, load_rows, reward_columns
from stages.environment_check import try_environment
from stages.preference.config import PairedConfig
from stages.training import SupervisedConfig

Problem = str
"""What is wrong, the rule, and the way out; a warning begins with `note:`."""

HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
HASHED_WHOLE_BYTES, HASHED_PARTS, HASHED_PART_BYTES = 1 << 26, 256, 1 << 18
"""Files of a base model up to this size are hashed whole; of larger ones so many parts, spread evenly."""
FILE_SUFFIXES = {".parquet", ".csv", ".tsv", ".txt", ".arrow", ".gz", ".zst", ".yaml"}
"""No id on the Hub ends so; whoever writes it means a file."""


def environments_of(stage: StageConfig) -> list[EnvironmentConfig]:
    """Return the environments that a stage and its parts use."""
    return [each.environment for each in _answering(stage) if each.environment is not None]


def rewards_of(stage: StageConfig) -> list[RewardConfig]:
    """Return the rewards that a stage and its parts use."""
    return [reward for each in _answering(stage) for reward in each.scored_by()]


def _answering(stage: StageConfig) -> list[AnsweringStageConfig]:
    return [each for each in stage.whole() if isinstance(each, AnsweringStageConfig)]


def _with_parts(stages: Mapping[str, StageConfig]) -> dict[str, StageConfig]:
    parts = {f"{name}.{key}": part for name, stage in stages.items() for key, part in stage.parts().items()}
    return {**stages, **parts}


def check_data(stages: Mapping[str, StageConfig], facts: RunFacts) -> Iterator[Problem]:
    """Check the base model's folder, every data set against what its stage needs, and exams against training data."""
    chat, stages = None, _with_parts(stages)
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
    read: dict[str, list[Row]] = {}
    for name, stage in stages.items():
        try:
            if isinstance(stage, AnsweringStageConfig):
                stage.check_rewards()
                yield from _check_sleep(name, stage, facts.engine)
                yield from _about_models(name, stage)
            stage.check_inputs({role: stages[source] for role, source in stage.inputs().items()})
            for role, data in stage.datasets().items():
                if data.is_file:
                    same = f"{data.model_dump_json()} {stage.columns()}"
                    loaded[name, role] = rows = read[same] = read.get(same) or load_rows(data, stage.columns())
                    yield from _check_rows(name, stage, role, rows, facts, chat)
                else:
                    yield _about_hub_data(name, data.path, stages)
        except (ValueError, StageError) as error:
            yield f"stage {name!r}: {error}"
    yield from _check_exams_are_held_out(stages, loaded)


class GoldTrial:
    """One reward, being tried in a process of its own on what the stages that use it read."""

    def __init__(self, reward: RewardConfig, scoring: ScoringConfig) -> None:
        self.stages: dict[str, AnsweringStageConfig] = {}
        self._num_rows = reward.num_trials
        self._check = GoldCheck([reward], scoring)

    def problems(self) -> Iterator[Problem]:
        """Say where the reward gives a gold answer less than full marks, or cannot run at all; the first stage's."""
        tried = set[str]()
        for name, stage in self.stages.items():
            for data in stage.datasets().values():
                if not data.is_file or data.model_dump_json() in tried:
                    continue
                tried.add(data.model_dump_json())
                found = self._check.problems(*trial_attempts(data, stage.columns(), self._num_rows))
                yield from (f"stage {name!r}: {line}" for line in found)
                if found:
                    return
        for label in sorted(self._check.silent) if tried else ():
            where = " and ".join(repr(name) for name in self.stages)
            yield (
                f"note: stage {where}: reward {label!r} returned None for every row that it was tried on; if that is "
                "not meant, look at the columns that it reads"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._check.close()


def start_gold_trials(stages: Mapping[str, StageConfig]) -> list[GoldTrial]:
    """Start a trial of every reward, one where several stages use the same."""
    trials: dict[str, GoldTrial] = {}
    for name, stage in _with_parts(stages).items():
        if isinstance(stage, AnsweringStageConfig):
            for reward in stage.scored_by():
                if reward.num_trials == 0:
                    continue
                identity = reward.model_dump_json(exclude={"weight"})
                trials[identity] = trials.get(identity) or GoldTrial(reward, stage.scoring)
                trials[identity].stages[name] = stage
    return list(trials.values())


def trial_attempts(data: DataSetConfig, columns: Sequence[str], num_rows: int) -> tuple[list[Attempt], list[Attempt]]:
    """Return gold answers to try rewards on, and for rows that have none, answers of which nothing is asked.

    A gold answer is a row's completion, or its `answer` in a box.
    """
    gold: list[Attempt] = []
    other: list[Attempt] = []
    for row in load_rows(data.model_copy(update={"limit": num_rows}), columns):
        completion = row.get("completion")
        boxed = f"\\boxed{{{row['answer']}}}" if "answer" in row else None
        text = completion or boxed or "an answer"
        turns = text if isinstance(text, list) else [{"role": "assistant", "content": text}]
        attempt = Attempt(prompt=row["prompt"], completion=turns, columns=reward_columns(row))
        (gold if completion or boxed else other).append(attempt)
    return gold, other


def model_fingerprint(model: str) -> str:
    """Return the identity of a model folder's content, or the Hub id. Training touches every part of a large file."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".jinja", ".safetensors", ".txt", ".model", ".py") and file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as stream:
                if size <= HASHED_WHOLE_BYTES:
                    digest.update(stream.read())
                    continue
                for part in range(HASHED_PARTS):
                    stream.seek(part * (size - HASHED_PART_BYTES) // (HASHED_PARTS - 1))
                    digest.update(stream.read(HASHED_PART_BYTES))
    return digest.hexdigest()


def reward_fingerprint(reward: RewardConfig) -> str:
    """Return the identity of a reward's model, or the hash of the file that one of the user's own lies in; else "".

    The file is found without importing it; what it imports in turn is not looked at.
    """
    if reward.own_model is not None:
        return model_fingerprint(reward.own_model)
    return code_fingerprint(reward.import_path.split(":")[0]) if isinstance(reward, FunctionRewardConfig) else ""


def code_fingerprint(module: str) -> str:
    """Return the hash of the file that a module lies in, found without importing it; "" where there is none."""
    places: Sequence[str] | None = [*sys.path, str(Path.cwd())]
    found = None
    for part in module.split("."):
        found = PathFinder.find_spec(part, places) if places is not None else None
        places = found.submodule_search_locations if found is not None else None
    if found is None or found.origin is None or not Path(found.origin).is_file():
        return ""  # its own trial says so
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()


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
    is_local = Path(path).exists() or Path(path).suffix in FILE_SUFFIXES
    if is_local or not HUB_ID.fullmatch(path):
        return f"stage {name!r}: {path!r} is no data set; a file of rows is JSONL and ends in .jsonl"
    return f"note: stage {name!r}: {path} is taken for a data set on the Hub; its rows are checked when the stage loads"


def _check_sleep(name: str, stage: StageConfig, engine: EngineConfig) -> Iterator[Problem]:
    if isinstance(engine, VLLMEngineConfig) and engine.sleep and stage.samples_while_learning:
        yield (
            f"stage {name!r}: engine.sleep gives the GPU to the learner while it works, but with max_staleness above 0 "
            "the engine works then too; set max_staleness: 0, or leave out engine.sleep"
        )


def _about_models(name: str, stage: AnsweringStageConfig) -> Iterator[Problem]:
    """Say which rewards are not tried, since they load a model, and which of these could not."""
    for reward in stage.scored_by():
        if reward.own_model is None:
            continue
        folder, where = Path(reward.own_model), f"stage {name!r}: reward {reward.label!r}"
        if folder.is_dir():
            config = read_json_object(folder / "config.json")
            num_labels = len(config.get("id2label") or [0, 1])  # transformers writes none for two
            if isinstance(reward, ModelRewardConfig) and num_labels != 1:
                yield f"{where}: model {reward.own_model!r} has {num_labels} labels; a reward is the logit of one"
            else:
                yield f"note: {where} is first tried when the run has loaded its model"
        elif HUB_ID.fullmatch(reward.own_model):
            yield f"note: {where} is first tried when the run has loaded {reward.own_model} from the Hub"
        else:
            yield f"{where}: model {reward.own_model!r} is no folder, nor can it be the id of a model on the Hub"


def _check_model(chat: ChatFormat, stages: Mapping[str, StageConfig], facts: RunFacts) -> Iterator[Problem]:
    """Check config, weights and template of a model folder. Raises ModelFolderError where they cannot be read."""
    config = read_json_object(Path(facts.model) / "config.json")
    if count_parameters(Path(facts.model)) is None:
        yield f"model {facts.model} has no .safetensors file; save it anew with transformers, which writes one"
    limit = config.get("max_position_embeddings")
    generates = any(stage.generates for stage in stages.values())
    if generates and isinstance(limit, int) and facts.engine.max_model_tokens > limit:
        yield (
            f"engine.max_model_tokens {facts.engine.max_model_tokens} is more than the model's own context of {limit}; "
            f"set engine.max_model_tokens: {limit}, or less"
        )
    yield from _check_template(chat)


def _check_rows(
    name: str, stage: StageConfig, role: str, rows: Sequence[Row], facts: RunFacts, chat: ChatFormat | None
) -> Iterator[Problem]:
    stage.check_rows(rows)
    if isinstance(stage, PairedConfig) and (dropped := stage.num_dropped(rows)):
        yield f"note: stage {name!r}: {dropped} of {len(rows)} pairs teach nothing and are dropped"
    tools = None
    if isinstance(stage, AnsweringStageConfig):
        tools, problems = try_environment(stage, rows, chat)
        yield from (_of_stage(name, problem) for problem in problems)
    if chat is None:
        return
    if isinstance(stage, AnsweringStageConfig):
        room = stage.room(role, facts.engine)
        prompts = [row["prompt"] for row in rows]
        for at, length in chat.longer_than(room, prompts, add_generation_prompt=True, tools=tools)[:1]:
            if stage.datasets()[role].too_long == "drop":
                break
            yield (
                f"stage {name!r}: the prompt of row {at + 1} of {role} has {length} tokens, but the engine's context "
                f"of {facts.engine.max_model_tokens} less the answer's {stage.longest_answer(role)} leaves "
                f"{room}; raise engine.max_model_tokens, lower max_tokens, or leave such rows out by too_long: drop"
            )
    if isinstance(stage, SupervisedConfig):
        yield from _about_lengths(name, stage, rows, chat)


def _about_lengths(name: str, stage: SupervisedConfig, rows: Sequence[Row], chat: ChatFormat) -> Iterator[Problem]:
    """Say how many rows are cut, and how many teach nothing since they leave no room for an answer."""
    sides = [side for side in ("completion", "chosen", "rejected") if side in stage.columns()]
    too_long = {
        at
        for side in sides
        for at, _ in chat.longer_than(
            stage.max_tokens, [[*row["prompt"], *row[side]] for row in rows], add_generation_prompt=False
        )
    }
    prompts = [row["prompt"] for row in rows]
    full = {at for at, _ in chat.longer_than(stage.max_tokens - 1, prompts, add_generation_prompt=True)}
    lost = too_long if stage.leaves_out_too_long else full
    if rows and len(lost) == len(rows):
        yield f"stage {name!r}: max_tokens {stage.max_tokens} is too little for each of {len(rows)} rows; raise it"
    elif lost:
        what = f"{len(lost)} of {len(rows)} rows do not fit into max_tokens {stage.max_tokens}, and teach nothing"
        yield f"note: stage {name!r}: {what}"
    if cut := len(too_long - lost):
        yield f"note: stage {name!r}: {cut} of {len(rows)} rows are cut to max_tokens {stage.max_tokens}"


def _of_stage(name: str, problem: Problem) -> Problem:
    """Return the problem with the stage's name before it."""
    note = "note: " if problem.startswith("note: ") else ""
    return f"{note}stage {name!r}: {problem.removeprefix(note)}"


def _question(row: Row) -> str:
    """Return what is asked, without a system turn that a recipe may have put before it."""
    return json.dumps([turn for turn in row["prompt"] if turn["role"] != "system"])


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
    for use in get_args(DataUse):
        of_this_use = [(name, role, rows) for (name, role), rows in loaded.items() if stages[name].data_are_for == use]
        for name, role, rows in of_this_use:
            shared = [question for row in rows if (question := _question(row)) in seen]
            if use != "learning" and shared:
                yield (
                    f"stage {name!r}: {len(shared)} problems of exam {role!r} are also in the data of stage "
                    f"{seen[shared[0]]!r}, such as {shared[0]:.80}; an exam must be held out"
                )
        seen |= {_question(row): name for name, _, rows in of_this_use for row in rows}
