"""Readiness: answer some prompts several times, score the answers, and count what could be learned from.

The expected signal of a prompt with pass rate a is sqrt(a (1 - a)), the standard deviation of a mark of 0 or 1: nothing
where every answer passes or none does, and 0.5 at most. Source: Behavior Injection, Cen et al. 2025, arXiv 2505.18917.
"""

import math
import statistics
from collections.abc import Sequence

from rollout.collector import has_signal, summarize
from rollout.prompts import PromptSource
from rollout.records import write_groups
from rollout.types import RolloutGroup
from stages.base import StageContext, StageResult
from stages.generation import derive_seed, open_rollouts, probes, prompts_of
from stages.models import load_policy
from stages.readiness.config import ReadinessStage

BINS = ((0.0, 0.0), (0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0), (1.0, 1.0))
"""Pass rates that are told together: above the first, up to the second, and those that are exactly 0 or 1."""


def run(config: ReadinessStage, context: StageContext) -> StageResult:
    """Sample and report."""
    policy = load_policy(context)
    prompts = prompts_of(context, config, "prompts", policy.tokenizer)
    drawn = PromptSource(prompts, context.seed).take(min(config.num_prompts, len(prompts)))
    with open_rollouts(context, policy, config) as rollouts:
        rollouts.publish(policy, 0, probes(drawn, config.sync.num_probes))
        collector = rollouts.collector(config.sampling)
        groups = collector.collect(drawn, config.num_samples, derive_seed(context.seed, "readiness"))
    write_groups(context.rollouts / "groups.parquet", groups)
    found = {**summarize(groups, tolerance=config.tolerance), **report(groups, config)}
    context.metrics.write(0, found)
    return StageResult(metrics=found)


def report(groups: Sequence[RolloutGroup], config: ReadinessStage) -> dict[str, float]:
    """Return shares of prompts by pass rate, the share with signal, and the mean expected signal."""
    rates = [rate for group in groups if (rate := pass_rate(group, config)) is not None]
    signal = [has_signal(group, config.tolerance) for group in groups]
    found = {"readiness/signal_fraction": sum(signal) / len(groups), "readiness/prompts/count": float(len(rates))}
    if rates:
        found["readiness/pass_rate/mean"] = statistics.fmean(rates)
        found["readiness/expected_signal/mean"] = statistics.fmean(math.sqrt(rate * (1 - rate)) for rate in rates)
        for low, high in BINS:
            inside = [rate == low if low == high else low < rate <= high and rate < 1 for rate in rates]
            name = f"{low:g}" if low == high else f"to_{high:g}"
            found[f"readiness/pass_rate/{name}/fraction"] = sum(inside) / len(rates)
    return found


def pass_rate(group: RolloutGroup, config: ReadinessStage) -> float | None:
    """Return the share of a group's answers that pass by the first reward; None where it could mark none."""
    marks = [rollout.score.parts.get(config.rewards[0].label) for rollout in group.rollouts]
    passed = [mark >= config.passes for mark in marks if mark is not None]
    return sum(passed) / len(passed) if passed else None
