"""Whether a reward model is right, and whether it is as often right as it says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

NUM_BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How a model tells held-out pairs apart."""

    accuracy: float
    """Share of pairs whose chosen answer gets more; a tie is half right."""
    log_loss: float
    """Mean of -log sigmoid(chosen - rejected), in nats; that of a coin is ln 2."""
    error: float
    """Expected calibration error: mean distance between how sure the model is and how often it is right, over bins of
    pairs of which it is about as sure (Guo et al. 2017, arXiv 1706.04599)."""


def calibration(chosen: Sequence[float], rejected: Sequence[float]) -> Calibration:
    """Return the accuracy and calibration of numbers for pairs; a difference of d means odds of e^d."""
    differences = [better - worse for better, worse in zip(chosen, rejected, strict=True)]
    bins: list[list[tuple[float, float]]] = [[] for _ in range(NUM_BINS)]
    for difference in differences:
        sure = 1 / (1 + math.exp(-min(abs(difference), 700.0)))
        right = 0.5 if difference == 0 else float(difference > 0)
        bins[min(NUM_BINS - 1, int((sure - 0.5) * 2 * NUM_BINS))].append((sure, right))
    off = [len(each) * abs(fmean(s for s, _ in each) - fmean(r for _, r in each)) for each in bins if each]
    return Calibration(
        accuracy=fmean(0.5 if difference == 0 else float(difference > 0) for difference in differences),
        log_loss=fmean(_softplus(-difference) for difference in differences),
        error=sum(off) / len(differences),
    )


def _softplus(value: float) -> float:
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))
