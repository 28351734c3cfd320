"""What passes in and out of rewards: attempts go in, scores come out. The collector makes and reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Message = Mapping[str, str]
"""One chat turn, ``{"role": ..., "content": ...}``."""

Cause = Literal["ok", "not_applicable", "timeout", "error", "killed", "malformed"]
"""Why a score is what it is. ``ok`` alone carries a value; the last four are failures."""

FAILURES: frozenset[Cause] = frozenset({"timeout", "error", "killed", "malformed"})


class RewardError(ValueError):
    """A reward that cannot be built, or rewards that fail too often for the run to mean anything."""


class RewardFunction(Protocol):
    """What a user writes; the signature that TRL's reward functions have.

    Example::

        def cites_a_source(prompts, completions, **columns):
            return [1.0 if "[1]" in turns[-1]["content"] else 0.0 for turns in completions]

    It is always called with one whole prompt group. ``columns`` holds the data set's own columns, one value
    an attempt, and may also hold ``completion_ids``. ``None`` means "this reward does not apply here",
    NaN "this attempt could not be scored". The function runs in a worker process, is imported there once,
    may be a coroutine function, and may be killed at its deadline.
    """

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: list[Any]) -> list[float | None]:
        """Return one value an attempt, higher is better, or None where the reward does not apply."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One answer to one prompt, as a reward sees it."""

    prompt: Sequence[Message]
    """The conversation so far."""
    completion: Sequence[Message]
    """The turns that the policy wrote, usually one from the assistant."""
    completion_ids: tuple[int, ...] = ()
    """[T] token ids of the completion; empty when only text is known."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The data set's other columns for this prompt, such as ``answer``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What the rewards together say of one attempt."""

    value: float | None
    """Weighted sum of the parts that apply; None unless ``cause`` is ``ok``."""
    cause: Cause
    """``ok``, or why there is no value."""
    parts: Mapping[str, float | None] = field(default_factory=dict)
    """Each reward's own value before its weight, by name; None where it failed or does not apply."""
    seconds: float = 0.0
    """Wall time that the rewards took for the group of this attempt."""
    detail: str = ""
    """For failures: which reward, and what it said."""
