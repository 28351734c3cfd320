"""Bootstrap intervals of a mean, and of a paired difference. Shapes: N problems, R resamples."""

from collections.abc import Sequence

import numpy as np

from stages.base import Estimate

NUM_RESAMPLES = 2000


def estimate(values_N: Sequence[float], *, seed: int = 0) -> Estimate:
    """Return the mean with its 95 % percentile-bootstrap interval. Raises ValueError for no values."""
    if not values_N:
        raise ValueError("no value to estimate a mean from; every answer of the exam was unscorable")
    data_N = np.asarray(values_N, dtype=float)
    draws_R = np.empty(NUM_RESAMPLES)
    generator = np.random.default_rng(seed)
    for r in range(NUM_RESAMPLES):  # one resample at a time: R x N indices would not fit for large exams
        draws_R[r] = data_N[generator.integers(0, len(data_N), len(data_N))].mean()
    low, high = np.quantile(draws_R, [0.025, 0.975])
    return Estimate(mean=float(data_N.mean()), low=float(low), high=float(high), num=len(data_N))


def paired_gain(before_N: Sequence[float], after_N: Sequence[float]) -> Estimate:
    """Return the mean gain on the same problems with its 95 % interval; beyond noise when the interval leaves out 0."""
    return estimate([after - before for before, after in zip(before_N, after_N, strict=True)])
