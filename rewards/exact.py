r"""The exact reward: is the final answer the gold answer, letter by letter?"""

from typing import TYPE_CHECKING, Any

from rewards.final_answer import final_answer, last_turns, plain
from rewards.types import Mark, RewardFunction

if TYPE_CHECKING:
    from rewards.config import ExactRewardConfig


def load(config: "ExactRewardConfig") -> RewardFunction:
    """Return a reward: 1.0 where the final answer is the gold answer, else 0.0.

    Letter case counts unless ``ignore_case``; white space at the ends never does, and inside a run of it is one space.
    A list as gold answer holds several that are right. The final answer is `rewards.final_answer`'s, without styling.
    """
    column = config.answer_column

    def exact(
        prompts: list[Any], completions: list[Any], openings: list[str] | None = None, **columns: list[Any]
    ) -> list[float | Mark | None]:
        marks: list[float | Mark | None] = []
        for (text, opening), gold in zip(last_turns(completions, openings), columns[column], strict=True):
            right = {_plain(str(one), config.ignore_case) for one in (gold if isinstance(gold, list) else [gold])}
            read = final_answer(text, opening).text
            marks.append(Mark(value=float(_plain(read, config.ignore_case) in right), read=read))
        return marks

    return exact


def _plain(text: str, ignore_case: bool) -> str:
    return plain(text).casefold() if ignore_case else plain(text)
