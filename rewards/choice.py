"""The choice reward: is the letter that the answer picks the right one?"""

import re
from typing import TYPE_CHECKING, Any

from rewards.final_answer import final_answer, last_turns
from rewards.types import Mark, RewardFunction

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

    def choice(
        prompts: list[Any], completions: list[Any], openings: list[str] | None = None, **columns: list[Any]
    ) -> list[float | Mark | None]:
        picks = [pick(text, letters, opening) for text, opening in last_turns(completions, openings)]
        golds = [letter(gold, letters) for gold in columns[column]]
        return [Mark(value=float(one == gold), read=one or "") for one, gold in zip(picks, golds, strict=True)]

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
