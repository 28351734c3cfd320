r"""Rational numbers from LaTeX, exactly: `\frac{1}{2004!}`, `1.6\times10^{-19}`, `2 1/2`, `-1+3^{100}`.

What holds a letter, a root or anything else that is no arithmetic is not read here; `algebra` has math-verify for that.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

TOLERANCE = Fraction(1, 10**6)
PRINTED_DIGITS, PRINTED = 15, Fraction(1, 10**14)
MAX_BITS = 1 << 16
"""Larger numbers are left to `algebra`, whose time is limited."""
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[1-9]\d{0,2}(?:,\d{3})+(?!\d)|[1-9]\d{0,2}(?: \d{3})+(?![\d/])|\d+)(?:\.\d*)?"
    r"(?:[eE][+-]?\d+(?![\d.]))?"
    r"|\.\d+(?:[eE][+-]?\d+)?)"
    r"|(?P<command>\\(?:frac|binom|times|cdot|div)(?![a-z]))|(?P<sign>[-+*/^!(){}\[\]]))"
)
_REPEATING = re.compile(
    r"(?<![\d.])(\d*)\.(\d*?)(?:\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))|\((\d+)\)|(\d)\6{2,}\s*\.\.\.)(?!\d)"
)
_TUPLE = re.compile(r"[(\[][^()\[\]]*,")
_TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rational:
    """A number, and what it was written as."""

    value: Fraction
    is_decimal: bool = False
    """Whether it was written with places behind a point, so that it may stand for a number that it is only near to."""
    num_digits: int = 0
    """Digits of a decimal."""
    is_exercise: bool = False
    """Whether work is left to be done: a sum, or a product of whole numbers."""
    is_plain: bool = False
    """Whether it is one number as it is written, a sign aside."""


class _NoArithmeticError(Exception):
    """The text is not arithmetic, or its numbers are too large."""


def rational(text: str) -> Rational | None:
    """Return the rational number that a cleaned text is, or None."""
    if _TUPLE.search(text):
        return None
    text = _TIMES_TEN.sub(r"\\times ", text)
    text = _REPEATING.sub(_as_fraction, text)
    try:
        reader = _Reader(text)
        found = reader.total()
        return found if reader.is_at_end() else None
    except (_NoArithmeticError, ZeroDivisionError, RecursionError, ValueError):  # ValueError: 4300 digits
        return None


def near(one: Rational, one_value: Fraction, other: Rational, other_value: Fraction) -> bool:
    """Say whether two rational numbers are equal, or, by what they were written as, near enough."""
    if one_value == other_value:
        return True
    decimals = [number for number in (one, other) if number.is_decimal]
    exact = [value for number, value in ((one, one_value), (other, other_value)) if not number.is_decimal]
    difference, size = abs(one_value - other_value), max(abs(one_value), abs(other_value))
    if any(number.num_digits >= PRINTED_DIGITS for number in decimals) and difference <= PRINTED * size:
        return True
    if not decimals or not exact or exact[0].denominator == 1:
        return False
    return difference <= max(size / 10**9, min(TOLERANCE, 100 * TOLERANCE * size))


def _as_fraction(match: re.Match[str]) -> str:
    whole, places = match[1] or "0", match[2]
    again = next(filter(None, match.groups()[2:]))
    over = int(whole + places + again) - int(whole + places)
    return rf"\frac{{{over}}}{{{(10 ** len(again) - 1) * 10 ** len(places)}}}"


class _Reader:
    """Reads by descent: total = product + product ..., product = power * power ..., power = atom ! ^ power."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        text = text.strip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None or len(self._tokens) > 200:
                raise _NoArithmeticError
            kind = found.lastgroup or ""
            self._tokens.append((kind, found[kind]))
            at = found.end()
        self._at = 0

    def is_at_end(self) -> bool:
        return self._at == len(self._tokens)

    def total(self) -> Rational:
        found = self._product()
        while (sign := self._take("+", "-")) is not None:
            other = self._product()
            value = found.value + other.value if sign == "+" else found.value - other.value
            found = _made(value, found, other, is_exercise=True)
        return found

    def _product(self) -> Rational:
        sign = self._take("-", "+")
        found = self._power()
        if sign == "-":
            found = Rational(
                value=-found.value,
                is_decimal=found.is_decimal,
                num_digits=found.num_digits,
                is_exercise=found.is_exercise,
                is_plain=found.is_plain,
            )
        factors = int(found.is_plain and abs(found.value) != 1 and found.value.denominator == 1)
        while True:
            by = self._take("*", "/", r"\times", r"\cdot", r"\div")
            if by is None and self._peek() not in ("(", "[", r"\frac", r"\binom", "{"):
                return found
            if by is None and found.is_plain and self._peek() == r"\frac":
                found = self._mixed(found)
                continue
            is_negative = by is not None and self._take("-") is not None
            other = self._power()
            value = found.value / other.value if by in ("/", r"\div") else found.value * other.value
            if by != "/" and other.is_plain and abs(other.value) != 1 and other.value.denominator == 1:
                factors += by != r"\div"
            is_ratio = by == "/" and found.is_plain and other.is_plain and not is_negative
            is_exercise = factors > 1 or by == r"\div" or found.is_exercise or other.is_exercise
            found = _made(-value if is_negative else value, found, other, is_exercise=is_exercise)
            if is_ratio and self._peek() is None:
                return found

    def _mixed(self, whole: Rational) -> Rational:
        r"""Read `2\frac{1}{2}`; of an improper fraction it is a product, which nobody means."""
        part = self._power()
        if not 0 < part.value < 1 or whole.value.denominator != 1:
            raise _NoArithmeticError
        return _made(whole.value + (part.value if whole.value >= 0 else -part.value), whole, part)

    def _power(self) -> Rational:
        base = self._atom()
        while self._take("!") is not None:
            if base.value.denominator != 1 or not 0 <= base.value <= 5000:
                raise _NoArithmeticError
            base = Rational(value=Fraction(math.factorial(int(base.value))))
        if self._take("^") is None:
            return base
        exponent = self._exponent()
        size = max(base.value.numerator.bit_length(), base.value.denominator.bit_length()) * abs(exponent)
        if size > MAX_BITS:
            raise _NoArithmeticError
        return Rational(value=base.value**exponent, is_exercise=base.is_exercise)

    def _exponent(self) -> int:
        sign = self._take("-", "+")
        found = self._power()
        if found.value.denominator != 1:
            raise _NoArithmeticError
        return int(-found.value if sign == "-" else found.value)

    def _atom(self) -> Rational:
        kind, token = self._next()
        if kind == "number":
            return self._number(token)
        if token == r"\frac":
            over, under = self._braced(), self._braced()
            return _made(over.value / under.value, over, under, is_exercise=over.is_exercise or under.is_exercise)
        if token == r"\binom":
            top, bottom = self._braced(), self._braced()
            if (
                top.value.denominator != 1
                or bottom.value.denominator != 1
                or not 0 <= bottom.value <= top.value <= 5000
            ):
                raise _NoArithmeticError
            return Rational(value=Fraction(math.comb(int(top.value), int(bottom.value))))
        closing = {"(": ")", "[": "]", "{": "}"}.get(token)
        if closing is None:
            raise _NoArithmeticError
        found = self.total()
        self._expect(closing)
        return found

    def _braced(self) -> Rational:
        self._expect("{")
        found = self.total()
        self._expect("}")
        return found

    def _number(self, token: str) -> Rational:
        digits, _, exponent = token.replace(",", "").replace(" ", "").lower().partition("e")
        if abs(int(exponent or 0)) > MAX_BITS // 4:
            raise _NoArithmeticError
        whole, _, places = digits.partition(".")
        value = Fraction(int(whole + places or 0), 10 ** len(places)) * Fraction(10) ** int(exponent or 0)
        is_mixed = self._peek_kind() == "number" and not places and not exponent
        if is_mixed:  # 2 1/2
            return self._mixed_plain(value)
        num_digits = len((whole + places).lstrip("0"))
        return Rational(value=value, is_decimal=bool(places or exponent), num_digits=num_digits, is_plain=True)

    def _mixed_plain(self, whole: Fraction) -> Rational:
        over, slash, under = (self._next()[1] for _ in range(3))
        if slash != "/" or not (over.isdigit() and under.isdigit()) or not 0 < int(over) < int(under):
            raise _NoArithmeticError
        return Rational(value=whole + Fraction(int(over), int(under)))

    def _take(self, *tokens: str) -> str | None:
        token = self._peek()
        if token is None or token not in tokens:
            return None
        self._at += 1
        return token

    def _peek(self) -> str | None:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else None

    def _peek_kind(self) -> str | None:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else None

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise _NoArithmeticError
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, token: str) -> None:
        if self._take(token) is None:
            raise _NoArithmeticError


def _made(value: Fraction, *of: Rational, is_exercise: bool = False) -> Rational:
    """Return what comes of an operation: a decimal if one of the two is."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _NoArithmeticError
    decimals = [one for one in of if one.is_decimal]
    return Rational(
        value=value,
        is_decimal=bool(decimals),
        num_digits=max((one.num_digits for one in decimals), default=0),
        is_exercise=is_exercise,
    )
