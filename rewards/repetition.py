"""The repetition reward: does the answer say the same thing again and again?"""

from typing import TYPE_CHECKING, Any

from rewards.types import RewardFunction

if TYPE_CHECKING:
    from rewards.config import RepetitionRewardConfig


def load(config: "RepetitionRewardConfig") -> RewardFunction:
    """Return a reward from 0, where no run of ``ngram`` words comes twice, down to almost -1, where one fills the text.

    It is minus the share of runs that are repeats (Yeo et al. 2025, arXiv 2502.03373). A text of fewer words gets 0.
    """

    def repetition(prompts: list[Any], completions: list[Any], **columns: list[Any]) -> list[float | None]:
        return [-repeated_share(turns[-1]["content"].split(), config.ngram) for turns in completions]

    return repetition


def repeated_share(words: list[str], size: int) -> float:
    """Return the share of runs of so many words that have come before, letter case aside."""
    lowered = [word.lower() for word in words]
    runs = [tuple(lowered[at : at + size]) for at in range(len(lowered) - size + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
