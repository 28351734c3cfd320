"""Rows become prompts: messages through the chat template, with a name that is the same in every run."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from rewards.config import RewardConfig
from rollout.types import Prompt
from stages.data.config import DataSetConfig
from stages.data.marking import check_marked, column_names
from stages.data.rows import DataError, Row, load_rows, reward_columns, row_id

logger = logging.getLogger(__name__)


def load_prompts(
    data: DataSetConfig,
    needs: Sequence[str],
    rewards: Sequence[RewardConfig],
    tokenizer: Any,
    *,
    room: int,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[Prompt]:
    """Return the data set's prompts; rows that are the same row twice get names of their own.

    ``tools`` are JSON schemas of functions that the chat template shows to the policy. Columns other than the prompt
    go along for the rewards, None where the row has none. A prompt of more than ``room`` tokens is dropped where the
    config says so. Raises DataError for one that is not, where none is left, and for rows that no reward applies to.
    """
    rows = load_rows(data, needs)
    check_marked(data, rows, rewards)
    names = column_names(rows)
    prompts = _with_room(data, [_prompt(row, names, tokenizer, tools) for row in rows], room)
    seen: dict[str, int] = {}
    for at, prompt in enumerate(prompts):
        seen[prompt.id] = seen.get(prompt.id, 0) + 1
        if seen[prompt.id] > 1:
            prompts[at] = Prompt(
                id=f"{prompt.id}-{seen[prompt.id]}",
                messages=prompt.messages,
                token_ids=prompt.token_ids,
                columns=prompt.columns,
            )
    return prompts


def _with_room(data: DataSetConfig, prompts: list[Prompt], room: int) -> list[Prompt]:
    fitting = [prompt for prompt in prompts if len(prompt.token_ids) <= room]
    num_long, longest = len(prompts) - len(fitting), max(len(prompt.token_ids) for prompt in prompts)
    if num_long and (data.too_long == "refuse" or not fitting):
        raise DataError(
            f"{num_long} of {len(prompts)} prompts of {data.path} have more than the {room} tokens that the engine's "
            f"context leaves beside an answer; the longest has {longest}. Raise engine.max_model_tokens, lower "
            "max_tokens, or leave them out by too_long: drop"
        )
    if num_long:
        logger.warning("%d of %d prompts of %s are dropped: over %d tokens", num_long, len(prompts), data.path, room)
    return fitting


def _prompt(row: Row, names: Sequence[str], tokenizer: Any, tools: Sequence[Mapping[str, Any]] | None) -> Prompt:
    token_ids = tokenizer.apply_chat_template(row["prompt"], tools=tools, add_generation_prompt=True, return_dict=False)
    columns = {**dict.fromkeys(names), **reward_columns(row)}
    return Prompt(id=row_id(row), messages=row["prompt"], token_ids=tuple(token_ids), columns=columns)
