"""Reads an isolated answer into a value: each reader takes what has its form, the first that does decides."""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from rewards.mathematics.notation import clean, enclosed, split_top, words
from rewards.mathematics.rational import Rational, rational
from rewards.mathematics.relations import reals, relation
from rewards.mathematics.systems import system
from rewards.mathematics.units import Quantity, quantity
from rewards.mathematics.values import (
    Expression,
    Matrix,
    Named,
    Number,
    Parts,
    Ratio,
    Span,
    Text,
    Union,
    Value,
    expression,
)

LONGEST = 2000
"""Characters beyond which a text is taken as it is."""
_AND = re.compile(
    r"\s*,?\s*(?:(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\(?:lor|vee|land|wedge)(?![a-z])|(?<!\\)&"
    r"|(?<=\s)(?:и|или|und|oder)(?=\s)|和|与|或者?)\s*",
    re.IGNORECASE,
)
_TEXT_WITH_AND = re.compile(r"\\text\{([^{}]*(?<![A-Za-z])(?:and|or)(?![A-Za-z])[^{}]*)\}", re.IGNORECASE)
_ALL_TEXT = re.compile(r"\\text\{[^{}]*\}")
_EITHER = re.compile(r"(?:either|both)\s+", re.IGNORECASE)
_SEMICOLON, _COMMA, _ANY_COMMA, _COLON = (
    re.compile(one) for one in (";", ",", "[,;]", r":|\s+to\s+|\s*\\text\{\s*to\s*\}\s*")
)
_OPERATION = re.compile(r"\d\s*[-+*/=]\s*\d|\\(?:times|cdot|div)")
_CUP, _PLUS_MINUS = re.compile(r"\\cup(?![a-z])"), re.compile(r"\\(pm|mp)(?![a-z])")
_MATRIX = re.compile(
    r"(?:\[|\()?\s*\\begin\{([pbvV]?(?:small)?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}\s*(?:\]|\))?", re.DOTALL
)
_ROW_END = re.compile(r"\\\\(?:\[[^\]]*\])?")
_BRACKETS = ((r"\{", r"\}"), ("(", ")"), ("(", "]"), ("[", ")"), ("[", "]"), ("]", "["))
_RULE = re.compile(r"[a-z]\s*(?:\\in\s*(?:\\mathbb\s*\{?R\}?|R)\s*)?[:|]\s*")
_APART = re.compile(r"(?<![_^.\d])\d[\d.]*\s+\d")
_BASED = re.compile(r"([0-9A-Fa-f]+)_\{?(\d{1,2})\}?")
_CLOCK = re.compile(r"(\d{1,2}):([0-5]\d)(?::[0-5]\d)?")
_CHOICE = re.compile(r"\(?([A-J])\)?[.:)]\s+\S.*|\(([A-Za-z])\)|([A-J])\)", re.DOTALL)
_PROSE = re.compile(r"(?:^|(?<![+\-*/=^_<>])[\s(\"'])(?<!\\)[A-Za-z]{2,}(?=$|[\s),.!?'\"-])|^[A-Za-z]{2,}$|\\text")
_NO_KEY = re.compile(r"[\s.,;:!?'\"*_{}()-]|\\(?=[a-z])")
_LABEL = re.compile(r"[A-Za-z][A-Za-z ]{2,40}:\s*(?=\S)|(?:the\s+)?(?:final\s+)?answer\s*(?:is|:)\s*", re.IGNORECASE)


def read(text: str) -> Value | None:
    """Return the value that an isolated answer is, or None where there is nothing in it."""
    if len(text) > LONGEST:
        return Text(key=text, latex=text)
    cleaned = clean(text)
    return _value(cleaned) if cleaned else None


def listed(texts: Sequence[str]) -> Value | None:
    """Return the list of several answers; of one, itself; None where one has nothing in it."""
    items = _all_read(texts)
    if items is None or len(items) == 1:
        return items[0] if items else None
    return Parts(kind="list", items=_flat(items))


def _value(text: str) -> Value:
    for reader in _READERS:
        found = reader(text)
        if found is not None:
            return found
    return expression(text)


def _number(text: str) -> Value | None:
    found = rational(text)
    if found is not None:
        return Number(value=found.value, rational=found, quantity=Quantity(core=text), latex=text)
    around = quantity(text)
    found = rational(around.core) if around is not None and around.core != text else None
    if around is None or found is None:
        return None
    return Number(value=found.value * around.factor, rational=found, quantity=around, latex=text)


def _in_braces(text: str) -> Value | None:
    r"""Read `{1,3}` as the list 1, 3, and `(5)` as 5; a letter in brackets is a choice."""
    inner = text[1:-1].strip()
    if text[0] not in "{(" or text[-1] not in "})" or not inner or not enclosed(text):
        return None
    if text[0] == "{" and (rule := _RULE.match(inner)):
        return _ruled(inner[rule.end() :])
    if text[0] == "(" and (len(inner) == 1 or len(split_top(inner, _ANY_COMMA)) > 1):
        return None
    return _value(inner)


def _several(text: str) -> Value | None:
    r"""Read a list: by *and* and *or*, by `;`, by commas. With semicolons, lists in it are its items."""
    if r"\begin{" in text:
        return None
    said = words(text) if _ALL_TEXT.fullmatch(text) else _TEXT_WITH_AND.sub(r" \1 ", text)
    said = said[found.end() :] if (found := _EITHER.match(said)) else said
    is_grouped = _OPERATION.search(said) and not re.search(r",(?!\d{3}(?!\d))|(?<!\d),", said)  # 3,100 - 750 = 2,350
    for separator in (_AND, _SEMICOLON) if is_grouped else (_AND, _SEMICOLON, _COMMA):
        parts = split_top(said, separator)
        if len(parts) > 1:
            items = [item for item in map(read, parts) if item is not None]
            own = tuple(items) if separator is _SEMICOLON else _flat(items)
            return Parts(kind="list", items=own, latex=text) if items else None
    return None


def _plus_minus(text: str) -> Value | None:
    if not _PLUS_MINUS.search(text) or (text.startswith(r"\{") and enclosed(text)):
        return None
    signs = {"pm": "+", "mp": "-"}, {"pm": "-", "mp": "+"}
    both = [_PLUS_MINUS.sub(lambda sign, own=own: own[sign[1]], text) for own in signs]  # type: ignore[misc]
    both = [re.sub(r"(^|[=({,])\s*\+", r"\1", one) for one in both]
    return Parts(kind="list", items=_flat([_value(clean(one)) for one in both]), latex=text)


def _bracketed(text: str) -> Value | None:
    r"""Read a tuple, an interval or a set; of `(3,4)`, which may be both, `compare` knows."""
    fitting = [(left, right) for left, right in _BRACKETS if text.startswith(left) and text.endswith(right)]
    if not fitting or _CUP.search(text):
        return None
    left, right = fitting[0]
    inner = text[len(left) : -len(right)].strip()
    if left != "]" and not enclosed(text):
        return None
    rule = _RULE.match(inner) if left == r"\{" else None
    if rule:
        return _ruled(inner[rule.end() :])
    items = _all_read(split_top(inner, _SEMICOLON if len(split_top(inner, _SEMICOLON)) > 1 else _COMMA))
    if items is None:
        return None
    if left == r"\{":
        return Parts(kind="set", items=_flat(items), latex=text)
    if (left, right) == ("(", ")"):
        return Parts(kind="tuple", items=tuple(items), latex=text) if len(items) > 1 else None
    if len(items) != 2:
        return None
    return Span(left=items[0], right=items[1], left_closed=left == "[", right_closed=right == "]")


def _ruled(rule: str) -> Value | None:
    """Return the set of what obeys a rule, whose letter says nothing."""
    found = read(rule)
    return found.value if isinstance(found, Named) else found


def _union(text: str) -> Value | None:
    parts = _CUP.split(text)  # brackets of half-open intervals do not match
    if len(parts) < 2 or any(not part.strip().startswith(("(", "[", "]", "\\", "{")) for part in parts):
        return None
    items = _all_read(parts)
    return Union(items=tuple(items)) if items is not None else None


def _matrix(text: str) -> Value | None:
    found = _MATRIX.fullmatch(text)
    if found is None or r"\begin" in found[2]:
        return None
    rows = [_all_read(row.split("&")) for row in _ROW_END.split(found[2].replace(r"\hline", "")) if row.strip()]
    known = [tuple(row) for row in rows if row is not None]
    is_whole = bool(known) and len(known) == len(rows) and len({len(row) for row in known}) == 1
    return Matrix(rows=tuple(known), latex=text) if is_whole else None


def _ratio(text: str) -> Value | None:
    if not _COLON.search(text):
        return None
    around = quantity(text) or Quantity(core=text)
    parts = split_top(around.core, _COLON)
    items = _all_read(parts) or []
    if len(parts) < 2 or not items or any(not isinstance(item, Number | Expression) for item in items):
        return None
    is_clock = _CLOCK.fullmatch(around.core) is not None
    return Ratio(items=tuple(items), told=around.unit.replace(".", ""), is_clock=is_clock)


def _labelled(text: str) -> Value | None:
    said = words(text)
    found = _LABEL.match(said)
    return read(said[found.end() :]) if found else None


def _based(text: str) -> Value | None:
    """Read `204_5`, a number in base 5."""
    found = _BASED.fullmatch(text.replace(" ", "").replace(r"\text", ""))
    if found is None or not 2 <= int(found[2]) <= 36:
        return None
    try:
        value = Fraction(int(found[1], int(found[2])))
    except ValueError:
        return None
    return Number(value=value, rational=Rational(value=value), quantity=Quantity(core=text), latex=text)


def _text(text: str) -> Value | None:
    """Read words; a single letter, in brackets or with what it stands for, is the letter."""
    said = words(text).strip(" .")
    choice = _CHOICE.fullmatch(said)
    letter = next(filter(None, choice.groups()), "") if choice else said
    if len(letter) == 1 and letter.isalpha():
        return expression("e") if said == "e" else Text(key=letter, latex=letter)
    if _APART.search(text):  # two numbers side by side are no product
        return Text(key=text, latex=text)
    if not _PROSE.search(text):
        return None
    around = quantity(text)
    if around is not None and around.core != text and not _PROSE.search(around.core):
        return Expression(latex=around.core, quantity=around)
    return Text(key=_NO_KEY.sub("", said).casefold(), latex=text)


def _with_unit(text: str) -> Value | None:
    around = quantity(text)
    return Expression(latex=around.core, quantity=around) if around is not None else None


def _all_read(texts: Sequence[str]) -> list[Value] | None:
    """Return the value of each text; None where one has nothing in it."""
    values = [value for value in map(read, texts) if value is not None]
    return values if len(values) == len(texts) else None


def _flat(items: Sequence[Value]) -> tuple[Value, ...]:
    """Return the items of a list; what is in lists among them is its own."""
    return tuple(
        one for item in items for one in (item.items if isinstance(item, Parts) and item.kind == "list" else (item,))
    )


_READERS: Sequence[Callable[[str], Value | None]] = (
    _number, lambda text: system(text, read), _in_braces, _several, _plus_minus, _matrix, _bracketed,
    lambda text: reals(text, read), _union, lambda text: relation(text, read), _ratio, _labelled, _based, _text,
    _with_unit,
)  # fmt: skip
