r"""Angles in degrees against angles in radians: `60^\circ` is $\pi/3$. A bare number is never in degrees."""

import re

from rewards.mathematics import algebra
from rewards.mathematics.rational import TOLERANCE
from rewards.mathematics.values import Expression, Number

_DECIMAL = re.compile(r"\d*\.\d")
_TURN = re.compile(r"\\pi(?![a-z])|\\arc")


def are_two_measures(one: Number | Expression, other: Number | Expression) -> bool:
    r"""Say whether one is told in degrees and the other in radians, by that word or by $\pi$."""
    degrees, others = (one, other) if one.quantity.angle == "degree" else (other, one)
    if degrees.quantity.angle != "degree" or others.quantity.angle == "degree":
        return False
    has_pi = isinstance(others, Expression) and _TURN.search(others.latex) and not others.quantity.unit
    return others.quantity.angle == "radian" or bool(has_pi)


def same_angle(gold: Number | Expression, answer: Number | Expression) -> bool:
    """Compare two such angles in radians."""
    sides = [
        rf"({told.core}) \cdot \frac{{\pi}}{{180}}" if told.angle == "degree" else told.core
        for told in (gold.quantity, answer.quantity)
    ]
    is_exact = not any(map(_DECIMAL.search, sides))
    return algebra.same(sides[0], sides[1], None if is_exact else float(TOLERANCE))
