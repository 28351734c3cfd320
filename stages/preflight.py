"""What can be known to be wrong before anything heavy starts: the model's folder, data, lengths, exams."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import get_args

from rewards.chat_template import RunawayTemplateError
from rewards.config import ModelRewardConfig, RewardConfig
from rewards.hub import HUB_ID
from rewards.types import RewardError as RewardError  # the command line's to catch
from rollout.config import EngineConfig, EnvironmentConfig, VLLMEngineConfig
from stages.answering import AnsweringStageConfig
from stages.base import DataUse, Problem, RunFacts, StageConfig, StageError, with_parts
from stages.chat_format import ChatFormat
from stages.data.marking import check_marked, counts
from stages.data.read_once import ReadOnce
from stages.data.rendering import longer_than
from stages.data.rows import Row
from stages.environment_check import try_environment
from stages.model_check import check_model, check_tokens, tokens_beyond
from stages.model_folder import ModelFolderError, read_json_object, read_model_config
from stages.preference.config import PairedConfig
from stages.rendering_check import about_rendering, sides_of, up_to_first_learned
from stages.training import SupervisedConfig

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


def check_data(stages: Mapping[str, StageConfig], facts: RunFacts, read: ReadOnce) -> Iterator[Problem]:
    """Check the base model's folder, every data set against what its stage needs, and exams against training data."""
    chat, stages, beyond = None, with_parts(stages), dict[str, int]()
    if Path(facts.model).is_dir():
        try:
            read_model_config(Path(facts.model))  # what is no model has no tokenizer to speak of
            chat = ChatFormat(Path(facts.model), trust_remote_code=facts.trust_remote_code)
            yield from check_model(chat, stages, facts)
            beyond = tokens_beyond(chat, Path(facts.model))
        except (ModelFolderError, RunawayTemplateError) as error:
            yield str(error)
            return
    elif Path(facts.model).is_file():
        yield f"model {facts.model} is a file; name the folder that holds config, weights and tokenizer together"
    elif HUB_ID.fullmatch(facts.model):
        yield f"note: {facts.model} is not a folder, so its tokenizer and template are checked when the run loads it"
    else:
        yield f"model {facts.model!r} is no folder seen from {Path.cwd()}, nor can it be the id of a model on the Hub"
    loaded: dict[tuple[str, str], list[Row]] = {}
    for name, stage in stages.items():
        try:
            if isinstance(stage, AnsweringStageConfig):
                stage.check_rewards()
                yield from _check_sleep(name, stage, facts.engine)
                yield from _check_sync_folder(name, stage)
                yield from _about_models(name, stage)
            stage.check_inputs({role: stages[source] for role, source in stage.inputs().items()})
            for role, data in stage.datasets().items():
                if data.is_file:
                    loaded[name, role] = rows = read.rows(data, stage.columns())
                    yield from (_of_stage(name, problem) for problem in check_tokens(rows, role, beyond))
                    yield from _check_rows(name, stage, role, rows, facts, chat)
                else:
                    yield _about_hub_data(name, data.path, stages)
        except (ValueError, StageError) as error:
            yield f"stage {name!r}: {error}"
    yield from _check_exams_are_held_out(stages, loaded)


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


def _check_sync_folder(name: str, stage: AnsweringStageConfig) -> Iterator[Problem]:
    if stage.sync.folder is None:
        return
    folder = Path(stage.sync.folder).absolute()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "is no folder" if not there.is_dir() else "cannot be written to"
        yield f"stage {name!r}: sync.folder {stage.sync.folder} cannot be had: {there} {what}; name another, or none"


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


def _check_rows(
    name: str, stage: StageConfig, role: str, rows: Sequence[Row], facts: RunFacts, chat: ChatFormat | None
) -> Iterator[Problem]:
    stage.check_rows(rows)
    if isinstance(stage, PairedConfig) and (dropped := stage.num_dropped(rows)):
        yield f"note: stage {name!r}: {dropped} of {len(rows)} pairs teach nothing and are dropped"
    tools = None
    if isinstance(stage, AnsweringStageConfig):
        check_marked(stage.datasets()[role], rows, stage.scored_by())
        yield from (f"note: stage {name!r}: {line} of {role}" for line in counts(rows, stage.scored_by()))
        tools, problems = try_environment(stage, rows, chat)
        yield from (_of_stage(name, problem) for problem in problems)
    if chat is None:
        return
    problems = [_of_stage(name, problem) for problem in about_rendering(stage, rows, chat, tools)]
    yield from problems
    if any(not problem.startswith("note: ") for problem in problems):
        return  # what cannot be written has no length
    if isinstance(stage, AnsweringStageConfig):
        room = stage.room(role, facts.engine)
        for at, length in islice(longer_than(chat, room, rows, tools=tools), 1):
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
    sides = sides_of(stage)
    too_long = {at for side in sides for at, _ in longer_than(chat, stage.max_tokens, rows, side)}
    asked = [up_to_first_learned(row, stage) for row in rows]
    full = {at for at, _ in longer_than(chat, stage.max_tokens - 1, asked)}
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
