"""Hints: answers that begin with a part of a worked solution, less and less of it, which is also learned.

UFT, Liu, Farina and Ozdaglar 2025, arXiv 2505.16984: of a solution's L steps the first l are given, l drawn from
Binomial(L, p), where p falls along half a cosine.
"""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rollout.types import Prompt
from stages.base import StageError
from stages.data.rendering import TokenizerChat
from stages.grpo.config import HintConfig, steps_of_solution


class Hints:
    """Begins the answers to prompts. What is given follows from the seed, the prompt's number and the step alone."""

    def __init__(self, config: HintConfig, tokenizer: Any, *, room: int, seed: int) -> None:
        """``room`` is how many tokens a prompt and its hint may have together."""
        self._config = config
        self._chat = TokenizerChat(tokenizer)
        self._room = room
        self._seed = seed

    def __call__(self, prompt: Prompt, number: int, step: int) -> Prompt:
        """Return the prompt with the beginning of its answer; ``step`` is the version that its group leads to."""
        parts = steps_of(prompt, self._config)
        draw = random.Random(f"{self._seed}/{number}")
        given = sum(draw.random() < share(self._config, step - 1) for _ in parts)
        while given:
            token_ids = self._tokens("".join(parts[:given]))
            if len(prompt.token_ids) + len(token_ids) <= self._room:
                return replace(prompt, hint_ids=token_ids)
            given -= 1
        return prompt

    def _tokens(self, text: str) -> tuple[int, ...]:
        control = self._chat.control
        return tuple(self._chat.token_ids(control.settled(control.marked(text, "assistant"))))


def hinting(config: HintConfig | None, tokenizer: Any, *, room: int, seed: int) -> Callable[[Prompt, int, int], Prompt]:
    """Return what begins the answers to prompts; without a config it leaves them as they are."""
    return Hints(config, tokenizer, room=room, seed=seed) if config is not None else lambda prompt, number, step: prompt


def share(config: HintConfig, step: int) -> float:
    """Return the chance of a step of a solution to be given before optimizer step ``step``, the first being 0."""
    if step >= config.num_steps:
        return 0.0
    fallen = (1 + math.cos(math.pi * (step + 1) / config.num_steps)) / 2
    return config.least + (config.most - config.least) * fallen


def steps_of(prompt: Prompt, config: HintConfig) -> list[str]:
    """Return a solution's steps, each with what separates it from the next. Raises StageError where there is none."""
    solution = prompt.columns.get("gold_completion" if config.column == "completion" else config.column)
    parts = steps_of_solution(solution, config.separator)
    if not parts:
        raise StageError(f"prompt {prompt.id!r} has no solution in column {config.column!r} to take hints from")
    return parts
