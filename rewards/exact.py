r"""The exact reward: is the final answer the gold answer, letter by letter?"""

from typing import TYPE_CHECKING, Any

from rewards.final_answer import final_answer, last_turns, plain
from rewards.reader import LONGEST_READ, Reader, marks
from rewards.types import LogMetric, Mark, RewardFunction

if TYPE_CHECKING:
    from rewards.config import ExactRewardConfig


def load(config: "ExactRewardConfig") -> RewardFunction:
    """Return a reward: 1.0 where the final answer is the gold answer, else 0.0.

    Letter case counts unless ``ignore_case``; white space at the ends never does, and inside a run of it is one space.
    A list as gold answer holds several that are right. The final answer is `rewards.final_answer`'s, without styling.
    """
    column = config.answer_column

    def read(question: tuple[str, str, frozenset[str]]) -> tuple[bool, str]:
        text, opening, right = question
        answer = final_answer(text, opening).text
        return _plain(answer, config.ignore_case) in right, answer[:LONGEST_READ]

    reader = Reader(read)

    def exact(
        prompts: list[Any],
        completions: list[Any],
        openings: list[str] | None = None,
        log_metric: LogMetric = lambda name, value: None,
        **columns: list[Any],
    ) -> list[Mark]:
        golds = [gold if isinstance(gold, list) else [gold] for gold in columns[column]]
        right = [frozenset(_plain(str(one), config.ignore_case) for one in gold) for gold in golds]
        turns = last_turns(completions, openings)
        found = reader.each([(*turn, each) for turn, each in zip(turns, right, strict=True)])
        return marks(found, lambda told: Mark(value=float(told[0]), read=told[1]), log_metric)

    return exact


def _plain(text: str, ignore_case: bool) -> str:
    return plain(text).casefold() if ignore_case else plain(text)
