"""Equations one below the other: `cases`, `aligned` and `array`."""

import re

from rewards.mathematics.relations import Read
from rewards.mathematics.values import Named, Parts, Value

_SYSTEM = re.compile(
    r"(?:\\\{|\{)?\s*\\begin\{((?:[dr]?cases|align(?:ed)?|array|gather(?:ed)?|equation|split)\*?)\}"
    r"\s*(?:\[\w\]|\{[lcr|@{}\s]*\})?(.*)\\end\{\1\}\s*(?:\\\})?",
    re.DOTALL,
)
_ROW_END = re.compile(r"\\\\(?:\[[^\]]*\])?")
_SIGN = re.compile(r"=|<|>|\\(?:le|ge|neq|approx)(?![a-z])")
_EXPLAINED = ("cases", "dcases", "rcases", "array")


def system(text: str, read: Read) -> Value | None:
    """Read the values that equations give to letters as a list; of a derivation, what it ends in.

    None for what is no system: functions defined by cases, and arrays of numbers.
    """
    found = _SYSTEM.fullmatch(text)
    if found is None or r"\begin" in found[2]:
        return None
    rows = [row for row in map(str.strip, _ROW_END.split(found[2])) if row]
    is_derivation = found[1].rstrip("*") not in _EXPLAINED
    if not rows or not (is_derivation or all(map(_is_equation, rows))):
        return None
    chains = list[str]()
    for row in rows:
        bare = row.replace("&", " ").strip()
        if chains and _SIGN.match(bare):
            chains[-1] += f" {bare}"
        else:
            chains.append(bare)
    values = [value for value in map(read, chains) if value is not None]
    names = [value.name for value in values if isinstance(value, Named)]
    if len(values) > 1 and (not is_derivation or len(set(names)) == len(values)):
        return Parts(kind="list", items=tuple(values), latex=text)
    return values[-1] if values else None


def _is_equation(row: str) -> bool:
    r"""Say whether a row is one equation, and not a value and where it holds: `x & x \ge 0`."""
    first, *others = [cell.strip() for cell in row.split("&") if cell.strip()]
    is_split = not others or _SIGN.match(others[0]) is not None
    return _SIGN.search(row) is not None and (is_split or _SIGN.search(first) is not None)
