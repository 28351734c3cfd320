r"""Expressions, compared by math-verify's parser and by value: what is no arithmetic of rational numbers.

Constants are compared to 45 digits, relative to their size, and what has letters at several points: math-verify rounds
differences to 15 digits after the point, and finds that $\pi/10^{20}$ is $e/10^{20}$. What has no value is left to it.
"""

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

DIGITS, SAME, NOTHING = 60, Fraction(1, 10**45), 1e-55
POINTS = (
    ("0.7314159", "1.3182818"),
    ("1.9142135", "0.4571428"),
    ("2.6180339", "3.1622776"),
    ("-1.2360679", "-0.6457513"),
)
"""Values that letters are given in turn; at the last ones only what is real on both sides must agree."""


def same(one: str, other: str, tolerance: float | None) -> bool:
    """Say whether two expressions are equal; within a tolerance where one of them is not exact."""
    forms = form(one), form(other)
    if forms[0] is None or forms[1] is None:
        return False
    verdict = _by_value(forms[0], forms[1], tolerance)
    return _verified(forms[0], forms[1]) if verdict is None else verdict


def is_exercise(latex: str) -> bool:
    """Say whether work is left to be done: a sum, or a sum times something."""
    found = form(latex)
    is_sum = bool(getattr(found, "is_Add", False))
    return is_sum or bool(getattr(found, "is_Mul", False) and any(factor.is_Add for factor in found.args))


def same_relation(
    one: Sequence[str], one_signs: Sequence[str], other: Sequence[str], other_signs: Sequence[str]
) -> bool:
    """Say whether two equations, or two inequalities, of two sides say the same: one a multiple of the other."""
    sides = [form(text) for text in (*one, *other)]
    if any(side is None for side in sides) or len(sides) != 4:
        return False
    kinds = {"<": ("<", 1), ">": ("<", -1), r"\le": ("<=", 1), r"\ge": ("<=", -1), "=": ("=", 0), r"\neq": ("!=", 0)}
    if one_signs[0] not in kinds or other_signs[0] not in kinds:
        return False
    (kind, turn), (other_kind, other_turn) = kinds[one_signs[0]], kinds[other_signs[0]]
    if kind != other_kind:
        return False
    try:
        differences = sides[0] - sides[1], sides[2] - sides[3]
    except Exception:  # sympy raises whatever it likes for what cannot be subtracted
        return False
    ratios = _ratios(*differences)
    if len(ratios) < 3 or any(abs(ratio - ratios[0]) > 1e-20 * abs(ratios[0]) for ratio in ratios):
        return False
    return turn == 0 or bool(ratios[0] * turn * other_turn > 0)


@functools.lru_cache(maxsize=1 << 12)
def form(latex: str) -> Any:
    """Return math-verify's form of an expression, or None."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    whole = NormalizationConfig(  # as math-verify has it, but that it takes the last letter of `3s+2m` for a unit
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
    )
    rules = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=whole)]
    found = parse(rf"\boxed{{{latex}}}", rules, fallback_mode="no_fallback", parsing_timeout=None)
    return found[0] if found else None


def _verified(one: Any, other: Any) -> bool:
    from math_verify import verify

    return bool(verify([one], [other], timeout_seconds=None))


def _letters(*found: Any) -> list[str]:
    """Return the names of the letters in expressions, but for i."""
    return sorted({one.name for each in found for one in getattr(each, "free_symbols", ()) if one.name != "i"})


def _by_value(one: Any, other: Any, tolerance: float | None) -> bool | None:
    """Compare at points; None where that says nothing."""
    letters = _letters(one, other)
    num_equal = 0
    for at, point in enumerate(POINTS if letters else POINTS[:1]):
        given = _assigned(letters, point)
        values = _evaluated(one, given), _evaluated(other, given)
        if values[0] is None or values[1] is None:
            if at == 0:
                return None
            continue
        if at == len(POINTS) - 1 and not (values[0].is_real and values[1].is_real):
            continue
        if not near(values[0], values[1], tolerance):
            return False
        num_equal += 1
    return True if num_equal >= (2 if letters else 1) else None


def near(one: Any, other: Any, tolerance: float | None) -> bool:
    """Say whether two sympy numbers are equal, or near where one of them is a decimal."""
    difference, size = abs(one - other), max(abs(one), abs(other))
    if tolerance is None:
        is_zero = 0 in (one, other) and difference < NOTHING  # sin(pi), evaluated, is not quite 0
        return bool(is_zero or difference <= size * SAME.numerator / SAME.denominator)
    return bool(difference <= max(1e-9 * size, min(tolerance, 100 * tolerance * size)))


def _assigned(letters: Sequence[str], point: Sequence[str]) -> dict[str, Any]:
    """Return a value for each letter, all different."""
    from sympy import Float, I

    start, step = Float(point[0], 2 * DIGITS), Float(point[1], 2 * DIGITS)
    return {"i": I, **{letter: start + step * at / (at + 2) for at, letter in enumerate(letters)}}


def _evaluated(found: Any, given: dict[str, Any]) -> Any:
    """Return the value as a number, or None."""
    try:
        value = found.subs({one: given[one.name] for one in found.free_symbols}).evalf(DIGITS)
        return value if value.is_number and value.is_finite else None
    except Exception:  # sympy raises whatever it likes for what has no value
        return None


def _ratios(one: Any, other: Any) -> list[Any]:
    """Return the first's value by the second's at each point where both have one; none for other letters."""
    letters = _letters(one)
    if not letters or letters != _letters(other):
        return []
    found = []
    for point in POINTS:
        given = _assigned(letters, point)
        values = _evaluated(one, given), _evaluated(other, given)
        if None not in values and 0 not in values:
            found.append(values[0] / values[1])
    return found
