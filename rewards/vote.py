"""The vote reward: does the answer agree with most of its group? Needs no gold answer.

It rewards what the policy already prefers, right or wrong, so keep a labelled exam beside it: accuracy can rise for a
while and then fall together (MM-UPT, Wei et al. 2025, arXiv 2505.22453).
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rewards.final_answer import FinalAnswer, final_answer, last_turns, plain
from rewards.mathematics.prose import mathematics_in
from rewards.mathematics.reading import read
from rewards.mathematics.values import Number
from rewards.reader import LONGEST_READ, Reader, marks
from rewards.types import LogMetric, Mark, RewardFunction

if TYPE_CHECKING:
    from rewards.config import VoteRewardConfig


def load(config: "VoteRewardConfig") -> RewardFunction:
    """Return a reward: 1.0 for the group's most frequent final answer, 0.0 for others and for none.

    Where several are the most frequent, each of them counts. Answers are compared as numbers where they are numbers,
    as `rewards.mathematics` reads them, else as text without case and spaces. Where even the most frequent has less
    than ``least_share`` of the group, the group has not decided and nobody gets a mark.
    """

    reader = Reader(_read)

    def vote(
        prompts: list[Any],
        completions: list[Any],
        openings: list[str] | None = None,
        log_metric: LogMetric = lambda name, value: None,
        **columns: list[Any],
    ) -> list[Mark | None]:
        found = reader.each(last_turns(completions, openings))
        counts = Counter(one[0] for one in found if isinstance(one, tuple) and one[0])
        most = max(counts.values(), default=0)
        if most < config.least_share * len(found):
            return [None] * len(found)

        def mark(told: tuple[str, str]) -> Mark:
            return Mark(value=float(bool(told[0]) and counts[told[0]] == most), read=told[1])

        return list(marks(found, mark, log_metric))

    return vote


def _read(turn: tuple[str, str]) -> tuple[str, str]:
    """Return an answer in the form in which it is counted, and as it stands."""
    parts = _parts(final_answer(*turn))
    return canonical(parts), ", ".join(parts)[:LONGEST_READ]


def canonical(parts: Sequence[str]) -> str:
    """Return a form that is the same for the same answer: 1,234.50 and 1234.5, 18 and 18 eggs, Paris and paris."""
    values = [read(part) for part in parts]
    return ",".join(
        str(value.value) if isinstance(value, Number) else "".join(plain(part).split()).casefold()
        for part, value in zip(parts, values, strict=True)
    )


def _parts(answer: FinalAnswer) -> Sequence[str]:
    if answer.how == "box" or not answer.parts:
        return answer.parts
    return mathematics_in(answer.parts[0], is_told=answer.how != "all")
