r"""Are two values equal? Numbers by value, words as words, lists without order, tuples with it.

Exact numbers have no tolerance. A decimal meets what is no decimal, a fraction or a root, within 10^-6, or within a
ten-thousandth of it where it is below a hundredth, or in nine digits where it is above a thousand. Decimals of 15
digits and more, which computers print, are equal where they agree in 14.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import product

from rewards.mathematics import algebra
from rewards.mathematics.rational import Rational, rational
from rewards.mathematics.reading import read
from rewards.mathematics.units import convertible
from rewards.mathematics.values import (
    Expression,
    Matrix,
    Named,
    Number,
    Parts,
    Ratio,
    Relation,
    Span,
    Text,
    Union,
    Value,
    expression,
    infinite,
    is_letters,
)

TOLERANCE = Fraction(1, 10**6)
PRINTED_DIGITS, PRINTED = 15, Fraction(1, 10**14)
_DECIMAL = re.compile(r"\d*\.\d")
_COMMA_DECIMAL = re.compile(r"-?\d+,\d+")


def equal(gold: Value, answer: Value) -> bool:
    """Say whether an answer is the gold one. Of a plain gold number it must be a result: `2+3` is not 5."""
    if isinstance(gold, Named) or isinstance(answer, Named):
        return _named(gold, answer)
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _relations(gold, answer)
    if isinstance(gold, Union) or isinstance(answer, Union) or _are_spans(gold) or _are_spans(answer):
        return _matched(_pieces(gold), _pieces(answer))
    if isinstance(gold, Parts) or isinstance(answer, Parts):
        return _parts(gold, answer)
    for kind, compare in _SAME_KIND:
        if isinstance(gold, kind) and isinstance(answer, kind):
            return compare(gold, answer)
    if isinstance(gold, Number | Expression) and isinstance(answer, Number | Expression):
        return _expressions(gold, answer)
    if isinstance(gold, Ratio) or isinstance(answer, Ratio):
        return _ratio_and_number(gold, answer)
    if isinstance(gold, Matrix | Expression) and isinstance(answer, Matrix | Expression):
        return algebra.same(gold.latex, answer.latex, None)
    if isinstance(gold, Text) and isinstance(answer, Number | Expression):
        return is_letters(gold) and _expressions(expression(gold.latex), answer)
    if isinstance(gold, Number | Expression) and isinstance(answer, Text):
        return is_letters(answer) and _expressions(gold, expression(answer.latex))
    return False


def _numbers(gold: Number, answer: Number) -> bool:
    if answer.rational.is_exercise and not gold.rational.is_exercise:
        return False
    factor = convertible(answer.quantity, gold.quantity)
    if factor is None:
        return False
    if near(gold.rational, gold.value, answer.rational, answer.value * factor):
        return True
    percents = {gold.quantity.is_percent, answer.quantity.is_percent}
    bare = gold.rational.value, answer.rational.value  # percent as a unit: where 25 is asked for, 25% says it
    return len(percents) == 2 and bare[0] == bare[1] and bare[0].denominator == 1


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


def _expressions(gold: Number | Expression, answer: Number | Expression) -> bool:
    one, other = (value.quantity.core for value in (gold, answer))
    if infinite(gold) or infinite(answer):
        return infinite(gold) == infinite(answer)
    factor = convertible(answer.quantity, gold.quantity)
    if factor is None or gold.quantity.factor != answer.quantity.factor:
        return _same_text(one, other)
    if factor != 1:
        other = rf"({other}) \cdot \frac{{{factor.numerator}}}{{{factor.denominator}}}"
    is_exact = not (_DECIMAL.search(one) or _DECIMAL.search(other))
    is_result = isinstance(gold, Number) and is_exact and not gold.rational.is_exercise
    if is_result and isinstance(answer, Expression) and algebra.is_exercise(other):
        return False
    return _same_text(one, other) or algebra.same(_with_i(one), _with_i(other), None if is_exact else float(TOLERANCE))


def _with_i(latex: str) -> str:
    r"""Return a text in which 1i is i, which the parser takes for another number."""
    return re.sub(r"(?<![\d.])1\s*i(?![A-Za-z])", "i", latex)


def _same_text(one: str, other: str) -> bool:
    return re.sub(r"\s", "", one) == re.sub(r"\s", "", other)


def _texts(gold: Text, answer: Text) -> bool:
    return bool(gold.key) and gold.key == answer.key


def _named(gold: Value, answer: Value) -> bool:
    """Compare what has a name by its value; of two names, the same one, or two of which one is no letter."""
    if isinstance(gold, Named) and isinstance(answer, Named):
        names = [re.sub(r"\([^()]*\)$", "", one.name) or one.name for one in (gold, answer)]
        if names[0] == names[1] or max(map(len, names)) > 1:
            return equal(gold.value, answer.value) or _relations(gold.relation, answer.relation)
        return _relations(gold.relation, answer.relation)
    if isinstance(gold, Named):
        return _relations(gold.relation, answer) if isinstance(answer, Relation) else equal(gold.value, answer)
    assert isinstance(answer, Named)
    return _relations(gold, answer.relation) if isinstance(gold, Relation) else equal(gold, answer.value)


def _relations(gold: Relation, answer: Relation) -> bool:
    if _same_text(gold.latex, answer.latex):
        return True
    if len(gold.members) == len(answer.members) == 2 and len(gold.signs) == len(answer.signs) == 1:
        return algebra.same_relation(gold.members, gold.signs, answer.members, answer.signs)
    return algebra.same(gold.latex, answer.latex, None)


def _parts(gold: Value, answer: Value) -> bool:
    if not (isinstance(gold, Parts) and isinstance(answer, Parts)):
        return _part_and_other(gold, answer)
    if "tuple" in (gold.kind, answer.kind):
        return "set" not in (gold.kind, answer.kind) and _in_order(gold.items, answer.items)
    if gold.kind == answer.kind == "list" and _differently_named(gold.items) != _differently_named(answer.items):
        return _in_order([_unnamed(item) for item in gold.items], [_unnamed(item) for item in answer.items])
    return _matched(gold.items, answer.items)


def _part_and_other(gold: Value, answer: Value) -> bool:
    """Compare a list with something else: its only item, a vector, an open interval, or a number with a comma in it."""
    several, single = (gold, answer) if isinstance(gold, Parts) else (answer, gold)
    assert isinstance(several, Parts)
    if isinstance(single, Matrix):
        cells = [cell for row in single.rows for cell in row]
        is_vector = several.kind == "tuple" and 1 in (len(single.rows), len(single.rows[0]))
        return is_vector and _in_order(
            several.items if several is gold else cells, cells if several is gold else several.items
        )
    if isinstance(single, Span):
        is_open = not single.left_closed and not single.right_closed
        ends = (single.left, single.right)
        in_order = _in_order(*((several.items, ends) if several is gold else (ends, several.items)))
        return several.kind == "tuple" and is_open and in_order
    if several.kind == "tuple" or (isinstance(single, Expression) and r"\emptyset" in single.latex):
        return False
    if isinstance(single, Number) and _comma_means_point(several, single):
        return True
    if isinstance(single, Number) and several is gold and "," in single.latex:
        split = Parts(kind="list", items=tuple(filter(None, map(read, single.latex.split(",")))))
        return len(split.items) > 1 and _parts(gold, split)
    return bool(several.items) and all(
        equal(*((item, single) if several is gold else (single, item))) for item in several.items
    )


def _comma_means_point(several: Parts, single: Number) -> bool:
    """Say whether `1000,99` is written for the number 1000.99."""
    if not _COMMA_DECIMAL.fullmatch(several.latex) or not single.rational.is_decimal:
        return False
    point = rational(several.latex.replace(",", "."))
    return point is not None and point.value == single.value


def _in_order(gold: Sequence[Value], answer: Sequence[Value]) -> bool:
    return len(gold) == len(answer) and all(equal(one, other) for one, other in zip(gold, answer, strict=True))


def _matched(gold: Sequence[Value], answer: Sequence[Value]) -> bool:
    """Say whether each has its equal on the other side."""
    if len(gold) * len(answer) > 400:
        return _in_order(gold, answer)
    pairs = {(at, to) for (at, one), (to, other) in product(enumerate(gold), enumerate(answer)) if equal(one, other)}
    return {at for at, _ in pairs} == set(range(len(gold))) and {to for _, to in pairs} == set(range(len(answer)))


def _differently_named(items: Sequence[Value]) -> bool:
    """Say whether the items are values of different letters, whose order then tells which is which."""
    names = [re.sub(r"_\w+$", "", item.name) for item in items if isinstance(item, Named)]
    return len(names) == len(items) and len(set(names)) > 1


def _unnamed(value: Value) -> Value:
    return value.value if isinstance(value, Named) else value


def _are_spans(value: Value) -> bool:
    is_several = isinstance(value, Parts) and value.kind == "list" and len(value.items) > 1
    return is_several and all(isinstance(_unnamed(item), Span) for item in value.items)  # type: ignore[union-attr]


def _pieces(value: Value) -> list[Value]:
    items = value.items if isinstance(value, Union) or _are_spans(value) else (value,)  # type: ignore[union-attr]
    return [_unnamed(item) for item in items]


def _spans(gold: Span, answer: Span) -> bool:
    lefts, rights = (gold.left, answer.left), (gold.right, answer.right)
    closed = (gold.left_closed == answer.left_closed or infinite(gold.left) != 0) and (
        gold.right_closed == answer.right_closed or infinite(gold.right) != 0
    )
    return closed and equal(*lefts) and equal(*rights)


def _matrices(gold: Matrix, answer: Matrix) -> bool:
    return len(gold.rows) == len(answer.rows) and all(
        _in_order(one, other) for one, other in zip(gold.rows, answer.rows, strict=True)
    )


def _ratios(gold: Ratio, answer: Ratio) -> bool:
    if gold.told != answer.told and gold.told and answer.told and (gold.is_clock or answer.is_clock):
        return False
    if _in_order(gold.items, answer.items):
        return True
    if gold.is_clock or answer.is_clock or len(gold.items) != len(answer.items):
        return False
    numbers = [[item.value for item in ratio.items if isinstance(item, Number)] for ratio in (gold, answer)]
    if any(len(found) != len(gold.items) or 0 in found for found in numbers):
        return False
    return len({one / other for one, other in zip(*numbers, strict=True)}) == 1


def _ratio_and_number(gold: Value, answer: Value) -> bool:
    ratio, other = (gold, answer) if isinstance(gold, Ratio) else (answer, gold)
    if not isinstance(ratio, Ratio) or not isinstance(other, Number) or len(ratio.items) != 2:
        return False
    numbers = [item.value for item in ratio.items if isinstance(item, Number)]
    if len(numbers) != 2 or numbers[1] == 0 or other.value.denominator == 1:  # 16:1 is not what one says for 16
        return False
    return numbers[0] / numbers[1] == other.value


_SAME_KIND: Sequence[tuple[type, Callable[..., bool]]] = (
    (Number, _numbers),
    (Text, _texts),
    (Span, _spans),
    (Matrix, _matrices),
    (Ratio, _ratios),
)
