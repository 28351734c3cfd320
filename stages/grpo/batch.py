"""Groups become tensors, here and nowhere else.

Shapes: B sequences (completions with signal), T tokens of the longest (prompt and completion, padded on the right).
Position t of a [B, T - 1] tensor speaks of token t + 1, as next-token predictions do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from rollout.types import RolloutGroup
from stages.grpo.advantages import advantages
from stages.grpo.config import GRPOStage
from stages.logprobs import pad_right


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """All completions that one optimizer step learns from."""

    tokens_BT: Tensor
    """[B, T] prompt, then completion."""
    attention_BT: Tensor
    """[B, T] 1 on tokens, 0 on padding."""
    answer_BT: Tensor
    """[B, T - 1] 1 where the token was sampled by the policy, 0 on prompt and padding."""
    engine_logprobs_BT: Tensor
    """[B, T - 1] what the engine gave each sampled token, in nats; 0 elsewhere."""
    advantages_B: Tensor
    """[B]."""
    weights_BT: Tensor
    """[B, T - 1] share of each sampled token in the batch's loss; what the config's `aggregate` says. Sums to 1."""

    def micro_batches(self, size: int) -> Iterator["TrainingBatch"]:
        """Yield parts of at most ``size`` sequences of like length, without needless padding.

        The weights were fixed for the whole batch, so the parts' losses add up to the loss of the whole.
        """
        lengths_B = self.attention_BT.sum(dim=1)
        for rows in torch.argsort(lengths_B, descending=True).split(size):
            longest = int(lengths_B[rows].max())
            yield TrainingBatch(**{f.name: _cut(getattr(self, f.name)[rows], f.name, longest) for f in fields(self)})

    def to(self, device: torch.device) -> "TrainingBatch":
        """Return the same batch on a device."""
        return TrainingBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def make_batch(groups: Sequence[RolloutGroup], config: GRPOStage) -> TrainingBatch | None:
    """Return the completions of all groups that have signal; None where none has."""
    return _batch(groups, [_values(group) for group in groups], config)


def batches_by_reward(groups: Sequence[RolloutGroup], config: GRPOStage) -> dict[str, TrainingBatch]:
    """Return the batch that each reward alone would make, without its weight; not of rewards without signal."""
    found = {}
    for label in (reward.label for reward in config.rewards):
        batch = _batch(groups, [_values(group, label) for group in groups], config)
        if batch is not None:
            found[label] = batch
    return found


def _batch(
    groups: Sequence[RolloutGroup], values_NG: Sequence[Sequence[float | None]], config: GRPOStage
) -> TrainingBatch | None:
    advantages_NG = advantages(values_NG, config.advantage)
    rows = [row for group, given in zip(groups, advantages_NG, strict=True) if given for row in _rows(group, given)]
    if not rows:
        return None
    tokens_BT, attention_BT = pad_right([row.prompt + row.answer for row in rows])
    answer_BT = torch.zeros(tokens_BT.shape[0], tokens_BT.shape[1] - 1)
    engine_logprobs_BT = torch.zeros_like(answer_BT)
    for b, row in enumerate(rows):
        start, end = len(row.prompt) - 1, len(row.prompt) + len(row.answer) - 1
        answer_BT[b, start:end] = 1.0
        engine_logprobs_BT[b, start:end] = torch.tensor(row.logprobs)
    return TrainingBatch(
        tokens_BT=tokens_BT,
        attention_BT=attention_BT,
        answer_BT=answer_BT,
        engine_logprobs_BT=engine_logprobs_BT,
        advantages_B=torch.tensor([row.advantage for row in rows]),
        weights_BT=token_weights(answer_BT, config.loss.aggregate),
    )


def token_weights(answer_BT: Tensor, aggregate: str) -> Tensor:
    """Return [B, T - 1] weights that sum to 1: equal for all tokens, or for all answers and shared inside each."""
    if aggregate == "token":
        return answer_BT / answer_BT.sum()
    return answer_BT / answer_BT.sum(dim=1, keepdim=True) / answer_BT.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    logprobs: tuple[float, ...]
    advantage: float


def _values(group: RolloutGroup, label: str | None = None) -> list[float | None]:
    """Return [G] values of the group, of all its rewards together or of one."""
    scores = [rollout.score for rollout in group.rollouts]
    return [score.value if label is None else score.parts.get(label) for score in scores]


def _rows(group: RolloutGroup, advantages_G: Sequence[float | None]) -> Iterator[_Row]:
    for rollout, advantage in zip(group.rollouts, advantages_G, strict=True):
        if advantage is not None:
            completion = rollout.completion
            yield _Row(
                prompt=group.prompt.token_ids,
                answer=completion.token_ids,
                logprobs=completion.logprobs,
                advantage=advantage,
            )


def _cut(tensor: Tensor, name: str, longest: int) -> Tensor:
    if name == "advantages_B":
        return tensor
    return tensor[:, :longest] if name in ("tokens_BT", "attention_BT") else tensor[:, : longest - 1]
