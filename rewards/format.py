"""The format reward: does the answer look as it was asked to look? Says nothing about whether it is right."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rewards.final_answer import ends_in_box, last_turns
from rewards.reader import Reader, marks
from rewards.types import LogMetric, Mark, RewardFunction

if TYPE_CHECKING:
    from rewards.config import FormatRewardConfig


def load(config: "FormatRewardConfig") -> RewardFunction:
    """Return a reward: 1.0 where the last turn's text has the tags, matches the pattern, or ends in a box, else 0.0.

    What the prompt has begun of the answer, such as `<think>`, is part of the text for tags; for a pattern the text may
    match with it or without it. A text on which a pattern backtracks without end does not match; it is counted.
    """
    pattern = None if config.pattern is None else re.compile(config.pattern)

    def is_as_asked(turn: tuple[str, str]) -> bool:
        text, begun = turn
        if config.tags:
            return has_tags(begun + text, config.tags)
        if pattern is None:
            return ends_in_box(text, begun)
        return any(pattern.fullmatch(one) for one in {text, begun + text})

    reader = Reader(is_as_asked)

    def format(
        prompts: list[Any],
        completions: list[Any],
        openings: list[str] | None = None,
        log_metric: LogMetric = lambda name, value: None,
        **columns: list[Any],
    ) -> list[float | Mark | None]:
        found = reader.each(last_turns(completions, openings))
        given = marks(found, lambda is_so: Mark(value=float(is_so)), log_metric)
        return [mark if mark.detail else mark.value for mark in given]

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
