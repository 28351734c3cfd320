"""Rewards that `check` must refuse."""

from typing import Any


def never_content(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Give a gold answer half marks."""
    return [0.5] * len(completions)


def raises(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Fail."""
    raise RuntimeError("mends nothing")


def prints(completions, **columns):
    print("look at me")
    return [1.0] * len(completions)


def moody(completions, calls=[], **columns):  # noqa: B006 - it is the point
    calls.append(1)
    return [1.0 + len(calls)] * len(completions)
