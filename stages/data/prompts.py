"""Rows become prompts: messages through the chat template, with a name that is the same in every run."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from rewards.config import RewardConfig
from rollout.types import Prompt
from stages.data.config import DataSetConfig
from stages.data.control_text import num_spelled
from stages.data.marking import check_marked, column_names
from stages.data.rendering import Chat, TokenizerChat, Tools, opening, prompt_text
from stages.data.rows import DataError, Row, load_rows, place_of, reward_columns, row_id

logger = logging.getLogger(__name__)


def load_prompts(
    data: DataSetConfig,
    needs: Sequence[str],
    rewards: Sequence[RewardConfig],
    tokenizer: Any,
    *,
    room: int,
    tools: Tools | None = None,
    alive: Callable[[], None] = lambda: None,
) -> list[Prompt]:
    """Return the data set's prompts; rows that are the same row twice get names of their own.

    ``tools`` are JSON schemas of an environment's functions, which the chat template shows to the policy; a row that
    has `tools` of its own shows those of them. Columns other than the prompt go along for the rewards, None where the
    row has none. A prompt of more than ``room`` tokens is dropped where the config says so. Raises DataError for one
    that is not, where none is left, and for rows that no reward applies to. ``alive`` is called every thousand rows.
    """
    rows = load_rows(data, needs)
    check_marked(data, rows, rewards)
    names, chat = column_names(rows), TokenizerChat(tokenizer)
    num_spelled(chat.control, rows, ["prompt"])

    def made() -> Iterator[Prompt]:
        for at, row in enumerate(rows, start=1):
            yield _prompt(row, names, chat, tools)
            if at % 1000 == 0:
                alive()

    prompts = _with_room(data, list(made()), room)
    seen: dict[str, int] = {}
    for at, prompt in enumerate(prompts):
        seen[prompt.id] = seen.get(prompt.id, 0) + 1
        if seen[prompt.id] > 1:
            prompts[at] = replace(prompt, id=f"{prompt.id}-{seen[prompt.id]}")
    return prompts


def _with_room(data: DataSetConfig, prompts: list[Prompt], room: int) -> list[Prompt]:
    fitting = [prompt for prompt in prompts if len(prompt.token_ids) <= room]
    num_long, longest = len(prompts) - len(fitting), max(len(prompt.token_ids) for prompt in prompts)
    if num_long and (data.too_long == "refuse" or not fitting):
        raise DataError(
            f"{num_long} of {len(prompts)} prompts of {data.path} have more than the {room} tokens that the engine's "
            f"context leaves for a prompt; the longest has {longest}. Raise engine.max_model_tokens, lower "
            "max_tokens, or leave them out by too_long: drop"
        )
    if num_long:
        logger.warning("%d of %d prompts of %s are dropped: over %d tokens", num_long, len(prompts), data.path, room)
    return fitting


def _prompt(row: Row, names: Sequence[str], chat: Chat, tools: Tools | None) -> Prompt:
    require_answered(row, tools)
    columns = {**dict.fromkeys(names), **reward_columns(row)}
    asked = prompt_text(chat, row, tools)
    return Prompt(
        id=row_id(row),
        messages=row["prompt"],
        token_ids=tuple(chat.token_ids(asked)),
        opening=opening(chat, row, asked, tools),
        columns={**columns, "tools": columns.get("tools") or list(tools)} if tools else columns,
    )


def require_answered(row: Row, tools: Tools | None) -> None:
    """Raise DataError where a row shows tools to the policy that its environment has not got."""
    known = {_name(tool) for tool in tools or ()}
    missing = [_name(tool) for tool in row.get("tools") or () if tools and _name(tool) not in known]
    if missing:
        raise DataError(
            f"{place_of(row)}: the row shows the policy the tool {missing[0]!r}, which the environment has not got; it "
            f"has {', '.join(sorted(known))}. Give the environment that function, or leave it out of the row's tools"
        )


def _name(tool: Any) -> str:
    return str(tool.get("function", tool).get("name"))
