"""Halves of characters, which JSON can hold and no tokenizer, file or terminal can take: lone surrogates."""

import re
from collections.abc import Mapping
from typing import Any

MAY_HOLD = re.compile(rb"\\u[dD][89a-fA-F]")
"""What a line of JSON has that holds one."""


def find(value: Any, path: str = "") -> str | None:
    """Say where in a JSON value the first one is; None where there is none."""
    if isinstance(value, str):
        place = next((at for at, letter in enumerate(value) if "\ud800" <= letter <= "\udfff"), None)
        return None if place is None else f"column {path!r}: character {place + 1} is {value[place]!a}"
    if isinstance(value, Mapping):
        inner = [(part, f"{path}.{name}".lstrip(".")) for name, both in value.items() for part in (name, both)]
    else:
        inner = [(part, f"{path}[{at}]") for at, part in enumerate(value if isinstance(value, list) else ())]
    return next((found for part, name in inner if (found := find(part, name)) is not None), None)
