"""Weights of single tokens in a loss of pairs, where some say more than others.

A weighted answer's log-probability is sum_t w_t log p(token t), under the policy and the reference alike: the
token-weighted DPO of "Diagnose, Localize, Align" (2025). TRL sums what it is told of tokens, which is weighed before.
Shapes: B pairs, T tokens of a padded batch.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from stages.base import StageError

COLUMNS = ("chosen_weights", "rejected_weights")


class WeightedCollator:
    """TRL's collator, with `token_weights` [2B, T - 1] added to what it makes: those of tokens 1..T-1."""

    def __init__(self, collator: Any) -> None:
        self._collator = collator

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return the batch."""
        batch: dict[str, Tensor] = self._collator(examples)
        weights_BT = torch.ones_like(batch["input_ids"][:, 1:], dtype=torch.float32)
        sides = [(example, column) for column in COLUMNS for example in examples]
        for row, (example, column) in enumerate(sides):
            start = len(example["prompt_ids"]) - 1
            found = torch.tensor(example[column], dtype=torch.float32)[: weights_BT.shape[1] - start]
            weights_BT[row, start : start + len(found)] = found
        return {**batch, "token_weights": weights_BT}


class Weighing:
    """Stands in for a model, and weighs the log-probabilities that it tells."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, *, token_weights: Tensor, **inputs: Any) -> SimpleNamespace:
        """Return what TRL reads of the model's answer."""
        told = self._model(**inputs)
        read = {name: getattr(told, name, None) for name in ("entropy", "mean_logits", "is_top1", "log_sum_sq_probs")}
        return SimpleNamespace(**read, log_probs=told.log_probs * token_weights.to(told.log_probs.device))


def require_one_a_token(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise StageError where a row of tokens has not as many weights, or one that is no finite number."""
    for number, row in enumerate(rows, start=1):
        for column in COLUMNS:
            weights, tokens = row[column], row[column.replace("_weights", "_ids")]
            if len(weights) != len(tokens):
                raise StageError(
                    f"row {number} has {len(weights)} {column} for {len(tokens)} tokens; there must be one for each "
                    "token of the answer as the chat template writes it, its end of the turn among them"
                )
            if not all(abs(weight) < float("inf") for weight in weights):
                raise StageError(f"row {number} has {column} that are not finite numbers")
