"""Which prompts come next. Stages take from here and keep the cursor in their checkpoints."""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rollout.types import Prompt


class PromptSource:
    """Endless prompts: each once an epoch, in an order fixed by the seed and the epoch's number.

    Raises ValueError for no prompts, or for two with the same id.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        _check(prompts)
        self._prompts = tuple(prompts)
        self._seed = seed
        self._epoch = 0
        self._position = 0
        self._order = self._order_of(0)

    @property
    def num_taken(self) -> int:
        """How many prompts were taken since the beginning of the first epoch."""
        return self._epoch * len(self._prompts) + self._position

    def take(self, n: int) -> list[Prompt]:
        """Return the next ``n`` prompts; past the end of an epoch comes the next one."""
        return [self._next() for _ in range(n)]

    def state_dict(self) -> dict[str, Any]:
        """Return where the source stands, ready for JSON."""
        return {
            "epoch": self._epoch,
            "position": self._position,
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
        self._order = self._order_of(self._epoch)

    def _next(self) -> Prompt:
        if self._position == len(self._order):
            self._epoch += 1
            self._position = 0
            self._order = self._order_of(self._epoch)
        prompt = self._prompts[self._order[self._position]]
        self._position += 1
        return prompt

    def _order_of(self, epoch: int) -> list[int]:
        order = list(range(len(self._prompts)))
        random.Random(f"{self._seed}/{epoch}").shuffle(order)
        return order

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
