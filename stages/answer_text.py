"""Tokens of answers as text, as rewards are to see them: without special tokens, but with the marks of thoughts."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from rewards import thinking

Decode = Callable[[Sequence[int]], str]


def decoder(tokenizer: Any) -> Decode:
    """Return a function from token ids to text without special tokens.

    Some tokenizers have the tags around thoughts among them, such as Magistral's [THINK]; these stay.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    marks = {at: str(token) for at, token in added.items() if token.special and thinking.is_mark(str(token))}

    def plain(token_ids: Sequence[int]) -> str:
        return str(tokenizer.decode(token_ids, skip_special_tokens=True))

    def with_marks(token_ids: Sequence[int]) -> str:
        runs = groupby(token_ids, key=lambda token: token in marks)
        texts = ["".join(marks[one] for one in run) if is_marks else plain(list(run)) for is_marks, run in runs]
        return "".join(texts)

    return with_marks if marks else plain
