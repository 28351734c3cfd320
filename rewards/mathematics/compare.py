r"""Are two values equal? Numbers by value, words as words, lists without order, tuples with it.

Exact numbers have no tolerance. A decimal meets what is no decimal, a fraction or a root, within 10^-6, or within a
ten-thousandth of it where it is below a hundredth, or in nine digits where it is above a thousand. Decimals of 15
digits and more, which computers print, are equal where they agree in 14.
"""

import re
from collections.abc import Callable, Sequence
from itertools import product

from rewards.mathematics import algebra, angles, exercises, relations
from rewards.mathematics.rational import TOLERANCE, near, rational
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

_DECIMAL = re.compile(r"\d*\.\d")
_NOTHING = frozenset({"nosolution", "nosolutions", "norealsolution", "norealsolutions", "emptyset", "theemptyset"})
_COMMA_DECIMAL = re.compile(r"-?\d+,\d+")


def equal(gold: Value, answer: Value) -> bool:
    """Say whether an answer is the gold one. Of a plain gold number it must be a result: `2+3` is not 5."""
    if isinstance(gold, Named) or isinstance(answer, Named):
        return _named(gold, answer)
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _relations(gold, answer)
    if isinstance(gold, Relation | Number) and isinstance(answer, Relation | Number):
        one, other = (relations.combined(side, read) if isinstance(side, Relation) else side for side in (gold, answer))
        if one is not None and other is not None:
            return _single(one, other)
    if isinstance(gold, Union) or isinstance(answer, Union) or _are_spans(gold) or _are_spans(answer):
        return _matched(_pieces(gold), _pieces(answer))
    if isinstance(gold, Parts) or isinstance(answer, Parts):
        return _parts(gold, answer)
    if isinstance(gold, Number | Expression) and isinstance(answer, Number | Expression):
        return _single(gold, answer)
    for kind, compare in _SAME_KIND:
        if isinstance(gold, kind) and isinstance(answer, kind):
            return compare(gold, answer)
    if isinstance(gold, Ratio) or isinstance(answer, Ratio):
        return _ratio_and_number(gold, answer)
    if isinstance(gold, Matrix | Expression) and isinstance(answer, Matrix | Expression):
        return algebra.same(gold.latex, answer.latex, None)
    word = next((value for value in (gold, answer) if isinstance(value, Text)), None)
    sides = [expression(value.latex) if isinstance(value, Text) else value for value in (gold, answer)]
    if word is None or not isinstance(sides[0], Number | Expression) or not isinstance(sides[1], Number | Expression):
        return False
    if any(r"\emptyset" in side.latex for side in sides if isinstance(side, Expression)):
        return word.key in _NOTHING
    return is_letters(word) and _expressions(sides[0], sides[1])


def _single(gold: Number | Expression, answer: Number | Expression) -> bool:
    if angles.are_two_measures(gold, answer):
        return angles.same_angle(gold, answer)
    if isinstance(gold, Number) and isinstance(answer, Number):
        return _numbers(gold, answer)
    return _expressions(gold, answer)


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
    if isinstance(answer, Expression) and exercises.is_exercise(other, of=one, is_number_asked=is_result):
        return False
    return _same_text(one, other) or algebra.same(_with_i(one), _with_i(other), None if is_exact else float(TOLERANCE))


def _with_i(latex: str) -> str:
    r"""Return a text in which 1i is i, which the parser takes for another number."""
    return re.sub(r"(?<![\d.])1\s*i(?![A-Za-z])", "i", latex)


def _same_text(one: str, other: str) -> bool:
    return re.sub(r"\s", "", one) == re.sub(r"\s", "", other)


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
        return "set" not in (gold.kind, answer.kind) and _in_order(_by_name(gold.items), _by_name(answer.items))
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


def _by_name(items: Sequence[Value]) -> Sequence[Value]:
    """Return the values of letters in the order that a tuple has them, others as they are."""
    return sorted(items, key=lambda item: getattr(item, "name", "")) if _differently_named(items) else items


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
    (Text, lambda gold, answer: bool(gold.key) and gold.key == answer.key),
    (Span, _spans),
    (Matrix, _matrices),
    (Ratio, _ratios),
)
