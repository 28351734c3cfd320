"""What a render of a chat template costs: what it makes is counted, and what would be too much is refused before.

For `rewards.bounded_template`. A value that another may be made of counts with all that is in it, so that whatever is
done with it later, in one step that nothing can interrupt, is bounded too.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from functools import partial, wraps
from typing import Any

from jinja2 import pass_context

from rewards.chat_template import RunawayTemplateError

SECONDS = 5.0
"""Of a thread's processor time, for one conversation; ordinary ones take a few milliseconds."""
MOST_MADE = 1 << 28
"""Characters that one conversation's render may make in all; an item of a list, or a turn of a loop, counts as 32."""
ITEM = 32
MOST_DIGITS = 1 << 16
"""Bits of a whole number."""
NOTABLE = 1024
"""Shorter results are not counted."""
WIDEST = 1 << 20
"""Widths that a format may ask for."""
WIDE = re.compile(r"\d{7,}|%[^a-zA-Z]*\*")
GROWING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "replace", "join", "translate", "to_bytes"})
"""Methods whose result may be far longer than what they are given."""
GROWING_FILTERS = frozenset(
    {"center", "indent", "wordwrap", "batch", "slice", "truncate", "round", "format", "replace", "join", "xmlattr"}
)
PER_ITEM = frozenset({"map", "select", "reject", "selectattr", "rejectattr"})
COMPARING = frozenset({"sort", "unique", "min", "max", "groupby", "dictsort", "sum"})
AS_THEY_ARE = frozenset({"length", "count", "default", "d", "first", "last", "int", "float", "abs", "safe", "attr"})
"""Filters that make nothing."""


class Spent(threading.local):
    """What the render that a thread is at has used up."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin a render."""
        self.made, self.turns, self.started = 0, 0, time.thread_time()

    def make(self, num: int) -> None:
        """Count what is made, before or after. Raises RunawayTemplateError past what a render may make."""
        self.made += num
        if self.made > MOST_MADE:
            raise RunawayTemplateError(f"would make more than {MOST_MADE:,} characters and items of one conversation")

    def look(self) -> None:
        """Look at the clock. Raises RunawayTemplateError past a render's time."""
        if time.thread_time() - self.started > SECONDS:
            raise RunawayTemplateError(f"takes more than {SECONDS:g} s of processor time for one conversation")


spent = Spent()


def concat(pieces: Iterable[str]) -> str:
    """Return what a template, a macro or a block writes."""
    texts = list(pieces)
    length = sum(map(len, texts))
    if length > NOTABLE:
        spent.make(length)
    return "".join(texts)


def contents(value: Any) -> int:
    """Return the characters of all texts in a value that somebody has given."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(contents(key) + contents(each) for key, each in value.items())
    return sum(map(contents, value)) if isinstance(value, list | tuple) else 1


@pass_context  # or else Jinja would take it for a constant
def turn(context: Any, value: Any) -> Any:
    """Count a turn of a loop, a call of a macro, or an item that a filter looks at."""
    spent.turns += 1
    if not spent.turns & 63:
        spent.make(64 * ITEM)
        spent.look()
    return value


def added(terms: list[Any]) -> Any:
    """Return the sum of terms, from left to right."""
    total = terms[0]
    for each in terms[1:]:
        total = total + each
    return made(total)


def joined(pieces: Any) -> str:
    """Return the texts of some values, one after the other."""
    return concat(map(str, pieces))


def made(value: Any) -> Any:
    """Count all that is in a value, as often as it is in there, so that what is written of it later is bounded, too."""
    if isinstance(value, str | bytes):
        return charged(value)
    left = [value] if isinstance(value, list | tuple | dict) else []
    num = 0
    while left:
        each = left.pop()
        if isinstance(each, str):
            num += len(each)
        elif isinstance(each, list | tuple):
            left += each
        elif isinstance(each, dict):
            left += each.keys()
            left += each.values()
        num += ITEM
        if num > NOTABLE * ITEM:
            spent.make(num)
            spent.look()
            num = 0
    spent.make(num)
    return value


def charged(value: Any) -> Any:
    """Count a new value, as far as it is large by itself."""
    if isinstance(value, str | bytes):
        if len(value) > NOTABLE:
            spent.make(len(value))
            spent.look()
    elif isinstance(value, list) and len(value) > NOTABLE:
        spent.make(len(value) * ITEM)
    return value


def require_little(given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Raise where two of the arguments, one as often as the other is long, would be too much."""
    sizes = sorted(map(_size, (*given, *named.values())))
    if len(sizes) > 1 and sizes[-1] * max(sizes[-2], 1) > MOST_MADE - spent.made:
        raise RunawayTemplateError(f"would make more than {MOST_MADE:,} characters and items of one conversation")


def _size(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, int):
        return abs(value)
    if isinstance(value, Mapping):
        return max((_size(each) for each in value.values()), default=0)
    if isinstance(value, list | tuple):
        return sum(len(each) if isinstance(each, str) else 1 for each in value)
    return len(value) if isinstance(value, Sized) else 1


def require_narrow(form: str, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Raise where a format would write something far longer than what it is given."""
    require_little((form, *given), {key: value for key, value in named.items() if not isinstance(value, int)})
    is_nested = "{" in form.replace("{", "", 1) or "*" in form
    wide = is_nested and any(isinstance(each, int) and abs(each) > WIDEST for each in (*given, *named.values()))
    if wide or WIDE.search(form):
        raise RunawayTemplateError(f"asks for a width of more than {WIDEST:,} characters")


def charging(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that counts what it makes, and refuses beforehand what would be too much."""

    @wraps(function)
    def counted(*given: Any, **named: Any) -> Any:
        return charged(function(*given, **named))

    @wraps(function)
    def looked_at(*given: Any, **named: Any) -> Any:
        if name in GROWING_FILTERS:
            given = tuple(list(each) if isinstance(each, Iterator) else each for each in given)
            if name == "round" and any(isinstance(each, int) and abs(each) > NOTABLE for each in given[1:]):
                raise RunawayTemplateError("rounds to more digits than a number has")
            if name == "format":
                require_narrow(str(given[0]), given[1:], named)
            else:
                require_little(given, named)
        elif name in PER_ITEM and len(given) > 1 and given[1]:
            given = (given[0], map(partial(turn, None), given[1]), *given[2:])
        elif name in COMPARING:
            made(next((each for each in given if isinstance(each, list | tuple)), None))
        result = function(*given, **named)
        return map(made, result) if name in ("batch", "slice") else charged(result)

    return looked_at if name in GROWING_FILTERS | PER_ITEM | COMPARING else counted


def tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Return JSON as transformers' filter does."""
    wide = [each for each in (indent, *(separators or ())) if (len(each) if isinstance(each, str) else each or 0) > 64]
    if wide:
        raise RunawayTemplateError("indents or parts JSON by more than 64 characters")
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if len(text) > NOTABLE:
        spent.make(len(text))
    return text
