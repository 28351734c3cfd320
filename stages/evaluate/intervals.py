"""95 % intervals of a mean, and of a paired difference. Shapes: N problems, R resamples."""

import math
from collections.abc import Sequence

import numpy as np

from stages.base import Estimate

NUM_RESAMPLES = 2000
Z_95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def estimate(values_N: Sequence[float], *, seed: int = 0) -> Estimate:
    """Return the mean with its 95 % interval: Wilson's where every value is 0 or 1, else the bootstrap's.

    Raises ValueError for no values.
    """
    if not values_N:
        raise ValueError("no value to estimate a mean from; the exam has no problem")
    if set(values_N) <= {0.0, 1.0}:  # a bootstrap of 50 right answers would say that the 51st cannot be wrong
        return wilson(int(sum(values_N)), len(values_N))
    return bootstrap(values_N, seed=seed)


def bootstrap(values_N: Sequence[float], *, seed: int = 0) -> Estimate:
    """Return the mean with its 95 % percentile-bootstrap interval."""
    data_N = np.asarray(values_N, dtype=float)
    draws_R = np.empty(NUM_RESAMPLES)
    generator = np.random.default_rng(seed)
    for r in range(NUM_RESAMPLES):  # one resample at a time: R x N indices would not fit for large exams
        draws_R[r] = data_N[generator.integers(0, len(data_N), len(data_N))].mean()
    low, high = np.quantile(draws_R, [0.025, 0.975])
    return Estimate(mean=float(data_N.mean()), low=float(low), high=float(high), num=len(data_N))


def wilson(num_right: int, num: int) -> Estimate:
    """Return a share with its 95 % score interval (Wilson 1927)."""
    mean, z = num_right / num, Z_95
    center, width = mean + z * z / (2 * num), z * math.sqrt(mean * (1 - mean) / num + z * z / (4 * num * num))
    low, high = ((center + sign * width) / (1 + z * z / num) for sign in (-1, 1))
    return Estimate(mean=mean, low=max(0.0, low), high=min(1.0, high), num=num)


def paired_gain(before_N: Sequence[float], after_N: Sequence[float]) -> Estimate:
    """Return the mean gain on the same problems with its 95 % interval; beyond noise when the interval leaves out 0."""
    return bootstrap([after - before for before, after in zip(before_N, after_N, strict=True)])
