"""Pairs whose prompt is forwarded once, under TRL's own losses.

TRL's loss asks its model for the log-probabilities of a padded batch, [2B, T]: B chosen answers with their prompts,
then the B rejected ones. What stands in for the model here answers the same from packed rows, in which a prompt stands
before both of its answers, so every loss, weight and metric stays TRL's. Wang and Hegde 2024, arXiv 2410.20305.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from stages.packed.forward import AnswerForward, costs_of
from stages.packed.packing import Answer, micro_batches, pack, row_length, rows_of

NOT_COMPUTED = ("entropy", "logits/chosen", "logits/rejected", "mean_token_accuracy")
"""TRL's metrics that need more of the distribution than the answer's own tokens."""


class SharedPrompts:
    """Scores batches of pairs; made for the architecture of one model."""

    def __init__(self, model: Any, *, precision: Any, max_tokens: int) -> None:
        """Find out what the architecture allows. A row holds ``max_tokens`` at most, unless it is one answer."""
        self._forward = AnswerForward(model, precision=precision)
        self._costs = costs_of(model.config, sum(parameter.numel() for parameter in model.parameters()))
        self._max_tokens = max_tokens

    def standing_in_for(self, model: Any) -> "_StandIn":
        """Return what TRL's loss may call in the model's place."""
        return _StandIn(self, model)

    def logprobs(self, model: Any, answers: Sequence[Answer]) -> list[Tensor]:
        """Return the log-probabilities of each answer's tokens, in nats, in the order of the answers."""
        rows = rows_of(answers, self._costs, self._max_tokens) if self._forward.shares else _alone(answers)
        lengths = [row_length(answers, row) for row in rows]
        found: dict[int, Tensor] = {}
        for part in micro_batches(lengths, self._max_tokens):
            together = [rows[at] for at in part]
            packed = pack(answers, together).to(next(model.parameters()).device)
            places = [at for row in together for at in row]
            sizes = [len(answers[at].token_ids) for at in places]
            found |= zip(places, self._forward(model, packed).logprobs_N.split(sizes), strict=True)
        return [found[at] for at in range(len(answers))]


class _StandIn:
    def __init__(self, pairs: SharedPrompts, model: Any) -> None:
        self._pairs = pairs
        self._model = model

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **_: Any) -> SimpleNamespace:
        """Return log-probabilities [2B, T - 1] of tokens 1..T-1 where they are labelled, 0 elsewhere."""
        answers = _answers(input_ids, attention_mask, labels)
        logprobs_BT = torch.zeros(input_ids.shape[0], input_ids.shape[1] - 1, device=input_ids.device)
        rows, columns = (labels[:, 1:] != -100).nonzero(as_tuple=True)
        by_answer = zip(answers, self._pairs.logprobs(self._model, answers), labels, strict=True)
        told = torch.cat(
            [
                found[label_T[len(answer.prompt) : len(answer.prompt) + len(found)] != -100]
                for answer, found, label_T in by_answer
            ]
        )
        nothing = torch.zeros_like(logprobs_BT)
        return SimpleNamespace(
            log_probs=logprobs_BT.index_put((rows, columns), told),
            entropy=nothing,
            mean_logits=nothing,
            is_top1=nothing.bool(),
        )


def _answers(input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> list[Answer]:
    """Return a padded batch's answers; those of a pair are a group."""
    num_pairs = len(input_ids) // 2
    answers = []
    for at, (tokens, label, length) in enumerate(
        zip(input_ids.tolist(), labels.tolist(), attention_mask.sum(dim=1).tolist(), strict=True)
    ):
        start = next(place for place in range(length) if label[place] != -100)
        answers.append(
            Answer(group=at % num_pairs, prompt=tuple(tokens[:start]), token_ids=tuple(tokens[start:length]))
        )
    return answers


def _alone(answers: Sequence[Answer]) -> list[list[int]]:
    return [[at] for at in range(len(answers))]
