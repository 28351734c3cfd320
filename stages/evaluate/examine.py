"""Exams: every examined model answers the same held-out problems through the same engines and reward."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from rollout.collector import summarize
from rollout.config import SamplingConfig
from rollout.records import read_groups, write_groups
from rollout.types import RolloutGroup
from stages.base import Estimate, StageContext, StageResult
from stages.data.prompts import load_prompts
from stages.evaluate.bootstrap import estimate, paired_gain
from stages.evaluate.config import EvaluateStage, TaskConfig
from stages.generation import Rollouts, derive_seed, open_rollouts, probes, reward_columns
from stages.models import Policy, load_policy

logger = logging.getLogger(__name__)

Marks = Mapping[str, float]
"""Mean value of a problem's scored answers, by prompt id; a problem with none scored is absent."""


def run(config: EvaluateStage, context: StageContext) -> StageResult:
    """Examine each model on each task; estimate accuracies, and the gain of each model over the one before."""
    marks = {name: examine(config, context, name) for name in config.of}
    exams = {name: {quantity: estimate(list(m.values())) for quantity, m in marks[name].items()} for name in config.of}
    return StageResult(
        exams=exams,
        gains={f"{before}->{after}": gains(marks[before], marks[after]) for before, after in pairwise(config.of)},
    )


def examine(config: EvaluateStage, context: StageContext, name: str) -> dict[str, Marks]:
    """Return one model's marks by quantity: `<task>/accuracy`, greedy, and `<task>/sampled_accuracy` if asked for."""
    sittings = dict(_sittings(config))
    if any(not answer_file(context, name, quantity).is_file() for quantity in sittings):
        policy = load_policy(context, role=name)
        with open_rollouts(context, policy, [config.reward], config.scoring, config.sync) as rollouts:
            _sit(config, context, name, policy, rollouts)
    return {quantity: _marks(read_groups(answer_file(context, name, quantity))) for quantity in sittings}


def answer_file(context: StageContext, name: str, quantity: str) -> Path:
    """Where one model's scored answers to one exam are kept."""
    return context.rollouts / f"{name}-{quantity.replace('/', '-')}.parquet"


def gains(before: Mapping[str, Marks], after: Mapping[str, Marks]) -> dict[str, Estimate]:
    """Return the paired gain in each quantity, over the problems that both have marks on."""
    found = {}
    for quantity in before:
        shared = [prompt for prompt in before[quantity] if prompt in after[quantity]]
        found[quantity] = paired_gain(
            [before[quantity][prompt] for prompt in shared], [after[quantity][prompt] for prompt in shared]
        )
    return found


def _sittings(config: EvaluateStage) -> Iterator[tuple[str, tuple[TaskConfig, float, int]]]:
    """Yield each quantity with its task, temperature and number of answers a problem."""
    for name, task in config.tasks.items():
        yield f"{name}/accuracy", (task, 0.0, 1)
        if task.num_samples:
            yield f"{name}/sampled_accuracy", (task, 1.0, task.num_samples)


def _sit(config: EvaluateStage, context: StageContext, name: str, policy: Policy, rollouts: Rollouts) -> None:
    published = False
    for quantity, (task, temperature, num) in _sittings(config):
        prompts = load_prompts(task.data, [*config.needs_columns, *reward_columns([config.reward])], policy.tokenizer)
        if not published:
            rollouts.publish(policy, 0, probes(prompts, config.sync.num_probes))
            published = True
        collector = rollouts.collector(SamplingConfig(temperature=temperature, max_tokens=task.max_tokens))
        groups = collector.collect(prompts, num, derive_seed(context.seed, quantity))
        write_groups(answer_file(context, name, quantity), groups)
        values = summarize(groups)
        context.metrics.write(0, {f"{name}/{quantity}/{key}": value for key, value in values.items()})
        logger.info("%s %s: %.3f", name, quantity, values.get("reward/mean", float("nan")))


def _marks(groups: Sequence[RolloutGroup]) -> Marks:
    found = {}
    for group in groups:
        values = [r.score.value for r in group.rollouts if r.score.value is not None]
        if values:
            found[group.prompt.id] = sum(values) / len(values)
    return found
