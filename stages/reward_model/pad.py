"""The token that a reward model pads with.

transformers, and TRL's trainer with it, reads the score at the last token that is not the pad token by its id. Where
the token that ends a turn pads, that is the token before it. So a reward model pads with one that no conversation has,
which its folder says: whoever loads it with plain transformers gets the same scores, in batches padded on the right.
(Padded on the left, a model with rotary positions gives them, too; one that counts positions from the left does not.)
"""

from collections.abc import Collection
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset

from stages.base import StageError

FRESH = "<|pad|>"
SPARE = ("pad", "reserved", "unused")
"""Of a special token's name, if it is there for others to use; in this order."""


def give_own_pad(tokenizer: Any, model: Any, used: Collection[int]) -> None:
    """Have tokenizer and model pad with a token that is not among those ``used`` in any conversation.

    That is the tokenizer's own, else one of its spare special tokens, else a new one with a row of its own.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in used:
        tokenizer.add_special_tokens({"pad_token": _spare(tokenizer, used) or _fresh(tokenizer)})
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def require_no_pad(rows: Dataset, tokenizer: Any) -> None:
    """Raise StageError where a tokenised pair has the token that pads: its score would be read before it."""
    for side in ("chosen_ids", "rejected_ids"):
        for batch in rows.select_columns([side]).with_format("arrow").iter(10_000):
            if pc.any(pc.equal(pc.list_flatten(batch[side]), tokenizer.pad_token_id)).as_py():
                raise StageError(
                    f"the text {tokenizer.pad_token!r} is in a pair, and it is the token that this model pads with, so "
                    "that the score would be read before it; leave it out of the data"
                )


def _spare(tokenizer: Any, used: Collection[int]) -> str | None:
    template = str(tokenizer.chat_template)
    free = [
        token.content
        for number, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and number not in used and token.content not in template
    ]
    return next((name for kind in SPARE for name in free if kind in name.lower()), None)


def _fresh(tokenizer: Any) -> str:
    name = FRESH
    while name in tokenizer.get_vocab():
        name = f"<{name}>"
    return name
