"""How right a boxed number is. Named in recipes as `examples.arithmetic.rewards:digits_right`."""

import re
from typing import Any

BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def digits_right(
    prompts: list[Any], completions: list[list[dict[str, str]]], answer: list[str], **columns: Any
) -> list[float]:
    r"""Score each completion by the share of digits that its last `\boxed{...}` gets right.

    Digits are aligned by place, units with units. A place that only one of the two numbers has is wrong, so
    1.0 means the exact result; 0.0 also means nothing boxed. For instance, against 633: 633 scores 1, 643 and
    33 score 2/3, 1633 scores 3/4.

    Returns: one float in [0, 1] per completion. Pure, picklable, keeps no state between calls.
    """
    texts = [completion[-1]["content"] for completion in completions]
    return [share_right(text, truth) for text, truth in zip(texts, answer, strict=True)]


def share_right(text: str, truth: str) -> float:
    """Compare the last boxed number in the text with the true one, place by place, from the units up."""
    boxed = BOXED.findall(text)
    if not boxed:
        return 0.0
    given: str = boxed[-1].strip()
    right: int = sum(a == b for a, b in zip(reversed(given), reversed(truth), strict=False))
    return right / max(len(given), len(truth))
