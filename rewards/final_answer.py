r"""Where an answer ends: what its last box holds, or what follows the last `Answer:`, or all of it."""

import re
from collections.abc import Iterable

BOX = r"\boxed{"
_ANNOUNCED = re.compile(r"(?im)^.*\banswer\s*(?:is|:)\s*:?\s*(.+?)\s*$")


def final_answer(text: str) -> str:
    r"""Return what the last `\boxed{}` holds; else what follows the last `answer:` or `answer is`; else the whole text.

    A box that is never closed holds nothing.
    """
    if BOX in text:
        return last_box(text)[len(BOX) : -1].strip()
    announced = _ANNOUNCED.findall(text)
    return str(announced[-1]) if announced else text.strip()


def last_box(text: str) -> str:
    r"""Return the last `\boxed{...}` with its braces balanced, or an empty string where it is never closed."""
    start = text.rindex(BOX)
    depth = 0
    for end in range(start + len(BOX) - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start : end + 1]
    return ""


def missing(column: str, columns: Iterable[str]) -> ValueError:
    """Return the error of data that has no gold answer."""
    own = sorted(set(columns) - {"completion_ids"})
    return ValueError(f"the gold answer's column {column!r} is missing; the data has {own}")
