"""The length reward: is the answer as long as it may be? Says nothing about whether it is right."""

from typing import TYPE_CHECKING, Any

from rewards.types import RewardFunction

if TYPE_CHECKING:
    from rewards.config import LengthRewardConfig


def load(config: "LengthRewardConfig") -> RewardFunction:
    """Return a reward by the number of the completion's tokens; None where the tokens are not known.

    With ``limit`` it is DAPO's soft punishment (Yu et al. 2025, arXiv 2503.14476): 0 up to ``limit - buffer`` tokens,
    from there down to -1 at ``limit``, and -1 beyond. With ``target`` it is 1 at the target and falls to 0 at twice
    the target and at no token at all.
    """

    def length(completion_ids: list[list[int]], **columns: list[Any]) -> list[float | None]:
        return [mark(len(ids), config) if ids else None for ids in completion_ids]

    return length


def mark(num_tokens: int, config: "LengthRewardConfig") -> float:
    """Return the mark of an answer of so many tokens."""
    if config.target is not None:
        return max(0.0, 1 - abs(num_tokens - config.target) / config.target)
    assert config.limit is not None
    over = num_tokens - (config.limit - config.buffer)
    return -min(1.0, max(0.0, over / config.buffer))
