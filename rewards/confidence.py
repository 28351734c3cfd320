"""The confidence reward: how likely was the answer to the policy that gave it? Needs no gold answer.

Li et al. 2025 (RLSC, arXiv 2506.06395). Like the vote it strengthens what is there: keep a labelled exam next to it.
"""

import math
from typing import TYPE_CHECKING, Any

from rewards.types import RewardFunction

if TYPE_CHECKING:
    from rewards.config import ConfidenceRewardConfig


def load(config: "ConfidenceRewardConfig") -> RewardFunction:
    """Return a reward from 0 to 1: the probability of the completion, or with ``per: token`` its geometric mean.

    It is of the policy that sampled, at the sampling temperature, as the engine reported it. None where the
    log-probabilities are not known.
    """

    def confidence(completion_logprobs: list[list[float]], **columns: list[Any]) -> list[float | None]:
        return [mark(logprobs, config) if logprobs else None for logprobs in completion_logprobs]

    return confidence


def mark(logprobs_T: list[float], config: "ConfidenceRewardConfig") -> float:
    """Return the mark of a completion of T tokens."""
    total = sum(logprobs_T)
    return math.exp(total / len(logprobs_T) if config.per == "token" else total)
