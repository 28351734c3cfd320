"""What an endpoint's reply says: its text, what it used, and the verdict at its end; or why it says nothing.

A reply is read as the work of strangers: the endpoint's, and of whoever wrote what the judge was shown and may quote.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rewards.thinking import said
from rewards.types import Mark, RewardError

LONGEST_LINE = 80
MOST_TOKENS = 1 << 40
"""Nobody has used more in one request; what an endpoint says beyond is not counted."""
LABEL = (
    r"[\s*_#]*(?:(?:so|thus|hence|therefore)\b,?\s*)?(?:(?:my|the|final|overall)\s+)*"
    r"(?:(?:verdict|mark|score|rating|grade|answer|judge?ment|winner)(?:\s+is)?[\s*_]*[:=]?)?[\s*_$]*"
)
"""What may stand before a verdict on its line; not quotation marks, and no other words."""

V = TypeVar("V")


class EndpointError(RewardError):
    """What an endpoint answered cannot be used, or it did not answer."""


class MalformedReplyError(EndpointError):
    """A reply that is there, and not whole: it ended otherwise than by itself."""


def parsed(body: bytes) -> Mapping[str, Any]:
    """Return a reply's JSON object. Raises EndpointError for what is none."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):  # nested too deeply, a number of a million digits, no Unicode
        told = None
    if not isinstance(told, dict):
        raise EndpointError(f"the endpoint's reply holds no text: {body[:300]!r}")
    return told


def text_of(told: Mapping[str, Any], body: bytes) -> str:
    """Return the text of a reply. Raises EndpointError where it holds none, MalformedReplyError where it was cut."""
    choices = told.get("choices")
    is_one = isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict)
    choice: Mapping[str, Any] = choices[0] if is_one else {}  # type: ignore[index]
    message, finish = choice.get("message"), choice.get("finish_reason")
    if finish not in (None, "stop"):
        way_out = "; let it write more tokens by max_tokens" if finish == "length" else ""
        raise MalformedReplyError(f"the reply ended by {str(finish)[:50]!r} and not by itself: it is not read{way_out}")
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, str) or not content.strip():
        raise EndpointError(f"the endpoint's reply holds no text: {body[:300]!r}")
    if finish is None:
        raise MalformedReplyError("the reply does not say how it ended (finish_reason): it is not read")
    return content.encode(errors="replace").decode()  # half a character could not be kept anywhere


def usage_of(told: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many tokens a request and its reply had; 0 where the reply does not say, or nonsense."""
    usage = told.get("usage")
    found = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    counts = [one if type(one) is int and 0 <= one < MOST_TOKENS else 0 for one in found]
    return (counts[0], counts[1]) if counts else (0, 0)


def closing_verdict(reply: str, of_line: Callable[[str], V | None]) -> V | None:
    """Return the verdict with which a reply ends, after its thoughts: what its last line says, and no line otherwise.

    ``of_line`` reads a line that holds a verdict and nothing else. What a reply quotes stands in its sentences, in
    quotation marks, or is followed by more; where it cannot be told apart, lines of different verdicts, there is none.
    """
    lines = [line.strip() for line in said(reply).splitlines() if line.strip()]
    verdicts = [of_line(line) for line in lines if len(line) <= LONGEST_LINE]
    told = {one for one in verdicts if one is not None}
    is_last = bool(lines) and len(lines[-1]) <= LONGEST_LINE and verdicts[-1] is not None
    return told.pop() if is_last and len(told) == 1 else None


def line_pattern(verdict: str) -> re.Pattern[str]:
    """Return the pattern of a line that holds a verdict of this form and nothing else."""
    return re.compile(rf"{LABEL}(?:{verdict})[\s*_$.]*", re.IGNORECASE)


def unreadable(reply: str) -> Mark:
    """Return the mark of an answer of which the reply says nothing that can be read."""
    return Mark(cause="malformed", detail=f"the reply ends without a verdict as asked for: ...{reply[-200:]!r}")
