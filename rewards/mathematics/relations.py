"""Equations and inequalities: what they name, and the value or the interval that they give it."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

from rewards.mathematics.notation import split_top, words
from rewards.mathematics.values import Named, Number, Relation, Span, Union, Value, expression

Read = Callable[[str], Value | None]
"""`reading.read`, which reads the sides."""
_SIGN = re.compile(r"\\(?:le|ge|neq|in)(?![a-z])|<|>|=")
_APPROX = re.compile(r"\\approx(?![a-z])")
_SUBSCRIPT = re.compile(r"_(?:\{(?:[^{}]|\{[^{}]*\})*\}|\w)")
_GIVEN = r"\s*(?:\((?:[^()]|\([^()]*\))*\)|\[[^\[\]]*\])"
"""What a function is applied to."""
_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")
_BOUND = re.compile(r"\\(?:sum|prod|int|lim)(?![a-z])")
"""Letters below it are its own."""
_NAME = re.compile(
    r"[A-Za-z]'*|[A-Z]{2,5}"  # x, f', AB
    r"|(?!\\(?:infty|pi|emptyset)\b)\\[a-z]+|\\text\{[^{}]+\}|[A-Za-z][A-Za-z ]{1,40}"  # \theta, \text{Area}, area
    rf"|[A-Za-z]'*(?:\^\{{-1\}})?{_GIVEN}|\([^()]*\\circ[^()]*\){_GIVEN}"  # f(x), P(X=2), E[X], (f \circ g)(x)
    r"|\|[A-Za-z]{1,3}\||\|[^|=]*\\(?:vec|overrightarrow|cup|cap)(?![a-z])[^|=]*\||\[[A-Z]{3,6}\]"  # |AB|, [ABC]
    r"|\\?\|{1,2}[A-Za-z]\\?\|{1,2}|[A-Z][a-z]{2}\s*\([A-Z]\)"
    rf"|\\(?:Pr|det|dim|deg|max|min|arg|mathbb\{{[A-Z]\}}|text\{{[A-Za-z]+\}})(?:{_GIVEN}|\s*[A-Za-z])"
    r"|m?\\(?:angle|triangle)\s*[A-Z]{1,4}|\\(?:overline|vec|hat|bar)\s*\{?[A-Za-z]+\}?"
    r"|\(\s*[a-z](?:\s*,\s*[a-z])+\s*\)|[A-Z]+\s*:\s*[A-Z]+"  # (x,y), A:B
    r"|\\frac\{[A-Z]+\}\{[A-Z]+\}|\\frac\{d[a-z]?\}\{d[a-z]\}"
)
_REALS_BUT = re.compile(r"\\mathbb\{R\}\s*(?:\\(?:setminus|smallsetminus|backslash)|-)\s*\\?\{(.+?)\\?\}")
_ALL_REALS = re.compile(r"(?:the set of )?all real(?: number)?s?|all reals", re.IGNORECASE)
_LOWER, _UPPER = frozenset({"<", r"\le"}), frozenset({">", r"\ge"})


def relation(text: str, read: Read) -> Value | None:
    """Read `x = 5`, `2^{11} = 2048`, `1 < x < 2`, `x^2 + y^2 = 9`; of what is about equal, what comes first."""
    nearly = [part.strip() for part in split_top(text, _APPROX)]
    if len(nearly) > 1:
        is_constant = nearly[0] == "e" or (nearly[0] and not is_name(nearly[0]))
        return read(nearly[0] if is_constant else nearly[1])
    members = [part.strip() for part in split_top(text, _SIGN)]
    if len(members) == 1:
        return None
    signs = _signs(text, members)
    found = Relation(members=tuple(members), signs=signs, latex=text)
    if set(signs) == {"="} and not members[0]:
        return read(members[-1])
    if not all(members) or len(signs) != len(members) - 1:
        return found
    if set(signs) == {"="}:
        return _equated(members, found, read)
    if signs == (r"\in",):
        value = read(members[1]) if is_name(members[0]) else None
        return Named(name=_bare(members[0]), value=value, relation=found) if value else found
    return _apart(found, read) or _between(found, read) or found


def combined(found: Relation, read: Read) -> Number | None:
    r"""Return the number that a combination of several letters is said to be, as in `m + n = 113`; else None.

    Exercises that want one number of several ask for it. `2x = 10` is no such thing, but an equation to solve.
    """
    if found.signs != ("=",) or len(found.members) != 2:
        return None
    letters = set(_LETTER.findall(re.sub(r"\\[a-z]+", " ", found.members[0])))
    value = read(found.members[1]) if len(letters) > 1 else None
    return value if isinstance(value, Number) else None


def without(*points: Value) -> Union:
    """Return the real numbers without some of them, which are in order."""
    ends = [expression(r"-\infty"), *points, expression(r"\infty")]
    spans = [Span(left=left, right=right, left_closed=False, right_closed=False) for left, right in pairwise(ends)]
    return Union(items=tuple(spans))


def is_name(text: str) -> bool:
    """Say whether a text names a value: a letter, `f(x)`, a segment, words."""
    return _NAME.fullmatch(_SUBSCRIPT.sub("", text).strip()) is not None


def _signs(text: str, members: Sequence[str]) -> tuple[str, ...]:
    """Return the signs between the members; fewer where they cannot be found again."""
    signs, at = list[str](), 0
    for member in members[:-1]:
        found = _SIGN.search(text, text.index(member, at) + len(member))
        if found is None:
            break
        signs.append(found[0])
        at = found.end()
    return tuple(signs)


def _equated(members: Sequence[str], found: Relation, read: Read) -> Value:
    """Return what is named, or a constant where all members are; of a longer chain the last member."""
    value = read(members[-1])
    if value is None:
        return found
    if is_name(members[0]):
        return Named(name=_bare(members[0]), value=value, relation=found)
    if is_name(members[-1]) and len(members) == 2:
        first = read(members[0])
        return Named(name=_bare(members[-1]), value=first, relation=found) if first else found
    is_constant = not any(_LETTER.search(words(member)) and not _BOUND.search(member) for member in members)
    return value if is_constant or len(members) > 2 else found


def reals(text: str, read: Read) -> Value | None:
    r"""Read `\mathbb{R}`, the same in words, and what is left of it without some numbers."""
    if but := _REALS_BUT.fullmatch(text):
        points = list(map(read, but[1].split(",")))
        numbers = sorted((one for one in points if isinstance(one, Number)), key=lambda one: one.value)
        return without(*numbers) if len(numbers) == len(points) > 0 else None
    if text != r"\mathbb{R}" and not _ALL_REALS.fullmatch(words(text)):
        return None
    return Span(left=expression(r"-\infty"), right=expression(r"\infty"), left_closed=False, right_closed=False)


def _apart(found: Relation, read: Read) -> Value | None:
    r"""Return the numbers that `x \neq 2` leaves."""
    if found.signs != (r"\neq",) or not re.fullmatch("[a-z]", found.members[0]):
        return None
    point = read(found.members[1])
    return Named(name=found.members[0], value=without(point), relation=found) if point else None


def _between(found: Relation, read: Read) -> Value | None:
    """Return the interval that an inequality with one name in it means."""
    members, signs = found.members, found.signs
    at = [place for place, member in enumerate(members) if is_name(member)]
    has_one_way = set(signs) <= _LOWER or set(signs) <= _UPPER
    if not has_one_way or len(members) > 3 or at not in ([0], [1]) or (len(members) == 3 and at != [1]):
        return None
    ends: dict[bool, tuple[Value, bool]] = {}  # is it the upper one: the end, and whether it belongs to it
    for place, member in enumerate(members):
        if place == at[0]:
            continue
        sign, end = signs[min(place, at[0])], read(member)
        if end is None:
            return None
        ends[(place > at[0]) == (sign in _LOWER)] = (end, sign in (r"\le", r"\ge"))
    left, left_closed = ends.get(False, (expression(r"-\infty"), False))
    right, right_closed = ends.get(True, (expression(r"\infty"), False))
    span = Span(left=left, right=right, left_closed=left_closed, right_closed=right_closed)
    return Named(name=_bare(members[at[0]]), value=span, relation=found)


def _bare(name: str) -> str:
    return re.sub(r"[\s{}]", "", name)
