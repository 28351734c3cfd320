r"""What an answer can be: a number, words, a list, a tuple, an interval, a matrix, an equation, an expression.

A list is what is written with commas, *and* or *or*: solutions, whose order says nothing. A tuple, `(3,4)`, has one.
`reading` makes values, `compare` compares them.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from rewards.mathematics.rational import Rational
from rewards.mathematics.units import Quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A rational number, with its unit."""

    value: Fraction
    """Multiplied by the words that multiply it: `5 million` is 5000000."""
    rational: Rational
    quantity: Quantity
    latex: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """Something for math-verify."""

    latex: str
    """Without its unit."""
    quantity: Quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Words, or what else is no mathematics; equal where it is the same but for case, spaces and punctuation."""

    key: str
    latex: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Several values."""

    kind: Literal["list", "set", "tuple"]
    items: tuple["Value", ...]
    latex: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """An interval."""

    left: "Value"
    right: "Value"
    left_closed: bool
    right_closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Union:
    """Intervals and sets together."""

    items: tuple["Value", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Rows of values, all of one length."""

    rows: tuple[tuple["Value", ...], ...]
    latex: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """`2:3`, or a time of day."""

    items: tuple["Value", ...]
    told: str
    """Words behind it, such as pm."""
    is_clock: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """An equation or inequality that names no single value: `x^2 + y^2 = 9`."""

    members: tuple[str, ...]
    signs: tuple[str, ...]
    latex: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """`x = 5`, `f(x) = x^2`, `x > 3`."""

    name: str
    value: "Value"
    relation: Relation


Value = Number | Expression | Text | Parts | Span | Union | Matrix | Ratio | Relation | Named

_INFINITE = re.compile(r"[-+]?\s*\\infty")
_LETTERS = re.compile(r"[A-Za-z]{1,4}")


def expression(latex: str) -> Expression:
    """Return an expression without a unit."""
    return Expression(latex=latex, quantity=Quantity(core=latex))


def infinite(value: Value) -> int:
    r"""Return 1 for `\infty`, -1 for the other one, 0 for what is finite."""
    if not isinstance(value, Expression) or not _INFINITE.fullmatch(value.latex):
        return 0
    return -1 if value.latex.startswith("-") else 1


def is_letters(value: Text) -> bool:
    """Say whether a word may as well be a product of letters, where it meets an expression."""
    return _LETTERS.fullmatch(value.latex) is not None
