"""The math reward: is the final answer the gold answer? By value, as mathematics, not text."""

import functools
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rewards.final_answer import FinalAnswer, final_answer, last_turns
from rewards.mathematics import compare, prose
from rewards.mathematics.gold import gold_value
from rewards.mathematics.reading import listed
from rewards.mathematics.values import Text, Value
from rewards.reader import LONGEST_READ, Lost, Reader, Spoilt, marks
from rewards.types import LogMetric, Mark, RewardFunction

if TYPE_CHECKING:
    from rewards.config import MathRewardConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """What comparing an answer with gold came to."""

    is_equal: bool
    read: str
    """What was taken for the answer."""
    raised: str = ""
    """What the comparison raised, which leaves the answer unequal."""


def load(config: "MathRewardConfig") -> RewardFunction:
    r"""Import math-verify (half a second) and return a reward: 1.0 where the answer equals gold, else 0.0.

    The gold answer is `config.answer_column`, bare (`633`, `\frac{1}{2}`), in a box, or GSM8K's whole column; see
    `equals`. An answer that cannot be compared, because that takes more than two seconds, raises, or ends the process
    in which it is done (`rewards.reader`), equals nothing; it is counted.
    """
    import math_verify  # noqa: F401 - a worker pays for it at its start, not in its first group

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we hold the clock; we know
    column = config.answer_column
    equals(r"\boxed{\sqrt{2}}", r"\sqrt{3}")  # the first parse builds tables
    reader = Reader(_compared)

    def math(
        prompts: list[Any],
        completions: list[Any],
        openings: list[str] | None = None,
        log_metric: LogMetric = lambda name, value: None,
        **columns: list[Any],
    ) -> list[Mark]:
        keys = [_key(gold) for gold in columns[column]]
        for key in keys:
            _gold(*key)  # raises here for what can be no gold answer, which is no answer's doing
        turns = last_turns(completions, openings)
        found = reader.each([(*turn, *key) for turn, key in zip(turns, keys, strict=True)])
        return marks(list(map(_spoilt, found)), _mark, log_metric)

    return math


def equals(response: str, gold: Any, opening: str = "") -> bool:
    r"""Say whether the response's final answer (see `rewards.final_answer`) equals the gold answer.

    Equal are: numbers of the same value, however written (`1/2`, `\frac{1}{2}`, `0.5`, `50\%`; `1,234`; `2 1/2`;
    `1.2e3`; `5 million`); with a unit or without one (`5\text{ cm}`, `18 eggs`, `45°`), but not with another one; a
    decimal and what it is near to, see `rewards.mathematics.compare`; expressions of the same value; equal sets, lists,
    tuples, intervals and matrices; `x = 5` and `5`; the same words. A percentage equals its hundredth, and, where both
    are whole numbers, its number, since data sets leave the sign out.

    An answer that leaves open what it means, `5 or 6`, is a list, and equals no number. Where the gold answer is a
    rational number, the answer must be a result: a sum, or a product of whole numbers, is the exercise repeated and
    equals nothing. Raises ValueError for a gold answer that cannot be one.
    """
    return _compared((response, opening, *_key(gold))).is_equal


def _compared(question: tuple[str, str, str, bool]) -> _Verdict:
    """Compare a text, with what the prompt has begun of it, and a gold answer, which may be JSON."""
    text, opening, gold, is_json = question
    return _verdict(final_answer(text, opening), gold, is_json)


@functools.lru_cache(maxsize=1 << 14)
def _verdict(answer: FinalAnswer, gold: str, is_json: bool) -> _Verdict:
    """Compare. A group gives the same few answers again and again."""
    right = _gold(gold, is_json)
    parts, raised = answer.parts, ""
    try:
        if answer.how != "box" and parts and not isinstance(right, Text):
            parts = tuple(prose.mathematics_in(parts[0], is_told=answer.how != "all"))
        value = listed(parts) if parts else None
        is_equal = value is not None and compare.equal(right, value)
    except Exception as error:  # what sympy and deep brackets raise: the answer is none, and costs nobody else his mark
        is_equal, raised = False, f"comparing it raised {type(error).__name__}: {error}"
    return _Verdict(is_equal=is_equal, read=", ".join(parts)[:LONGEST_READ], raised=raised[:LONGEST_READ])


def _spoilt(found: _Verdict | Spoilt | Lost) -> _Verdict | Spoilt | Lost:
    """Return a verdict that raised as an answer that could not be read."""
    if isinstance(found, _Verdict) and found.raised:
        return Spoilt(how="raised", detail=found.raised, read=found.read)
    return found


def _mark(found: _Verdict) -> Mark:
    return Mark(value=float(found.is_equal), read=found.read)


def _key(gold: Any) -> tuple[str, bool]:
    """Return a gold answer as text that caches can hold, and whether it is JSON."""
    gold = gold.tolist() if hasattr(gold, "tolist") else gold
    return (gold, False) if isinstance(gold, str) else (json.dumps(gold, default=str), True)


@functools.lru_cache(maxsize=1 << 12)
def _gold(gold: str, is_json: bool) -> Value:
    return gold_value(json.loads(gold) if is_json else gold)
