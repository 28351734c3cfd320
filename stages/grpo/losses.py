"""Policy losses by token, and the penalty for leaving the reference.

Shapes: B sequences, T - 1 predicted tokens; every function returns [B, T - 1], still to be weighted and summed.
"""

import torch
from torch import Tensor

from stages.grpo.config import ClippedRatio


def clipped_ratio(
    logprobs_BT: Tensor, engine_logprobs_BT: Tensor, advantages_B: Tensor, config: ClippedRatio
) -> Tensor:
    """Return -min(ratio * advantage, clipped ratio * advantage), the ratio being to the policy that sampled the token.

    Its denominator is the log-probability that the engine reported, so a stale or slightly different engine is
    corrected for by the ratio itself. On fresh samples in float32 the ratio is 1 and the gradient is the plain policy
    gradient. Source: Schulman et al. 2017, arXiv 1707.06347; separate bounds from DAPO, arXiv 2503.14476.
    """
    ratio_BT = torch.exp(logprobs_BT - engine_logprobs_BT)
    clipped_BT = ratio_BT.clamp(1 - config.clip_low, 1 + config.clip_high)
    advantages_B1 = advantages_B.unsqueeze(1)
    return -torch.minimum(ratio_BT * advantages_B1, clipped_BT * advantages_B1)


def k3(logprobs_BT: Tensor, reference_logprobs_BT: Tensor) -> Tensor:
    """Return exp(d) - d - 1 with d = log p_ref - log p: an estimate of KL(policy, reference), in nats, never negative.

    Source: Schulman 2020, "Approximating KL divergence"; as in GRPO, arXiv 2402.03300.
    """
    d_BT = reference_logprobs_BT - logprobs_BT
    return torch.exp(d_BT) - d_BT - 1
