"""Every scored group on disk, as Parquet: one row a rollout. For reading, re-scoring, and building pairs."""

import json
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rewards.types import Score
from rollout.types import Completion, Prompt, Rollout, RolloutGroup

_SCHEMA = pa.schema(
    {
        "group": pa.int32(),  # number of the group in the file
        "is_greedy": pa.bool_(),  # the group's baseline, not one of its rollouts
        "prompt_id": pa.string(),
        "prompt_token_ids": pa.list_(pa.int32()),
        "opening": pa.string(),
        "hint_ids": pa.list_(pa.int32()),
        "messages": pa.string(),  # JSON
        "columns": pa.string(),  # JSON
        "response": pa.string(),
        "turns": pa.string(),  # JSON
        "environment": pa.string(),  # JSON, what an environment told rewards
        "token_ids": pa.list_(pa.int32()),
        "logprobs": pa.list_(pa.float64()),
        "versions": pa.list_(pa.int32()),
        "finish_reason": pa.string(),
        "given": pa.list_(pa.list_(pa.int32())),
        "score": pa.float64(),
        "cause": pa.string(),
        "parts": pa.string(),  # JSON
        "reads": pa.string(),  # JSON
        "score_seconds": pa.float64(),
        "detail": pa.string(),
    }
)


def write_groups(path: Path, groups: Sequence[RolloutGroup]) -> None:
    """Write the groups; the file appears under its name when it is complete. Replaces an older one.

    Raises ValueError where a prompt's columns do not go into JSON.
    """
    rows = [
        _row(at, group.prompt, rollout, is_greedy=rollout is group.greedy)
        for at, group in enumerate(groups)
        for rollout in (*group.rollouts, *([group.greedy] if group.greedy else []))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.writing")  # what a kill leaves, the next attempt writes over
    try:
        with partial.open("wb") as file:
            pq.write_table(
                pa.Table.from_pylist(rows, schema=_SCHEMA), file, compression="zstd", write_page_checksum=True
            )
            file.flush()
            os.fsync(file.fileno())  # a name on the disk means the content is
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_groups(path: Path) -> list[RolloutGroup]:
    """Read what `write_groups` wrote, equal to what it was given, tuples and lists in JSON columns aside.

    Raises ValueError for a file that is damaged, or that something else has written; OSError where it is not there.
    """
    content = path.read_bytes()
    try:
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True).select(_SCHEMA.names)
        if not table.schema.equals(_SCHEMA):
            raise ValueError(f"its columns are {table.schema}")
        grouped = [list(members) for _, members in groupby(table.to_pylist(), key=lambda row: row["group"])]
        return [_group(rows) for rows in grouped]
    except Exception as error:  # Arrow and JSON raise a dozen types, and lost columns and values some more
        raise ValueError(f"{path} holds no groups of a run ({type(error).__name__}: {error})") from error


def _group(rows: Sequence[dict[str, Any]]) -> RolloutGroup:
    sampled = tuple(_rollout(row) for row in rows if not row["is_greedy"])
    greedy = next((_rollout(row) for row in rows if row["is_greedy"]), None)
    return RolloutGroup(prompt=_prompt(rows[0]), rollouts=sampled, greedy=greedy)


def _row(group: int, prompt: Prompt, rollout: Rollout, *, is_greedy: bool) -> dict[str, Any]:
    completion, score = rollout.completion, rollout.score
    return {
        "group": group,
        "is_greedy": is_greedy,
        "prompt_id": prompt.id,
        "prompt_token_ids": prompt.token_ids,
        "opening": prompt.opening,
        "hint_ids": prompt.hint_ids,
        "messages": json.dumps([dict(message) for message in prompt.messages]),
        "columns": _columns_as_json(prompt),
        "response": rollout.response,
        "turns": json.dumps([dict(turn) for turn in rollout.turns]),
        "environment": json.dumps(dict(rollout.columns)),
        "token_ids": completion.token_ids,
        "logprobs": completion.logprobs,
        "versions": completion.versions,
        "finish_reason": completion.finish_reason,
        "given": completion.given,
        "score": score.value,
        "cause": score.cause,
        "parts": json.dumps(dict(score.parts)),
        "reads": json.dumps(dict(score.reads)),
        "score_seconds": score.seconds,
        "detail": score.detail,
    }


def _columns_as_json(prompt: Prompt) -> str:
    try:
        return json.dumps(dict(prompt.columns))
    except TypeError as error:
        raise ValueError(
            f"prompt {prompt.id!r} has a column that JSON cannot hold ({error}); rollouts are kept "
            "with their columns, so use numbers, texts, lists and dicts"
        ) from error


def _prompt(row: dict[str, Any]) -> Prompt:
    return Prompt(
        id=row["prompt_id"],
        messages=json.loads(row["messages"]),
        token_ids=tuple(row["prompt_token_ids"]),
        opening=row["opening"],
        hint_ids=tuple(row["hint_ids"]),
        columns=json.loads(row["columns"]),
    )


def _rollout(row: dict[str, Any]) -> Rollout:
    completion = Completion(
        token_ids=tuple(row["token_ids"]),
        logprobs=tuple(row["logprobs"]),
        versions=tuple(row["versions"]),
        finish_reason=row["finish_reason"],
        given=tuple((start, end) for start, end in row["given"]),
    )
    if not len(completion.token_ids) == len(completion.logprobs) == len(completion.versions):
        raise ValueError(f"an answer to {row['prompt_id']!r} has not as many log-probabilities and versions as tokens")
    score = Score(
        value=row["score"],
        cause=row["cause"],
        parts=json.loads(row["parts"]),
        reads=json.loads(row["reads"]),
        seconds=row["score_seconds"],
        detail=row["detail"],
    )
    return Rollout(
        completion=completion,
        response=row["response"],
        score=score,
        turns=tuple(json.loads(row["turns"])),
        columns=json.loads(row["environment"]),
    )
