r"""The exact reward: is the final answer the gold answer, letter by letter?"""

from typing import TYPE_CHECKING, Any

from rewards.final_answer import final_answer, missing
from rewards.types import RewardFunction

if TYPE_CHECKING:
    from rewards.config import ExactRewardConfig


def load(config: "ExactRewardConfig") -> RewardFunction:
    """Return a reward: 1.0 where the final answer is the gold answer, else 0.0.

    Letter case counts unless ``ignore_case``; white space at the ends never does, and inside a run of it is one space.
    A list as gold answer holds several that are right.
    """
    column = config.answer_column

    def exact(prompts: list[Any], completions: list[Any], **columns: list[Any]) -> list[float | None]:
        if column not in columns:
            raise missing(column, columns)
        marks: list[float | None] = []
        for turns, gold in zip(completions, columns[column], strict=True):
            right = {_plain(str(one), config.ignore_case) for one in (gold if isinstance(gold, list) else [gold])}
            marks.append(float(_plain(final_answer(turns[-1]["content"]), config.ignore_case) in right))
        return marks

    return exact


def _plain(text: str, ignore_case: bool) -> str:
    plain = " ".join(text.split())
    return plain.casefold() if ignore_case else plain
