"""The format reward: does the answer look as it was asked to look? Says nothing about whether it is right."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rewards.final_answer import ends_in_box, last_turns
from rewards.types import RewardFunction

if TYPE_CHECKING:
    from rewards.config import FormatRewardConfig


def load(config: "FormatRewardConfig") -> RewardFunction:
    """Return a reward: 1.0 where the last turn's text has the tags, matches the pattern, or ends in a box, else 0.0.

    What the prompt has begun of the answer, such as `<think>`, is part of the text for tags; for a pattern the text may
    match with it or without it. A pattern may backtrack without end on some texts; the worker's deadline ends that.
    """
    pattern = None if config.pattern is None else re.compile(config.pattern)

    def format(
        prompts: list[Any], completions: list[Any], openings: list[str] | None = None, **columns: list[Any]
    ) -> list[float | None]:
        texts = last_turns(completions, openings)
        if config.tags:
            return [float(has_tags(begun + text, config.tags)) for text, begun in texts]
        if pattern is None:
            return [float(ends_in_box(text, begun)) for text, begun in texts]
        return [float(any(pattern.fullmatch(one) for one in {text, begun + text})) for text, begun in texts]

    return format


def has_tags(text: str, tags: Sequence[str]) -> bool:
    """Say whether a text is made of these elements, once each and in this order, none empty, and nothing else."""
    at = 0
    for tag in tags:
        opened, closed = f"<{tag}>", f"</{tag}>"
        if text.count(opened) != 1 or text.count(closed) != 1:
            return False
        start, end = text.index(opened), text.index(closed)
        if text[at:start].strip() or not text[start + len(opened) : end].strip():
            return False
        at = end + len(closed)
    return not text[at:].strip()
