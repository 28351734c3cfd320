"""The choice reward: is the letter that the answer picks the right one?"""

import re
from typing import TYPE_CHECKING, Any

from rewards.final_answer import final_answer, last_turns
from rewards.reader import Reader, marks
from rewards.types import LogMetric, Mark, RewardFunction

if TYPE_CHECKING:
    from rewards.config import ChoiceRewardConfig

_BEFORE, _BEHIND = (
    "\\s(\\[*\"'\u201c\u2018\u662f\u4e3a\uff1a",
    "\\s).\\]:,;*\"'\u201d\u2019\u3002\uff0c\u3001\uff1b\uff1a",
)
_LONE_LETTER = re.compile(rf"(?:^|[{_BEFORE}])([A-Z])(?=$|[{_BEHIND}])(?!(?<=[AI])\s+(?!or\b|and\b)[a-z])")
"""A letter that stands alone; `A triangle` and `I pick` begin with words."""


def load(config: "ChoiceRewardConfig") -> RewardFunction:
    """Return a reward: 1.0 where the picked letter is the gold one, else 0.0; gold is a letter, or an index from 0.

    The pick is the one letter among ``letters`` that stands alone in the final answer (`B`, `(B)`, `B. Paris`); an
    answer in which two different ones do has picked none.
    """
    column, letters = config.answer_column, config.letters

    def read(question: tuple[str, str, str]) -> tuple[bool, str]:
        text, opening, gold = question
        picked = pick(text, letters, opening)
        return picked == gold, picked or ""

    reader = Reader(read)

    def choice(
        prompts: list[Any],
        completions: list[Any],
        openings: list[str] | None = None,
        log_metric: LogMetric = lambda name, value: None,
        **columns: list[Any],
    ) -> list[Mark]:
        golds = [letter(gold, letters) for gold in columns[column]]
        turns = last_turns(completions, openings)
        found = reader.each([(*turn, gold) for turn, gold in zip(turns, golds, strict=True)])
        return marks(found, lambda told: Mark(value=float(told[0]), read=told[1]), log_metric)

    return choice


def pick(text: str, letters: str, opening: str = "") -> str | None:
    """Return the letter that an answer picks, or None."""
    found = {one for one in _LONE_LETTER.findall(final_answer(text, opening).text) if one in letters}
    return found.pop() if len(found) == 1 else None


def letter(gold: Any, letters: str) -> str:
    """Return the gold letter. Raises ValueError for what is none."""
    if isinstance(gold, int) and not isinstance(gold, bool) and 0 <= gold < len(letters):
        return letters[gold]
    plain = str(gold).strip().strip("().").upper()
    if len(plain) != 1 or plain not in letters:
        raise ValueError(f"the gold answer {gold!r} is none of the letters {letters}, nor an index of one")
    return plain
