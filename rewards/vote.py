"""The vote reward: does the answer agree with most of its group? Needs no gold answer.

It rewards what the policy already prefers, right or wrong, so keep a labelled exam beside it: accuracy can rise for a
while and then fall together (MM-UPT, Wei et al. 2025, arXiv 2505.22453).
"""

from collections import Counter
from typing import TYPE_CHECKING, Any

from rewards.final_answer import final_answer
from rewards.types import RewardFunction

if TYPE_CHECKING:
    from rewards.config import VoteRewardConfig


def load(config: "VoteRewardConfig") -> RewardFunction:
    """Return a reward: 1.0 for the group's most frequent final answer, 0.0 for others and for none.

    Where several are the most frequent, each of them counts. Answers are compared as numbers where they are numbers,
    else as text without case and spaces. Where even the most frequent has less than ``least_share`` of the group, the
    group has not decided and nobody gets a mark.
    """

    def vote(prompts: list[Any], completions: list[Any], **columns: list[Any]) -> list[float | None]:
        answers = [canonical(final_answer(turns[-1]["content"])) for turns in completions]
        counts = Counter(answer for answer in answers if answer)
        most = max(counts.values(), default=0)
        if most < config.least_share * len(answers):
            return [None] * len(answers)
        return [float(bool(answer) and counts[answer] == most) for answer in answers]

    return vote


def canonical(answer: str) -> str:
    """Return a form that is the same for the same answer: 1,234.50 and 1234.5, Paris and paris."""
    plain = "".join(answer.split()).casefold().rstrip(".")
    try:
        return repr(float(plain.replace(",", "").replace("$", "")))
    except ValueError:
        return plain
