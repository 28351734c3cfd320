"""The math reward: is the final answer the gold answer? By math-verify, as mathematics, not text."""

import functools
import logging
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from rewards.final_answer import BOX, last_box, missing
from rewards.types import Mark, RewardFunction

if TYPE_CHECKING:
    from rewards.config import MathRewardConfig

_DECIMAL = re.compile(r"(-?)(\d{1,12}|\d{1,3}(?:,\d{3}){1,3})(?:\.(\d{1,6}))?")
_FRACTION = re.compile(r"(-?)(?:\\[dt]?frac\{(\d{1,12})\}\{(\d{1,12})\}|(\d{1,12})/(\d{1,12}))")
ANSWER_LIMIT_S, GROUP_LIMIT_S, LEAST_LIMIT_S = 2.0, 8.0, 0.1
"""Seconds that one answer may take to parse and compare; all of a group; and each that is left after these."""


class _TooSlowError(BaseException):
    """Raised by the alarm. Not an Exception, because math-verify turns those into 'not equal'."""


def load(config: "MathRewardConfig") -> RewardFunction:
    r"""Import math-verify (half a second) and return a reward: 1.0 where the answer equals gold, else 0.0.

    The gold answer is `config.answer_column`, bare (`633`, `\frac{1}{2}`) or in a box. An answer that cannot
    be compared within two seconds, such as `2^{10^{10}}`, is not wrong but not scored.
    """
    import math_verify  # noqa: F401 - a worker pays for it at its start, not in its first group

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we hold the clock; we know
    column = config.answer_column
    equals(BOX + "1}", "1")  # the first parse builds tables

    def math(prompts: list[Any], completions: list[Any], **columns: list[Any]) -> list[float | Mark]:
        if column not in columns:
            raise missing(column, columns)
        texts = [turns[-1]["content"] for turns in completions]
        end = time.monotonic() + GROUP_LIMIT_S
        return [_mark(text, str(gold), end) for text, gold in zip(texts, columns[column], strict=True)]

    return math


def _mark(response: str, gold: str, end: float) -> float | Mark:
    """Return 1.0, 0.0, or what says that the answer takes too long."""
    limit_s = max(LEAST_LIMIT_S, min(ANSWER_LIMIT_S, end - time.monotonic()))
    try:
        with _time_limit(limit_s):
            return float(equals(response, gold))
    except _TooSlowError:
        return Mark(cause="timeout", detail=f"the answer could not be compared within {limit_s:.1f} s")


def equals(response: str, gold: str) -> bool:
    r"""Say whether the response's final answer equals the gold answer.

    The final answer is what the last `\boxed{...}` holds, or the last expression where there is no box. Equal
    are: numbers of the same value, however written (`1/2`, `\frac{1}{2}`, `0.5`, `50\%`; `1,234`; `5\text{
    cm}` is 5); decimals that agree to six places where one side is not exact; expressions that simplify to
    each other; equal sets, intervals and matrices; `x = 5` and `5`; the same text. An open box, an empty one,
    or none with anything that can be parsed, equals nothing.

    Where the gold answer is a rational number, the answer must be a result: a sum, or a product of whole
    numbers, is the exercise repeated and equals nothing. Raises ValueError for a gold answer that cannot be
    parsed.
    """
    if BOX not in response:
        return _are_equal(response, gold)
    return _boxed_equals(last_box(response), gold)  # of two boxes near each other math-verify would make one number


@functools.lru_cache(maxsize=1 << 14)
def _boxed_equals(box: str, gold: str) -> bool:
    """Compare what is left of a response once its last box is found; a group gives the same few again and again."""
    answer = box.removeprefix(BOX).removesuffix("}").strip()
    for plain in (_decimal, _fraction):  # a fraction and a decimal may be equal without being the same
        number, gold_number = plain(answer), plain(gold.strip())
        if number is not None and gold_number is not None:
            return number == gold_number
    return _are_equal(box, gold)


def _decimal(text: str) -> Fraction | None:
    """Return the number that a text is, where it is a whole one or has up to six places; nothing needs to be parsed."""
    match = _DECIMAL.fullmatch(text)
    if match is None:
        return None
    sign, whole, places = match.groups(default="")
    return Fraction(int(sign + whole.replace(",", "") + places), 10 ** len(places))


def _fraction(text: str) -> Fraction | None:
    """Return the number that a text is, where it is one whole number over another."""
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    sign, over, under = match[1], match[2] or match[4], int(match[3] or match[5])
    return Fraction(int(sign + over), under) if under else None


def _are_equal(response: str, gold: str) -> bool:
    from math_verify import verify

    gold_forms = _gold_forms(gold)
    forms = _parse(response)
    if forms and _is_rational(gold_forms[0]) and _is_exercise(forms[0]):
        return False
    return bool(verify(list(gold_forms), forms, timeout_seconds=None))


@functools.lru_cache(maxsize=1 << 12)
def _gold_forms(gold: str) -> tuple[Any, ...]:
    forms = tuple(_parse(gold if BOX in gold else f"{BOX}{gold}}}"))
    if not forms:
        raise ValueError(f"the gold answer {gold!r} cannot be parsed; it must be one mathematical expression")
    return forms


def _parse(text: str) -> list[Any]:
    """Parse the final answer into math-verify's forms, the expression first; empty where there is none."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    rules = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return list(parse(text, rules, extraction_mode="first_match", parsing_timeout=None))


def _is_rational(form: Any) -> bool:
    return bool(getattr(form, "is_Rational", False))


def _is_exercise(form: Any) -> bool:
    """Say whether work is left to be done: a sum, a sum times something, or a product of whole numbers."""
    if getattr(form, "is_Add", False):
        return True
    if not getattr(form, "is_Mul", False):
        return False
    whole = [factor for factor in form.args if factor.is_Integer]
    multiplied = len(whole) == len(form.args) and sum(abs(factor) != 1 for factor in whole) > 1
    return multiplied or any(factor.is_Add for factor in form.args)


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
