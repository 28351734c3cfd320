"""Is what a program printed, or a function returned, what a test wants? Numbers by value, all else letter by letter.

As in LiveCodeBench (Jain et al. 2024, arXiv 2403.07974) outputs are compared line by line, and numbers as decimals of
any size: 2.5 is 2.50, and 50000000000000000 is not 50000000000000001. What differs from it: any number of spaces may
lie between words, decimals may be off by what rounding and binary fractions do to them, and 007 is not 7.
"""

import json
import re
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, DecimalException
from typing import Any

_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*|(?=\.[0-9]))(\.[0-9]*)?([eE][+-]?[0-9]+)?")
"""As programs print them; 007 and 0101 are not numbers but codes, 1_000 and 1,000 are text."""
RELATIVE = Decimal("1e-9")
"""How far a decimal may be off by the way it was computed; where zero is wanted, this is absolute."""
LEAST_PLACES = 5
"""A decimal is rounded, or cut, to the places of the wanted one if that has so many, for then it was printed so."""


def same_output(answer: str, wanted: str) -> bool:
    """Say whether two outputs have the same lines of the same words and numbers.

    Spaces between words and at the ends of lines are no difference, nor are empty lines before the first and after the
    last. Where spaces are what matters, as in drawings, use `exact_output`.
    """
    lines, wanted_lines = answer.strip().split("\n"), wanted.strip().split("\n")
    return len(lines) == len(wanted_lines) and all(map(_same_line, lines, wanted_lines))


def exact_output(answer: str, wanted: str) -> bool:
    """Say whether two outputs are the same to the last character, but for a newline at the end of one of them."""
    return answer.removesuffix("\n") == wanted.removesuffix("\n")


def _same_line(answer: str, wanted: str) -> bool:
    words, wanted_words = answer.split(), wanted.split()
    return len(words) == len(wanted_words) and all(map(same_word, words, wanted_words))


def same_word(answer: str, wanted: str) -> bool:
    """Say whether two words are the same text or, both being numbers, the same number.

    A whole number is wanted exactly, however many digits it has: 3.0 is 3, and 2.9999999999 is not. A decimal may be
    off by one in a billion, and is rounded or cut where the wanted one has at least five places. `inf` and `nan` are
    words, and 1e400 is a number.
    """
    if answer == wanted:
        return True
    if not (_NUMBER.fullmatch(answer) and _NUMBER.fullmatch(wanted)):
        return False
    exact = Context(prec=len(answer) + len(wanted) + 32, Emax=MAX_EMAX, Emin=MIN_EMIN)
    try:
        number, wanted_number = exact.create_decimal(answer), exact.create_decimal(wanted)
        if number == wanted_number:
            return True
        if re.fullmatch(r"[+-]?[0-9]+", wanted):
            return False
        error = exact.abs(exact.subtract(number, wanted_number))
        if error <= exact.multiply(RELATIVE, exact.abs(wanted_number) or Decimal(1)):
            return True
        return _is_rounded_to(number, wanted_number, exact)
    except DecimalException:  # an exponent beyond all bounds
        return False


def _is_rounded_to(number: Decimal, wanted: Decimal, exact: Context) -> bool:
    places = -int(wanted.as_tuple().exponent)
    if places < LEAST_PLACES or number.adjusted() > wanted.adjusted() + 1:
        return False
    unit = Decimal((0, (1,), -places))
    ways = ("ROUND_HALF_EVEN", "ROUND_HALF_UP", "ROUND_DOWN")
    return any(number.quantize(unit, way, exact) == wanted for way in ways)


class _Number(str):
    """A number as JSON writes it."""


def parsed(text: str) -> Any:
    """Return the value of JSON, numbers as they are written. Raises ValueError, RecursionError."""
    return json.loads(text, parse_float=_Number, parse_int=_Number, parse_constant=str)


def same_value(answer: Any, wanted: Any, *, exact: bool = False) -> bool:
    """Say whether two values that `parsed` made are the same; numbers as `same_word` has them, or by value alone.

    True is 1, as in Python.
    """
    answer, wanted = (_Number(int(one)) if isinstance(one, bool) else one for one in (answer, wanted))
    if isinstance(answer, list) and isinstance(wanted, list):
        return len(answer) == len(wanted) and all(
            same_value(one, other, exact=exact) for one, other in zip(answer, wanted, strict=True)
        )
    if isinstance(answer, dict) and isinstance(wanted, dict):
        return answer.keys() == wanted.keys() and all(
            same_value(value, wanted[name], exact=exact) for name, value in answer.items()
        )
    if isinstance(answer, _Number) and isinstance(wanted, _Number):
        return Decimal(answer) == Decimal(wanted) if exact else same_word(answer, wanted)
    return type(answer) is type(wanted) and bool(answer == wanted)
