"""What a tool returned, as the text that the policy reads: JSON, of more kinds of values than `json` takes."""

import dataclasses
import datetime
import enum
import json
from collections.abc import Collection, Mapping
from typing import Any

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]


def told(result: Any) -> str:
    """Return text as it is, and anything else as JSON, in which letters of all languages are written as themselves.

    Arrays and their scalars, dates, dataclasses, enumerations and sets have the form that one expects, and what has a
    text of its own (a fraction, a path, a formula) is that text. Raises TypeError for what has none, ValueError for
    what holds itself.
    """
    try:
        value = plain(result)
    except RecursionError as error:
        raise ValueError(f"it returned a {type(result).__name__} that holds itself, or is nested too deeply") from error
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode(errors="replace").decode()  # half a character could not be written anywhere


def plain(value: Any) -> Plain:
    """Return the value in types that JSON has. Raises TypeError."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "dtype") and hasattr(value, "item"):  # of numpy, torch, jax
        return [plain(one) for one in value] if getattr(value, "ndim", 0) else _scalar(value)
    if isinstance(value, Mapping):
        return {_key(name): plain(one) for name, one in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):  # of pydantic
        return plain(value.model_dump())
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, set | frozenset):  # in an order that is the same in every process
        return sorted(map(plain, value), key=_rank)
    if isinstance(value, Collection) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain(one) for one in value]
    return _text(value)


def _rank(value: Plain) -> tuple[bool, float, str]:
    return (False, value, "") if isinstance(value, int | float) else (True, 0.0, str(value))


def _scalar(value: Any) -> Plain:
    """Return a number with no more digits than its precision has: float32 of 0.1 is 0.1."""
    item = value.item()
    if isinstance(item, float):
        try:
            return float(str(value))
        except ValueError:  # torch writes tensor(0.1000)
            return item
    return plain(item)


def _key(name: Any) -> str:
    key = plain(name)
    return key if isinstance(key, str) else json.dumps(key, ensure_ascii=False)


def _text(value: Any) -> str:
    """Return what the value's class writes for it, unless that is a place in memory."""
    text = value.decode() if isinstance(value, bytes | bytearray) else str(value)
    if " at 0x" in text or isinstance(value, type | memoryview):
        raise TypeError(
            f"it returned a {type(value).__name__}, which has no form as text; let the tool return text, numbers, "
            "lists or dicts"
        )
    return text
