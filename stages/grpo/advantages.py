"""Advantages: what each answer of a group is worth compared with its siblings.

Shapes: N groups of a batch, of G answers each. Answers that could not be scored are no part of any statistic and get
None. A group without signal, of which the config's docstring says when it is, gives None as a whole: it is to train
nothing.
"""

import statistics
from collections.abc import Sequence

from rollout.types import Rollout, RolloutGroup
from stages.grpo.config import GRPOStage
from stages.grpo.loss_config import AdvantageConfig, OnlinePreference
from stages.grpo.pairs import signs

Values = Sequence[float | None]


def advantages_of(
    groups: Sequence[RolloutGroup], config: GRPOStage, label: str | None = None
) -> list[list[float | None] | None]:
    """Return [group][answer]: advantages by all rewards together, or by one; None for groups without signal.

    Under a loss of pairs they are signs: which answer is the better one of a group's pair, and which the worse.
    """
    if isinstance(config.loss, OnlinePreference):
        return signs(groups, config.loss)

    def value(rollout: Rollout | None) -> float | None:
        if rollout is None or not rollout.completion.token_ids:  # cut before its first token, it says nothing
            return None
        return rollout.score.value if label is None else rollout.score.parts.get(label)

    values_NG = [[value(rollout) for rollout in group.rollouts] for group in groups]
    return advantages(values_NG, config.advantage, [value(group.greedy) for group in groups])


def advantages(
    values_NG: Sequence[Values], config: AdvantageConfig, greedy_N: Values = ()
) -> list[list[float | None] | None]:
    """Return the advantages of a batch, [N][G], as the config's docstring defines them.

    ``greedy_N`` are the values of the groups' greedy answers, for `greedy_baseline`.
    """
    if config.type == "greedy_baseline":
        pairs = zip(values_NG, greedy_N, strict=True)
        return [above(values_G, greedy, config.tolerance) for values_G, greedy in pairs]
    rows = [centred(values_G) if has_signal(values_G, config.tolerance) else None for values_G in values_NG]
    if config.type == "group_normalized":
        return [None if row is None else divided(row, deviation(row) + config.epsilon) for row in rows]
    if config.type == "batch_normalized":
        scale = deviation([value for row in rows if row is not None for value in row]) + config.epsilon
        return [None if row is None else divided(row, scale) for row in rows]
    if config.type == "leave_one_out":  # of n, one less the mean of the others is n / (n - 1) of one less the mean
        return [None if row is None else divided(row, 1 - 1 / len(scored(row))) for row in rows]
    return rows


def has_signal(values_G: Values, tolerance: float) -> bool:
    """Say whether there are two scores that lie further apart than the tolerance."""
    found = scored(values_G)
    return len(found) > 1 and max(found) - min(found) > tolerance


def above(values_G: Values, baseline: float | None, tolerance: float) -> list[float | None] | None:
    """Return the values less a baseline; None where there is none, or nothing differs from it."""
    if baseline is None or all(abs(value - baseline) <= tolerance for value in scored(values_G)):
        return None
    return [None if value is None else value - baseline for value in values_G]


def centred(values: Values) -> list[float | None]:
    """Return the values less their mean."""
    mean = statistics.fmean(scored(values))
    return [None if value is None else value - mean for value in values]


def divided(values: Values, scale: float) -> list[float | None]:
    """Return the values over a scale."""
    return [None if value is None else value / scale for value in values]


def deviation(values: Values) -> float:
    """Return the standard deviation with Bessel's correction, as TRL has it; 0 where there are no two values."""
    found = scored(values)
    return statistics.stdev(found) if len(found) > 1 else 0.0


def scored(values: Values) -> list[float]:
    """Return the values that there are."""
    return [value for value in values if value is not None]
