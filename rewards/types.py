"""What passes in and out of rewards: attempts go in, marks come out of each reward, and a score out of all marks."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Message = Mapping[str, Any]
"""One chat turn, ``{"role": ..., "content": ...}``; in prompts with whatever else a chat template reads, such as
``tool_calls``, next to which ``content`` may be None."""

Cause = Literal["ok", "not_applicable", "timeout", "error", "killed", "malformed"]
"""Why a score is what it is. ``ok`` alone carries a value; the last four are failures."""

FAILURES: frozenset[Cause] = frozenset({"timeout", "error", "killed", "malformed"})


class RewardError(ValueError):
    """A reward that cannot be built, or rewards that fail too often for the run to mean anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What one reward gives one attempt."""

    value: float | None = None
    """Before its weight; None unless ``cause`` is ``ok``."""
    cause: Cause = "ok"
    detail: str = ""
    """What the reward did, for failures; with a value, what one should know of how it came about."""
    read: str = ""
    """What it took for the answer, for those who ask why; of a reward that reads none, empty."""


LogMetric = Callable[[str, float], None]
"""``log_metric(name, value)``: the value is averaged over a step."""
RewardFunction = Callable[..., Sequence[float | Mark | None] | Awaitable[Sequence[float | Mark | None]]]
"""What a user writes; the signature that TRL's reward functions have, one value an attempt, higher is better.

Example::

    def cites_a_source(prompts, completions, **columns):
        return [1.0 if "[1]" in turns[-1]["content"] else 0.0 for turns in completions]

It is always called with one whole prompt group, by keyword. ``columns`` holds the data set's own columns, one value an
attempt, and ``completion_ids``; a function that names them also gets ``completion_logprobs``, ``openings`` (what the
prompt has begun of each answer, such as `<think>`), ``group_id``, ``step``
and ``log_metric(name, value)``, whose values are averaged over a step. ``None`` means "this reward does not apply
here"; NaN, or ``Mark(cause="timeout", detail=...)``, "this attempt could not be scored". The function runs in a worker
process, is imported there once, may be a coroutine function, and may be killed at its deadline.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One answer to one prompt, as a reward sees it."""

    prompt: Sequence[Message]
    """The conversation so far."""
    completion: Sequence[Message]
    """One turn from the assistant, or several with those of an environment between them."""
    completion_ids: tuple[int, ...] = ()
    """[T] token ids that the policy wrote; empty when only text is known."""
    completion_logprobs: tuple[float, ...] = ()
    """[T] log-probability of each token under the policy that sampled it, in nats; empty when only text is known."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The data set's other columns for this prompt, such as ``answer``."""
    opening: str = ""
    """Text with which the chat template has begun the answer for the policy, such as `<think>`; mostly none."""
    group_id: str = ""
    """Name of the prompt, the same for all attempts of a group."""
    step: int = 0
    """Version of the policy that the attempt will improve; 0 outside of training."""
    failure: Mark | None = None
    """Why it broke off, where not by the policy; rewards do not see it then, and it cannot be scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """What some rewards gave a group of G attempts."""

    marks: Mapping[str, Sequence[Mark]]
    """Reward name -> [G]."""
    seconds: float
    """Wall time that they took."""
    metrics: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """What they logged by the way: `reward/metric` -> values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What the rewards together say of one attempt."""

    value: float | None
    """The marks that apply, combined; None unless ``cause`` is ``ok``."""
    cause: Cause
    """``ok``, or why there is no value."""
    parts: Mapping[str, float | None] = field(default_factory=dict)
    """Each reward's own value before its weight, by name; None where it failed or does not apply."""
    reads: Mapping[str, str] = field(default_factory=dict)
    """What each reward that reads an answer took for it, by name."""
    seconds: float = 0.0
    """Wall time that the rewards took for the group of this attempt."""
    detail: str = ""
    """For failures: which reward, and what it said."""


OUT_OF_MEMORY = 77
"""Exit code of a worker that could not have the memory that it needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOrder:
    """What a worker is to load, and what it may use."""

    kind: str
    """What it serves, for messages: a ``reward``, an ``environment``."""
    server: str
    """``module:name`` of what makes a `rewards.worker.Server` of ``given``, inside the worker."""
    given: Any
    """Configs, say; travels by pickle."""
    concurrency: int = 1
    """How many questions it may be asked at once."""
    max_memory_bytes: int | None
    """Private memory, for the worker and for each process that it starts; none: no limit."""
    max_cpu_s: float | None
    """Processor time a question; none: no limit."""
