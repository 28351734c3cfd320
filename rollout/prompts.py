"""Which prompts come next. Stages take from here and keep the cursor in their checkpoints."""

import hashlib
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rollout.config import ByDifficulty, PromptOrder, Shuffled
from rollout.types import Prompt, RolloutGroup


class PromptSource:
    """Endless prompts: each at most once an epoch, in an order fixed by the seed and the epoch's number.

    With `by_difficulty`, a prompt that was answered before comes again in a later epoch with a chance of
    sqrt(a (1 - a)) / 0.5, where a is its running pass rate, and never less than the floor: what is always or never
    passed teaches nothing now, and may later. After Behavior Injection (Cen et al. 2025, arXiv 2505.18917), where the
    same quantity says how ready a model is. Raises ValueError for no prompts, or for two with the same id.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int, config: PromptOrder | None = None) -> None:
        _check(prompts)
        self._prompts = tuple(prompts)
        self._seed = seed
        self._config = config or Shuffled()
        self._rates: dict[str, float] = {}
        self._num_taken = 0
        self._epoch = 0
        self._position = 0
        self._order = self._order_of(0)

    @property
    def num_taken(self) -> int:
        """How many prompts were taken since the beginning of the first epoch."""
        return self._num_taken

    def observe(self, groups: Sequence[RolloutGroup]) -> None:
        """Take note of how often each prompt was passed; only the order by difficulty asks."""
        if isinstance(self._config, ByDifficulty):
            for group in groups:
                marks = [rollout.score.parts.get(self._config.reward) for rollout in group.rollouts]
                passed = [mark >= self._config.passes for mark in marks if mark is not None]
                if passed:
                    rate = sum(passed) / len(passed)
                    old = self._rates.get(group.prompt.id, rate)
                    self._rates[group.prompt.id] = old + self._config.newest * (rate - old)

    def take(self, n: int) -> list[Prompt]:
        """Return the next ``n`` prompts; past the end of an epoch comes the next one."""
        return [self._next() for _ in range(n)]

    def state_dict(self) -> dict[str, Any]:
        """Return where the source stands, ready for JSON."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            "num_taken": self._num_taken,
            "order": self._order if isinstance(self._config, ByDifficulty) else None,
            "rates": self._rates,
            "seed": self._seed,
            "prompts": self._fingerprint(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where another source stood. Raises ValueError if that had another seed or other prompts."""
        for name, own in (("seed", self._seed), ("prompts", self._fingerprint())):
            if state[name] != own:
                raise ValueError(
                    f"the saved cursor is of {name} {state[name]!r}, but this source has {own!r}; resume "
                    "with the seed and the prompts that the run was started with, or start a new run"
                )
        self._epoch = state["epoch"]
        self._position = state["position"]
        self._num_taken = state["num_taken"]
        self._rates = dict(state["rates"])
        self._order = state["order"] or self._order_of(self._epoch)

    def _next(self) -> Prompt:
        while self._position == len(self._order):
            self._epoch += 1
            self._position = 0
            self._order = self._order_of(self._epoch)
        prompt = self._prompts[self._order[self._position]]
        self._position += 1
        self._num_taken += 1
        return prompt

    def _order_of(self, epoch: int) -> list[int]:
        draw = random.Random(f"{self._seed}/{epoch}")
        order = list(range(len(self._prompts)))
        draw.shuffle(order)
        return [at for at in order if draw.random() < self._chance(self._prompts[at].id)] or order

    def _chance(self, prompt_id: str) -> float:
        """Return the chance of a prompt to be in an epoch."""
        rate = self._rates.get(prompt_id)
        if rate is None or isinstance(self._config, Shuffled):
            return 1.0
        return max(self._config.floor, 2 * math.sqrt(rate * (1 - rate)))

    def _fingerprint(self) -> str:
        """Hash of the ids in their order."""
        return hashlib.blake2b("\n".join(p.id for p in self._prompts).encode(), digest_size=8).hexdigest()


def _check(prompts: Sequence[Prompt]) -> None:
    if not prompts:
        raise ValueError("there are no prompts; the data set is empty, or a filter has dropped every row")
    empty = next((p.id for p in prompts if not p.token_ids), None)
    if empty is not None:
        raise ValueError(f"prompt {empty!r} has no tokens; every prompt needs at least one")
    name, count = Counter(prompt.id for prompt in prompts).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{count} prompts have the id {name!r}; ids name rows and must differ")
