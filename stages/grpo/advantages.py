"""Advantages: what each answer of a group is worth beside its siblings.

Shapes: N groups of a batch, of G answers each. Answers that could not be scored are no part of any statistic and get
None. A group without signal, fewer than two scores or a spread within the tolerance, gives None as a whole: it is to
train nothing.
"""

import statistics
from collections.abc import Sequence

from stages.grpo.config import AdvantageConfig

Values = Sequence[float | None]


def advantages(values_NG: Sequence[Values], config: AdvantageConfig) -> list[list[float | None] | None]:
    """Return the advantages of a batch, [N][G], as the config's docstring defines them."""
    rows = [values_G if has_signal(values_G, config.tolerance) else None for values_G in values_NG]
    if config.type == "group_normalized":
        return [None if row is None else divided(centred(row), deviation(row) + config.epsilon) for row in rows]
    centred_rows = [None if row is None else centred(row) for row in rows]
    scale = deviation([value for row in centred_rows if row is not None for value in row]) + config.epsilon
    return [None if row is None else divided(row, scale) for row in centred_rows]


def has_signal(values_G: Values, tolerance: float) -> bool:
    """Say whether there are two scores that lie further apart than the tolerance."""
    scored = [value for value in values_G if value is not None]
    return len(scored) > 1 and max(scored) - min(scored) > tolerance


def centred(values: Values) -> list[float | None]:
    """Return the values less their mean."""
    mean = statistics.fmean(value for value in values if value is not None)
    return [None if value is None else value - mean for value in values]


def divided(values: Values, scale: float) -> list[float | None]:
    """Return the values over a scale."""
    return [None if value is None else value / scale for value in values]


def deviation(values: Values) -> float:
    """Return the standard deviation with Bessel's correction, as TRL has it; 0 where there are no two values."""
    scored = [value for value in values if value is not None]
    return statistics.stdev(scored) if len(scored) > 1 else 0.0
