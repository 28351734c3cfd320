"""Equations and inequalities: what they name, and the value or the interval that they give it."""

import re
from collections.abc import Callable, Sequence

from rewards.mathematics.notation import split_top, words
from rewards.mathematics.values import Named, Relation, Span, Value, expression

Read = Callable[[str], Value | None]
"""`reading.read`, which reads the sides."""
_SIGN = re.compile(r"\\(?:le|ge|neq|in)(?![a-z])|<|>|=")
_APPROX = re.compile(r"\\approx(?![a-z])")
_SUBSCRIPT = re.compile(r"_(?:\{[^{}]*\}|\w)")
_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")
_BOUND = re.compile(r"\\(?:sum|prod|int|lim)(?![a-z])")
"""Letters below it are its own."""
_NAME = re.compile(
    r"[A-Za-z]'*|[A-Z]{2,5}"  # x, f', AB
    r"|(?!\\(?:infty|pi|emptyset)\b)\\[a-z]+|\\text\{[^{}]+\}|[A-Za-z][A-Za-z ]{1,40}"  # \theta, \text{Area}, area
    r"|[A-Za-z]'*(?:\^\{-1\})?\s*\([^()=]*\)|\|[A-Za-z]{1,3}\||\[[A-Z]{3,6}\]"  # f(x), |AB|, [ABC]
    r"|m?\\(?:angle|triangle)\s*[A-Z]{1,4}|\\(?:overline|vec|hat|bar)\s*\{?[A-Za-z]+\}?"
    r"|\(\s*[a-z](?:\s*,\s*[a-z])+\s*\)|[A-Z]+\s*:\s*[A-Z]+"  # (x,y), A:B
    r"|\\frac\{[A-Z]+\}\{[A-Z]+\}|\\frac\{d[a-z]?\}\{d[a-z]\}"
)
_LOWER, _UPPER = frozenset({"<", r"\le"}), frozenset({">", r"\ge"})


def relation(text: str, read: Read) -> Value | None:
    """Read `x = 5`, `2^{11} = 2048`, `1 < x < 2`, `x^2 + y^2 = 9`; of what is about equal, what comes first."""
    nearly = [part.strip() for part in split_top(text, _APPROX)]
    if len(nearly) > 1:
        return read(nearly[0] if nearly[0] and not is_name(nearly[0]) else nearly[1])
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
    return _between(found, read) or found


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
