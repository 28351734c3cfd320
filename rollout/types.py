"""What passes through rollout: a prompt is answered by completions, scored into rollouts, kept as a group.

Glossary. prompt: what is asked. completion: the tokens that answer it. response: its text. rollout: a
completion with its score. group: all rollouts of one prompt. version: the number of optimizer steps the
sampling model has taken; version N is the model after step N.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rewards.types import Message, Score

FinishReason = Literal["stop", "length", "deadline", "turns"]
"""``stop``: ended its turn. ``length``: ran out of tokens. ``deadline``: was cut by the clock. ``turns``: had no turn
left when an environment answered."""


class RolloutError(RuntimeError):
    """The engines, the pool or the weight sync broke."""


class NodeLostError(RolloutError):
    """Nodes with engines have left the cluster, and no engine took their place in time: another attempt may succeed."""


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
    opening: str = ""
    """Text with which the chat template has begun the answer, such as `<think>`; it is part of ``token_ids``."""
    hint_ids: tuple[int, ...] = ()
    """Tokens with which every answer begins; the policy goes on from there."""

    @property
    def context_ids(self) -> tuple[int, ...]:
        """What the policy goes on from."""
        return self.token_ids + self.hint_ids


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
    """One sampled answer, token by token. With an environment it has several turns, and what was said between them."""

    token_ids: tuple[int, ...]
    """[T] what comes after the prompt, the end-of-turn token included when ``finish_reason`` is ``stop``."""
    logprobs: tuple[float, ...]
    """[T] log-probability, in nats, that the engine gave each sampled token at the sampling temperature; else 0."""
    versions: tuple[int, ...]
    """[T] policy version that sampled each token, or the one before it where an environment said it."""
    finish_reason: FinishReason
    given: tuple[tuple[int, int], ...] = ()
    """Places [start, end) of tokens that the policy did not sample: an environment said them. Nothing learns them."""

    @property
    def sampled(self) -> list[int]:
        """Places of the tokens that the policy sampled."""
        return places_outside(self.given, len(self.token_ids))

    @property
    def sampled_ids(self) -> tuple[int, ...]:
        """The tokens that the policy sampled."""
        return tuple(self.token_ids[place] for place in self.sampled)

    @property
    def sampled_logprobs(self) -> tuple[float, ...]:
        """Their log-probabilities."""
        return tuple(self.logprobs[place] for place in self.sampled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A completion, its text and its score."""

    completion: Completion
    response: str
    """The policy's last turn as text, special tokens left out."""
    score: Score
    turns: tuple[Message, ...] = ()
    """With an environment: all that was said after the prompt."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """With an environment: what it tells rewards, besides the prompt's columns."""

    @property
    def messages(self) -> list[Message]:
        """What was said after the prompt."""
        return list(self.turns) or [{"role": "assistant", "content": self.response}]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """All rollouts of one prompt."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    """[G] in the order of their seeds."""
    greedy: Rollout | None = None
    """The greedy answer, scored among the others, where it was asked for; a baseline that is not trained on."""


def places_outside(spans: Sequence[tuple[int, int]], length: int) -> list[int]:
    """Return the places below ``length`` that lie in none of the spans [start, end)."""
    inside = {place for start, end in spans for place in range(start, end)}
    return [place for place in range(length) if place not in inside]


def request_seed(seed: int, index: int) -> int:
    """Return the seed of request ``index`` of what has the seed ``seed``, in [0, 2^48), far from all others."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=6).digest(), "big")
