"""Rows become prompts: messages through the chat template, with a name that is the same in every run."""

from collections.abc import Sequence
from typing import Any

from rollout.types import Prompt
from stages.data.config import DataSetConfig
from stages.data.rows import Row, load_rows, reward_columns, row_id


def load_prompts(data: DataSetConfig, needs: Sequence[str], tokenizer: Any) -> list[Prompt]:
    """Return the data set's prompts; rows that are the same row twice get names of their own.

    Columns other than the prompt go along for the rewards.
    """
    prompts = [_prompt(row, tokenizer) for row in load_rows(data, needs)]
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


def _prompt(row: Row, tokenizer: Any) -> Prompt:
    token_ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
    return Prompt(id=row_id(row), messages=row["prompt"], token_ids=tuple(token_ids), columns=reward_columns(row))
