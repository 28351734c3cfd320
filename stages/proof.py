"""The proof of a hand-over: what a model says of a few probes must survive every step from the model that learned to
the folder that the next stage reads. The step that it does not survive is named, and nothing is handed over.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import fmean
from typing import Literal

from rollout.engine import Precision
from stages.base import StageError

Step = Literal["gather", "merge", "tie", "cast", "save", "tokenizer", "EOS", "pooling"]
STEPS: dict[Step, str] = {
    "gather": "the ranks' parts become one model",
    "merge": "the adapter is added to the weights",
    "tie": "embeddings and output head share one weight, or each has its own",
    "cast": "the weights are rounded to the run's precision",
    "save": "the folder is written, and read as the next stage reads it",
    "tokenizer": "the tokenizer is written, and read as the next stage reads it",
    "EOS": "the tokens that end a turn are written, and read as an engine reads them",
    "pooling": "the token whose state is scored is chosen",
}
"""The steps in their order, and what happens in each."""
EXACT = 1e-3
"""How far a value may move in a step that rounds no weight: on both sides the computation is float32."""
ROUNDING: dict[Precision, float] = {"float32": EXACT, "float16": 0.02, "bfloat16": 0.1}
"""How far values may move on average when the weights are rounded: seven times what SmolLM2-135M moved over 237 tokens
of four conversations, 0.014 nats in bfloat16 and 0.0026 in float16. Single tokens moved six times as far as the mean,
and by chance, so none is looked at alone."""

Values = Sequence[Sequence[float]]


@dataclass(slots=True, kw_only=True)
class Proof:
    """What a model says of probes, held against what it said before the last step."""

    of: str
    """What the values are: `a probe token's log-probability in nats`."""
    said: Values
    """As it was said last; at first, by the model that learned."""
    scale: float = 1.0
    """Of the values, where they have none of their own: limits are multiples of it."""
    moved: dict[str, float] = field(default_factory=dict)
    """By how much each step moved a value at most."""

    def after(self, step: Step, said: Values, *, rounded_to: Precision = "float32") -> None:
        """Take note of what is said after a step. Raises StageError where the step moved it too far."""
        drifts = differences(self.said, said)
        self.said, self.moved[step] = said, max(drifts)
        rounds = rounded_to != "float32"
        drift = fmean(drifts) if rounds else max(drifts)
        limit = self.scale * ROUNDING[rounded_to]
        if not drift <= limit:
            how = "on average" if rounds else "at most"
            raise broken(step, f"{self.of} moved by {drift:.3g} {how} (limit {limit:.3g})")


def differences(before: Values, after: Values) -> list[float]:
    """Return how far each value has moved; what is no number, on either side, has moved infinitely far."""
    pairs = zip(chain.from_iterable(before), chain.from_iterable(after), strict=True)
    return [gap if math.isfinite(gap := abs(a - b)) else math.inf for a, b in pairs]


def broken(step: Step, what: str) -> StageError:
    """Return the error of a step that did not leave the model as it was."""
    return StageError(
        f"the hand-over broke at step {step!r}, where {STEPS[step]}: {what}. What would be handed over is not what "
        "learned, so nothing is; the last checkpoint is whole, and a resume tries the hand-over again"
    )
