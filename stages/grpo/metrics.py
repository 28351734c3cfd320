"""What an update says of itself. Shapes: N sampled tokens of a micro-batch."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from stages.grpo.batch import Tokens
from stages.grpo.config import GRPOStage
from stages.grpo.loss_config import ClippedRatio, SequenceRatio
from stages.grpo.losses import correction, mean_by_answer


def metrics_of(logprobs_N: Tensor, tokens: Tokens, config: GRPOStage) -> dict[str, float]:
    """Return the metrics of a micro-batch: shares of the batch's means, its maxima, its counts."""
    mismatch_N = logprobs_N - tokens.engine_logprobs_N
    share_N = tokens.weights_N
    metrics = {
        "policy/sampled_nll_nats": float(-(logprobs_N * share_N).sum()),
        "policy/mismatch_mean_nats": float((mismatch_N.abs() * share_N).sum()),
        "policy/mismatch_max_nats": float(mismatch_N.abs().max()),
        "train/answer_tokens": float(len(logprobs_N)),
    }
    loss = config.loss
    if isinstance(loss, ClippedRatio | SequenceRatio) and config.correction is None:
        by_answer = isinstance(loss, SequenceRatio)
        ratio_N = torch.exp(mean_by_answer(mismatch_N, tokens.answers_N) if by_answer else mismatch_N)
        too_low_N = (ratio_N < 1 - loss.clip_low) & (tokens.advantages_N < 0)
        too_high_N = (ratio_N > 1 + loss.clip_high) & (tokens.advantages_N > 0)
        metrics["policy/clipped_fraction"] = float(((too_low_N | too_high_N) * share_N).sum())
    if config.correction is not None:
        weight_N = correction(logprobs_N, tokens.engine_logprobs_N, tokens.answers_N, config.correction)
        metrics["policy/correction_mean"] = float((weight_N * share_N).sum())
    return metrics


def folded(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Join the metrics of micro-batches: weighted means and counts add up, maxima do not."""
    totals: dict[str, float] = {}
    for metrics in parts:
        for name, value in metrics.items():
            total = totals.get(name, value if "_max" in name else 0.0)
            totals[name] = max(total, value) if "_max" in name else total + value
    return totals
