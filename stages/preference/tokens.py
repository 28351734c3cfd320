"""Pairs and labelled answers in tokens, as TRL's trainers take what is in tokens already.

TRL learns every token after the prompt; a mask next to an answer's tokens takes those out that somebody else wrote.
Shapes: B sequences, T tokens of a padded batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stages.data.examples import Example, answer
from stages.data.rendering import Chat
from stages.data.rows import DataError, Row, place_of

MASKS = ("chosen_mask", "rejected_mask", "completion_mask", "KL_completion_mask")


def in_tokens(chat: Chat, row: Row, sides: Sequence[str]) -> dict[str, Any]:
    """Return the tokens of a row's prompt, and of each side with 1 where a token is learned. Raises DataError."""
    answers = {side: answer(chat, row, side) for side in sides}
    prompts = {each.prompt_ids for each in answers.values()}
    if len(prompts) > 1:
        raise DataError(f"{place_of(row)}: the chat template writes one prompt in two ways: {' and '.join(sides)}")
    return {
        "prompt_ids": list(prompts.pop()),
        **{f"{side}_ids": list(each.token_ids) for side, each in answers.items()},
        **{f"{side}_mask": each.learned for side, each in answers.items()},
    }


def cut(example: Example, max_tokens: int) -> Example | None:
    """Return an example as long as training takes it; None where nothing that is learned is left."""
    room = max(0, max_tokens - len(example.prompt_ids))
    kept = Example(prompt_ids=example.prompt_ids, token_ids=example.token_ids[:room], given=example.given)
    return kept if any(kept.learned) else None


def is_learned(row: Mapping[str, Any], max_tokens: int) -> bool:
    """Say whether something is learned of each answer of a row in tokens, as long as training takes it."""
    room = max(0, max_tokens - len(row["prompt_ids"]))
    return all(any(row[name][:room]) for name in MASKS if name in row)


class MaskedCollator:
    """TRL's collator, which takes all of an answer for learned, corrected by the masks of the examples."""

    def __init__(self, collator: Any) -> None:
        self._collator = collator

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return the batch."""
        batch: dict[str, Tensor] = self._collator(examples)
        if "chosen_mask" in examples[0]:
            masks = [(each["prompt_ids"], each[side]) for side in MASKS[:2] for each in examples]
            _take_out(batch["completion_mask"], masks)
            return batch
        for prefix in ("", "KL_"):
            if f"{prefix}completion_mask" in examples[0]:
                masks = [(each["prompt_ids"], each[f"{prefix}completion_mask"]) for each in examples]
                _take_out(batch[f"{prefix}completion_mask"], masks)
        return batch


def _take_out(mask_BT: Tensor, masks: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
    for row_T, (prompt, learned) in zip(mask_BT, masks, strict=True):
        after = row_T[len(prompt) :]
        found = torch.tensor(learned[: len(after)], dtype=row_T.dtype)
        after[: len(found)] *= found
