"""The format reward: does the answer look as it was asked to look? Says nothing about whether it is right."""

import re
from typing import TYPE_CHECKING, Any

from rewards.types import RewardFunction

if TYPE_CHECKING:
    from rewards.config import FormatRewardConfig


def load(config: "FormatRewardConfig") -> RewardFunction:
    """Return a reward that gives 1.0 where the whole text of the last turn matches the pattern, else 0.0.

    A pattern may backtrack for ever on some texts; the worker's deadline ends that.
    """
    pattern = re.compile(config.pattern)

    def format(prompts: list[Any], completions: list[Any], **columns: list[Any]) -> list[float | None]:
        return [1.0 if pattern.fullmatch(turns[-1]["content"]) else 0.0 for turns in completions]

    return format
