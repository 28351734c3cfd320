"""The math reward: is the final answer the gold answer? By value, as mathematics, not text."""

import functools
import json
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rewards.final_answer import FinalAnswer, final_answer, last_turns
from rewards.mathematics import compare, prose
from rewards.mathematics.gold import gold_value
from rewards.mathematics.reading import listed
from rewards.mathematics.values import Text, Value
from rewards.types import LogMetric, Mark, RewardFunction

if TYPE_CHECKING:
    from rewards.config import MathRewardConfig

ANSWER_LIMIT_S, GROUP_LIMIT_S, LEAST_LIMIT_S = 2.0, 8.0, 0.1
"""Seconds that one answer may take to parse and compare; all of a group; and each that is left after these."""


class _TooSlowError(BaseException):
    """Raised by the alarm. Not an Exception, because math-verify turns those into 'not equal'."""


def load(config: "MathRewardConfig") -> RewardFunction:
    r"""Import math-verify (half a second) and return a reward: 1.0 where the answer equals gold, else 0.0.

    The gold answer is `config.answer_column`, bare (`633`, `\frac{1}{2}`), in a box, or GSM8K's whole column; see
    `equals`. An answer that cannot be compared within two seconds is not wrong but not scored.
    """
    import math_verify  # noqa: F401 - a worker pays for it at its start, not in its first group

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we hold the clock; we know
    column = config.answer_column
    equals(r"\boxed{\sqrt{2}}", r"\sqrt{3}")  # the first parse builds tables

    def math(
        prompts: list[Any],
        completions: list[Any],
        openings: list[str] | None = None,
        log_metric: LogMetric = lambda name, value: None,
        **columns: list[Any],
    ) -> list[Mark]:
        answers = [final_answer(text, opening) for text, opening in last_turns(completions, openings)]
        end = time.monotonic() + GROUP_LIMIT_S
        marks = [_mark(answer, gold, end) for answer, gold in zip(answers, columns[column], strict=True)]
        log_metric("raised/count", sum(bool(mark.detail) for mark in marks if mark.cause == "ok"))
        return marks

    return math


def _mark(answer: FinalAnswer, gold: Any, end: float) -> Mark:
    """Return 1.0 or 0.0, or what says that the answer takes too long, with what was read."""
    limit_s = max(LEAST_LIMIT_S, min(ANSWER_LIMIT_S, end - time.monotonic()))
    try:
        with _time_limit(limit_s):
            is_equal, read, raised = _verdict(answer, *_key(gold))
            return Mark(value=float(is_equal), detail=raised, read=read)
    except _TooSlowError:
        detail = f"the answer could not be compared within {limit_s:.1f} s"
        return Mark(cause="timeout", detail=detail, read=", ".join(answer.parts))


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
    return _verdict(final_answer(response, opening), *_key(gold))[0]


@functools.lru_cache(maxsize=1 << 14)
def _verdict(answer: FinalAnswer, gold: str, is_json: bool) -> tuple[bool, str, str]:
    """Compare; say what was read, and what comparing raised. A group gives the same few answers again and again."""
    right = _gold(gold, is_json)
    parts, raised = answer.parts, ""
    try:
        if answer.how != "box" and parts and not isinstance(right, Text):
            parts = tuple(prose.mathematics_in(parts[0], is_told=answer.how != "all"))
        value = listed(parts) if parts else None
        is_equal = value is not None and compare.equal(right, value)
    except Exception as error:  # what sympy and deep brackets raise: the answer is none, and costs nobody else his mark
        is_equal, raised = False, f"comparing it raised {type(error).__name__}: {error}"
    return is_equal, ", ".join(parts), raised


def _key(gold: Any) -> tuple[str, bool]:
    """Return a gold answer as text that caches can hold, and whether it is JSON."""
    gold = gold.tolist() if hasattr(gold, "tolist") else gold
    return (gold, False) if isinstance(gold, str) else (json.dumps(gold, default=str), True)


@functools.lru_cache(maxsize=1 << 12)
def _gold(gold: str, is_json: bool) -> Value:
    return gold_value(json.loads(gold) if is_json else gold)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise _TooSlowError in the block after so many seconds.

    Alarms reach main threads only. Elsewhere there is no limit but the worker's deadline, as for C code that
    holds on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGALRM, _raise_too_slow)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _raise_too_slow(signum: int, frame: object) -> None:
    raise _TooSlowError
