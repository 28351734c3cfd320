"""Policy losses by token, corrections for tokens that another policy sampled, and the penalty for leaving a reference.

Shapes: N sampled tokens of some answers; every function returns [N], still to be weighted and summed. ``answers_N``
says which answer a token is part of: all tokens of an answer are among them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stages.grpo.loss_config import (
    AdvantageRegression,
    ClippedRatio,
    ClippedWeight,
    CorrectionConfig,
    KLConfig,
    PolicyGradient,
    SequenceRatio,
    SoftGate,
    Uncorrected,
)


def clipped_ratio(
    logprobs_N: Tensor, old_N: Tensor, advantages_N: Tensor, answers_N: Tensor, config: ClippedRatio
) -> Tensor:
    """Return -min(ratio * advantage, clipped ratio * advantage), the ratio being to the policy of ``old_N``.

    On fresh samples in float32 the ratio is 1 and the gradient is the plain policy gradient. Source: Schulman et al.
    2017, arXiv 1707.06347; separate bounds from DAPO, arXiv 2503.14476; ``most`` is the second clip of bad answers, Ye
    et al. 2020, arXiv 1912.09729.
    """
    ratio_N = torch.exp(logprobs_N - old_N)
    return _clipped(ratio_N, advantages_N, config)


def sequence_ratio(
    logprobs_N: Tensor, old_N: Tensor, advantages_N: Tensor, answers_N: Tensor, config: SequenceRatio
) -> Tensor:
    """Return the clipped surrogate of a ratio by answer: the geometric mean of its tokens' ratios.

    Source: GSPO, Zheng et al. 2025, arXiv 2507.18071.
    """
    ratio_N = torch.exp(mean_by_answer(logprobs_N - old_N, answers_N))
    return _clipped(ratio_N, advantages_N, config)


def clipped_weight(
    logprobs_N: Tensor, old_N: Tensor, advantages_N: Tensor, answers_N: Tensor, config: ClippedWeight
) -> Tensor:
    """Return -weight * advantage * log p, the weight being the ratio, cut at the top and without a gradient.

    No token's gradient is lost, as it is by a clipped ratio. Source: CISPO, MiniMax 2025, arXiv 2506.13585.
    """
    weight_N = torch.exp(logprobs_N - old_N).clamp(max=1 + config.clip_high).detach()
    return -weight_N * advantages_N * logprobs_N


def soft_gate(logprobs_N: Tensor, old_N: Tensor, advantages_N: Tensor, answers_N: Tensor, config: SoftGate) -> Tensor:
    """Return -(4 / t) * sigmoid(t * (ratio - 1)) * advantage: a clip that fades.

    The gradient at ratio 1 is that of the plain policy gradient, and falls on both sides of it, the faster the larger
    t, of which good and bad answers have each their own. Source: SAPO, Gao et al. 2025, arXiv 2511.20347.
    """
    good = torch.full_like(advantages_N, config.sharpness_good)
    t_N = torch.where(advantages_N > 0, good, config.sharpness_bad)
    ratio_N = torch.exp(logprobs_N - old_N)
    return -4 / t_N * torch.sigmoid(t_N * (ratio_N - 1)) * advantages_N


def advantage_regression(
    logprobs_N: Tensor, old_N: Tensor, advantages_N: Tensor, answers_N: Tensor, config: AdvantageRegression
) -> Tensor:
    """Return (advantage - log-ratio of the whole answer / scale)^2 for each of its tokens.

    The policy is fitted to the advantages, so nothing needs a clip: at the optimum its answers are likelier by e^(scale
    * advantage) than before. Its gradient at ratio 1 is 2 / scale times the policy gradient by sequence. After
    Reg-GRPO, Park et al. 2025, arXiv 2506.07464, and REBEL, Gao et al. 2024, arXiv 2404.16767.
    """
    log_ratio_N = sum_by_answer(logprobs_N - old_N, answers_N)
    return (advantages_N - log_ratio_N / config.scale) ** 2


def policy_gradient(
    logprobs_N: Tensor, old_N: Tensor, advantages_N: Tensor, answers_N: Tensor, config: PolicyGradient
) -> Tensor:
    """Return -advantage * log p: REINFORCE (Williams 1992), for samples of the policy itself."""
    return -advantages_N * logprobs_N


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Any], Tensor]] = {
    "clipped_ratio": clipped_ratio,
    "sequence_ratio": sequence_ratio,
    "clipped_weight": clipped_weight,
    "soft_gate": soft_gate,
    "advantage_regression": advantage_regression,
    "policy_gradient": policy_gradient,
    "online_preference": policy_gradient,
}
"""Every loss type, and its function."""


def _clipped(ratio_N: Tensor, advantages_N: Tensor, config: ClippedRatio | SequenceRatio) -> Tensor:
    clipped_N = ratio_N.clamp(1 - config.clip_low, 1 + config.clip_high)
    if config.most is not None:
        ratio_N = ratio_N.clamp(max=config.most)
    return -torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)


def correction(current_N: Tensor, engine_N: Tensor, answers_N: Tensor, config: CorrectionConfig) -> Tensor:
    """Return [N] importance weights, current policy over the one that sampled, bounded as the config says.

    Sources: truncated, Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training";
    masked, IcePop, Ling team 2025, arXiv 2510.18855. With the ratio then taken to the current policy, this is the
    decoupled objective of Hilton et al. 2021, arXiv 2110.00641, its proximal policy being the one before the update.
    """
    if isinstance(config, Uncorrected):
        return torch.ones_like(current_N)
    log_ratio_N = current_N - engine_N
    if config.level == "sequence":
        log_ratio_N = sum_by_answer(log_ratio_N, answers_N)
    weight_N = torch.exp(log_ratio_N)
    if config.type == "truncated":
        return weight_N.clamp(max=config.most)
    return torch.where((weight_N >= config.least) & (weight_N <= config.most), weight_N, 0.0)


def kl(logprobs_N: Tensor, reference_N: Tensor, config: KLConfig) -> Tensor:
    """Return an estimate of KL(policy, reference) by token, in nats, as the config defines it."""
    d_N = reference_N - logprobs_N
    if config.estimate == "k1":
        return -d_N
    if config.estimate == "k2":
        return 0.5 * d_N**2
    return torch.exp(d_N) - d_N - 1


def sum_by_answer(values_N: Tensor, answers_N: Tensor) -> Tensor:
    """Return [N]: for each token the sum over all tokens of its answer."""
    _, places_N = torch.unique(answers_N, return_inverse=True)
    sums = torch.zeros(int(places_N.max()) + 1, dtype=values_N.dtype, device=values_N.device)
    return sums.index_add(0, places_N, values_N)[places_N]


def mean_by_answer(values_N: Tensor, answers_N: Tensor) -> Tensor:
    """Return [N]: for each token the mean over all tokens of its answer."""
    return sum_by_answer(values_N, answers_N) / sum_by_answer(torch.ones_like(values_N), answers_N)
