"""Tokens of answers as text, as rewards are to see them: without special tokens, but for the assistant's own.

Where an answer becomes a turn of a conversation again, `rewards.control_tokens` makes tokens of the same ones: what was
sampled as a mark is one again, and no text has become another.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from rewards.control_tokens import is_own

Decode = Callable[[Sequence[int]], str]


def decoder(tokenizer: Any) -> Decode:
    """Return a function from token ids to text without special tokens.

    Some tokenizers have the tags around thoughts and calls of tools among them, such as Mistral's [THINK] and
    [TOOL_CALLS]; these stay.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    marks = {at: str(token) for at, token in added.items() if token.special and is_own(str(token))}

    def plain(token_ids: Sequence[int]) -> str:
        return str(tokenizer.decode(token_ids, skip_special_tokens=True))

    def with_marks(token_ids: Sequence[int]) -> str:
        runs = groupby(token_ids, key=lambda token: token in marks)
        texts = ["".join(marks[one] for one in run) if is_marks else plain(list(run)) for is_marks, run in runs]
        return "".join(texts)

    return with_marks if marks else plain
