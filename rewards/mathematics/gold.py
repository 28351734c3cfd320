"""The gold answer: what a data set's column means, or a refusal. It never passes by being compared with itself."""

import ast
import math
import re
from collections.abc import Sequence
from typing import Any

from rewards.final_answer import final_answer
from rewards.mathematics.reading import listed, read
from rewards.mathematics.values import Named, Parts, Text, Value

MOST_WORDS, MOST_WORDS_WITH_NUMBERS = 25, 6
"""A text of more words is no answer, but a solution."""
_QUOTED_LIST = re.compile(r"\s*\[\s*[\"'].*\]\s*", re.DOTALL)


def gold_value(gold: Any) -> Value:
    r"""Return the value of a gold answer.

    That is a number, a text, or a list of them, which is a list of solutions. A text that has a box, an `<answer>`, or
    GSM8K's `#### 18` means what these hold. Raises ValueError for what cannot be an answer.
    """
    if hasattr(gold, "tolist"):  # numpy's
        gold = gold.tolist()
    if isinstance(gold, str) and _QUOTED_LIST.fullmatch(gold):
        gold = _list(gold)
    if isinstance(gold, Sequence) and not isinstance(gold, str):
        if not gold:
            raise _refusal(gold, "is an empty list")
        items = [gold_value(item) for item in gold]
        return items[0] if len(items) == 1 else Parts(kind="list", items=tuple(items))
    if gold is None or isinstance(gold, dict) or (isinstance(gold, float) and not math.isfinite(gold)):
        raise _refusal(gold, "is neither a number nor a text")
    text = str(gold)
    found = final_answer(text)
    value = listed(found.parts) if found.parts else None
    if value is None:
        raise _refusal(gold, "holds no answer")
    bare = re.sub(r"\\[{}]", "", text)
    if bare.count("{") != bare.count("}"):
        raise _refusal(gold, "has a brace that is not closed, or not opened")
    if found.how in ("all", "emphasis") and _is_prose(value) and _is_solution(text):
        raise _refusal(gold, "is a whole solution, and it is not said where its answer stands (`#### 18`, a box)")
    return value


def has_words(value: Value | None) -> bool:
    """Say whether a value is words, or holds some."""
    if isinstance(value, Parts):
        return any(map(has_words, value.items))
    return isinstance(value, Text) or (isinstance(value, Named) and (" " in value.name or has_words(value.value)))


def _is_prose(value: Value) -> bool:
    return has_words(value) or not isinstance(read("0"), type(value))


def _is_solution(text: str) -> bool:
    if r"\begin{" in text:
        return False
    num_words = len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", text))
    most = MOST_WORDS_WITH_NUMBERS if re.search(r"\d", text) else MOST_WORDS
    return num_words > most or (num_words > 3 and "\n" in text.strip())


def _list(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text


def _refusal(gold: Any, what: str) -> ValueError:
    return ValueError(
        f"the gold answer {gold!r:.200} {what}; it must be one mathematical expression, a word, or a list of them. "
        "Name the column that holds it as answer_column, or bring it into that form"
    )
