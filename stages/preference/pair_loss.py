"""TRL's losses of pairs as functions of log-probabilities alone, for pairs that are not in a data set.

Shapes: P pairs, T tokens of an answer.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import trl
from torch import Tensor

from stages.metrics import OF_PAIRS
from stages.preference.loss_config import LossOfPairs
from stages.preference.losses import offsets, raise_of_chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLogprobs:
    """An answer's tokens under the policy and under the reference."""

    policy_T: Tensor
    """[T] nats."""
    reference_T: Tensor
    """[T] nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """A loss, and how it changes with each token's log-probability."""

    loss: float
    gradients: list[Tensor]
    """[T] of each answer: chosen, rejected, chosen, rejected, ..."""
    metrics: dict[str, float]


def price(pairs: Sequence[tuple[AnswerLogprobs, AnswerLogprobs]], gaps: Sequence[float], loss: LossOfPairs) -> Priced:
    """Return the mean loss of pairs (chosen, rejected) whose scores lie ``gaps`` apart, and its gradients.

    By the chain rule, answers whose tokens get these gradients as weights of their log-probabilities have the gradient
    of the loss itself: whatever the loss, learning from pairs is a policy gradient. Raises StageError for a gap that
    makes no offset.
    """
    answers = [*(chosen for chosen, _ in pairs), *(rejected for _, rejected in pairs)]
    raised = [
        raise_of_chosen(offset, len(chosen.policy_T), loss)
        for (chosen, _), offset in zip(pairs, offsets(gaps, loss), strict=True)
    ]
    policy_AT = _padded([answer.policy_T for answer in answers]).requires_grad_()
    reference_AT = _padded([answer.reference_T for answer in answers])
    reference_AT[: len(pairs), 0] += torch.tensor(raised, device=reference_AT.device)
    lengths = torch.tensor([len(answer.policy_T) for answer in answers], device=policy_AT.device)
    after_prompt = torch.arange(policy_AT.shape[1] + 1, device=policy_AT.device)
    mask_AT = ((after_prompt > 0) & (after_prompt <= lengths.unsqueeze(1))).long()
    trainer = _trainer(loss, reference_AT)
    inputs = {"input_ids": torch.zeros_like(mask_AT), "attention_mask": mask_AT, "completion_mask": mask_AT}
    value: Tensor = trl.DPOTrainer._compute_loss(trainer, lambda **_: _outputs(policy_AT), inputs, False)
    [gradient_AT] = torch.autograd.grad(value, [policy_AT])
    by_answer = [row[:length] for row, length in zip(gradient_AT, lengths.tolist(), strict=True)]
    told = trainer._metrics["train"]
    return Priced(
        loss=value.item(),
        gradients=[row for two in zip(by_answer[: len(pairs)], by_answer[len(pairs) :], strict=True) for row in two],
        metrics={ours: told[theirs][0] for theirs, ours in OF_PAIRS.items()},
    )


def _padded(rows: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([row.detach().float() for row in rows], batch_first=True)


def _outputs(logprobs_AT: Tensor) -> SimpleNamespace:
    """Return what TRL reads of a model's answer; of what is no log-probability only metrics are made."""
    nothing = torch.zeros_like(logprobs_AT)
    return SimpleNamespace(log_probs=logprobs_AT, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())


def _trainer(loss: LossOfPairs, reference_AT: Tensor) -> Any:
    """Return what TRL's loss reads of its trainer."""
    family = loss.in_trl()
    policy = torch.nn.Identity()  # in training mode, without an adapter
    policy.is_gradient_checkpointing = False

    def same(value: Any) -> Any:
        return value

    return SimpleNamespace(
        model=policy,
        ref_model=lambda **_: _outputs(reference_AT),
        accelerator=SimpleNamespace(device=reference_AT.device, gather=same, gather_for_metrics=same),
        args=SimpleNamespace(
            discopop_tau=trl.DPOConfig.__dataclass_fields__["discopop_tau"].default, gradient_checkpointing_kwargs=None
        ),
        precompute_ref_logps=False,
        aux_loss_enabled=False,
        beta=family.beta,
        loss_types=list(family.variants),
        loss_weights=family.weights or [1.0] * len(family.variants),
        label_smoothing=family.label_smoothing,
        f_divergence_type=family.f_divergence,
        f_alpha_divergence_coef=trl.DPOConfig.__dataclass_fields__["f_alpha_divergence_coef"].default,
        ld_alpha=family.ld_alpha,
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
