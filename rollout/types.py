"""What passes through rollout: a prompt is answered by completions, scored into rollouts, kept as a group.

Glossary. prompt: what is asked. completion: the tokens that answer it. response: its text. rollout: a
completion with its score. group: all rollouts of one prompt. version: the number of optimizer steps the
sampling model has taken; version N is the model after step N.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rewards.types import Message, Score

FinishReason = Literal["stop", "length", "deadline"]
"""``stop``: ended its turn. ``length``: ran out of tokens. ``deadline``: was cut by the clock."""


class RolloutError(RuntimeError):
    """The engines, the pool or the weight sync broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One row of a prompt data set."""

    id: str
    """Stable name of the row, the same in every epoch, attempt and run."""
    messages: Sequence[Message]
    """The conversation to answer."""
    token_ids: tuple[int, ...]
    """[P] the conversation through the chat template, ready to be answered."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The row's other columns, for rewards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt to be answered ``num_completions`` times."""

    prompt_ids: tuple[int, ...]
    """[P] token ids."""
    num_completions: int
    """How many independent answers."""
    max_tokens: int
    """Longest answer, in tokens, end-of-turn included."""
    temperature: float
    """0 is greedy."""
    seed: int
    """Fixes the samples; completion g of the request uses ``seed + g``."""
    eos_ids: tuple[int, ...]
    """Tokens that end the answer; the one that did is part of the completion."""
    deadline_s: float | None = None
    """Seconds after which completions are cut where they are; none: they may take as long as they do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled answer, token by token."""

    token_ids: tuple[int, ...]
    """[T] sampled tokens, the end-of-turn token included when ``finish_reason`` is ``stop``."""
    logprobs: tuple[float, ...]
    """[T] log-probability, in nats, that the engine gave each sampled token at the sampling temperature."""
    versions: tuple[int, ...]
    """[T] policy version that sampled each token."""
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A completion, its text and its score."""

    completion: Completion
    response: str
    """The completion as text, special tokens left out."""
    score: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """All rollouts of one prompt."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    """[G] in the order of their seeds."""
    greedy: Rollout | None = None
    """The greedy answer, scored among the others, where it was asked for; a baseline that is not trained on."""
