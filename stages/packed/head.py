"""The output head, some tokens at a time: log-probability and entropy of each, without a batch of logits in memory.

Shapes: N tokens, C of them at once, H width, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 1024
"""Tokens whose logits are in memory at once."""


def read_head(
    states_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, temperature: float, entropy: bool
) -> Tensor:
    """Return [N, 1] log p(target), or [N, 2] with the entropy after it, in nats, in float32.

    The distribution is softmax((states @ weight.T + bias) / temperature). Logits are computed again going back.
    """
    dtype = torch.get_autocast_dtype(states_NH.device.type)
    if torch.is_autocast_enabled(states_NH.device.type):
        states_NH, weight_VH = states_NH.to(dtype), weight_VH.to(dtype)
        bias_V = None if bias_V is None else bias_V.to(dtype)
    told: Tensor = _ReadHead.apply(states_NH, weight_VH, bias_V, targets_N, temperature, entropy)
    return told


class _ReadHead(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any,
        states_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        temperature: float,
        entropy: bool,
    ) -> Tensor:
        told_NX = torch.empty(len(states_NH), 2 if entropy else 1, dtype=torch.float32, device=states_NH.device)
        for part in _parts(len(states_NH)):
            logprobs_CV = torch.log_softmax(_logits(states_NH[part], weight_VH, bias_V, temperature), dim=1)
            told_NX[part, :1] = logprobs_CV.gather(1, targets_N[part].unsqueeze(1))
            if entropy:
                told_NX[part, 1:] = -(logprobs_CV.exp().mul_(logprobs_CV)).sum(dim=1, keepdim=True)
        ctx.save_for_backward(states_NH, weight_VH, bias_V, targets_N, told_NX)
        ctx.temperature, ctx.entropy = temperature, entropy
        return told_NX

    @staticmethod
    def backward(ctx: Any, grad_NX: Tensor) -> tuple[Tensor | None, ...]:
        states_NH, weight_VH, bias_V, targets_N, told_NX = ctx.saved_tensors
        for_states, for_weight, for_bias, *_ = ctx.needs_input_grad
        grad_states_NH = torch.empty_like(states_NH) if for_states else None
        grad_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if for_weight else None
        grad_bias_V = torch.zeros_like(bias_V) if for_bias else None
        for part in _parts(len(states_NH)):
            logits_CV = _logits(states_NH[part], weight_VH, bias_V, ctx.temperature)
            grad_CV = _grad_logits(logits_CV, targets_N[part], told_NX[part], grad_NX[part], ctx.entropy)
            if ctx.temperature != 1.0:
                grad_CV = grad_CV.div_(ctx.temperature)
            grad_CV = grad_CV.to(states_NH.dtype)
            if grad_states_NH is not None:
                torch.mm(grad_CV, weight_VH, out=grad_states_NH[part])
            if grad_weight_VH is not None:
                _add_product(grad_weight_VH, grad_CV.T, states_NH[part])
            if grad_bias_V is not None:
                grad_bias_V += grad_CV.sum(dim=0)
        if grad_weight_VH is not None:
            grad_weight_VH = grad_weight_VH.to(weight_VH.dtype)
        return grad_states_NH, grad_weight_VH, grad_bias_V, None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left @ right`` to a total in float32: a sum of many parts would be rounded once a part in bfloat16."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _grad_logits(logits_CV: Tensor, targets_C: Tensor, told_CX: Tensor, grad_CX: Tensor, entropy: bool) -> Tensor:
    """Return the gradient of the logits: of log p(target) it is [target] - p, of the entropy H -p * (log p + H)."""
    weight_C1 = grad_CX[:, :1]
    if entropy:
        logprobs_CV = torch.log_softmax(logits_CV, dim=1)
        factor_CV = (logprobs_CV + told_CX[:, 1:]).mul_(grad_CX[:, 1:]).add_(weight_C1)
        grad_CV = logprobs_CV.exp_().mul_(factor_CV).neg_()
    else:
        grad_CV = torch.softmax(logits_CV, dim=1).mul_(-weight_C1)
    return grad_CV.scatter_add_(1, targets_C.unsqueeze(1), weight_C1)


def _logits(states_CH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, temperature: float) -> Tensor:
    logits_CV = functional.linear(states_CH, weight_VH, bias_V).float()
    return logits_CV if temperature == 1.0 else logits_CV.div_(temperature)


def _parts(length: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, length)) for start in range(0, length, CHUNK))
