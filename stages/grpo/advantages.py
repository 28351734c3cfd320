"""Advantages: what each answer of a group is worth beside its siblings."""

import statistics
from collections.abc import Sequence

from stages.grpo.config import GroupNormalized


def group_normalized(rewards_G: Sequence[float | None], config: GroupNormalized) -> list[float | None] | None:
    """Return (reward - mean) / (std + epsilon) over the scored answers, std with Bessel's correction as in TRL.

    Answers that could not be scored are no part of mean or std and get None. A group without signal, fewer than two
    scores or a spread within the tolerance, gives None as a whole: it is to train nothing.
    Source: Shao et al. 2024, arXiv 2402.03300.
    """
    scored = [reward for reward in rewards_G if reward is not None]
    if len(scored) < 2 or max(scored) - min(scored) <= config.tolerance:
        return None
    mean, std = statistics.fmean(scored), statistics.stdev(scored)
    return [None if reward is None else (reward - mean) / (std + config.epsilon) for reward in rewards_G]
