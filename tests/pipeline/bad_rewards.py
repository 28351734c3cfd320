"""Rewards that `check` must refuse."""

from typing import Any


def never_content(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Give a gold answer half marks."""
    return [0.5] * len(completions)


def raises(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Fail."""
    raise RuntimeError("mends nothing")
