"""A reward of the tests' own, found by import path."""

import time
from typing import Any


def share_of_digits(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Return the share of an answer's characters that are digits: something that every model can vary."""
    texts = [turns[-1]["content"] for turns in completions]
    return [sum(letter.isdigit() for letter in text) / max(1, len(text)) for text in texts]


def slow_share_of_digits(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Return the same a tenth of a second later, so that a run lasts."""
    time.sleep(0.1)
    return share_of_digits(prompts, completions)
