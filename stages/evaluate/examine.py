"""Exams: every examined model answers the same held-out problems through the same engines and reward."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path

from rollout.collector import summarize
from rollout.config import SamplingConfig
from rollout.records import read_groups, write_groups
from rollout.types import RolloutGroup
from stages.base import Estimate, StageContext, StageResult
from stages.evaluate.config import EvaluateStage, TaskConfig
from stages.evaluate.intervals import estimate, paired_gain
from stages.generation import Rollouts, derive_seed, open_rollouts, probes, prompts_of
from stages.metrics import Clock
from stages.models import Policy, load_policy, policy_folder

logger = logging.getLogger(__name__)

Marks = Mapping[str, float]
"""Mean value of a problem's answers, by prompt id. What could not be scored is not shown to be right: it counts 0."""


def run(config: EvaluateStage, context: StageContext) -> StageResult:
    """Examine each model on each task; estimate accuracies, and the gain of each model over the one before."""
    waiting = [name for name in config.of if not _has_sat(config, context, name)]
    for _, names in groupby(waiting, key=lambda name: _shape(policy_folder(context, name))):
        examine(config, context, list(names))
    marks = {name: _read_marks(config, context, name) for name in config.of}
    return StageResult(
        metrics={f"{name}/unscorable_answers": float(_unscorable(config, context, name)) for name in config.of},
        exams={name: {q: estimate(list(m.values())) for q, m in found.items()} for name, found in marks.items()},
        gains={f"{before}->{after}": gains(marks[before], marks[after]) for before, after in pairwise(config.of)},
    )


def examine(config: EvaluateStage, context: StageContext, names: Sequence[str]) -> None:
    """Have models of one shape sit all exams, one after the other, in the same engines."""
    first = load_policy(context, role=names[0])
    with open_rollouts(context, first, config) as rollouts:
        for name in names:
            policy = first if name == names[0] else load_policy(context, role=name)
            _sit(config, context, name, policy, rollouts)


def answer_file(context: StageContext, name: str, quantity: str) -> Path:
    """Where one model's scored answers to one exam are kept."""
    return context.rollouts / name / f"{quantity}.parquet"


def marks_of(groups: Sequence[RolloutGroup]) -> Marks:
    """Return the marks of answers to an exam."""
    return {
        group.prompt.id: sum(r.score.value or 0.0 for r in group.rollouts) / len(group.rollouts) for group in groups
    }


def gains(before: Mapping[str, Marks], after: Mapping[str, Marks]) -> dict[str, Estimate]:
    """Return the paired gain in each quantity, problem by problem."""
    return {q: paired_gain(list(marks.values()), [after[q][prompt] for prompt in marks]) for q, marks in before.items()}


def _sittings(config: EvaluateStage) -> Iterator[tuple[str, tuple[TaskConfig, float, int]]]:
    """Yield each quantity with its task, temperature and number of answers a problem."""
    for name, task in config.tasks.items():
        yield f"{name}/accuracy", (task, 0.0, 1)
        if task.num_samples:
            yield f"{name}/sampled_accuracy", (task, 1.0, task.num_samples)


def _sit(config: EvaluateStage, context: StageContext, name: str, policy: Policy, rollouts: Rollouts) -> None:
    place = config.of.index(name)
    prompts = {name: prompts_of(context, config, name, policy.tokenizer) for name in config.tasks}
    clock = Clock()
    rollouts.publish(policy, place, probes(next(iter(prompts.values())), config.sync.num_probes))
    clock.lap("sync")
    sittings = list(_sittings(config))
    for step, (quantity, (task, temperature, num)) in enumerate(sittings, start=1 + place * len(sittings)):
        collector = rollouts.collector(SamplingConfig(temperature=temperature, max_tokens=task.max_tokens))
        groups = collector.collect(prompts[quantity.partition("/")[0]], num, derive_seed(context.seed, quantity))
        clock.lap("generate_and_score")
        values = {**summarize(groups), **clock.laps}
        told = {f"{name}/{quantity}/{key}": value for key, value in values.items()}
        context.metrics.write(step, told, of=len(config.of) * len(sittings))
        write_groups(answer_file(context, name, quantity), groups)  # last: an exam whose answers are kept was sat
        clock = Clock()
        logger.info("%s %s: %.3f", name, quantity, values.get("reward/mean", float("nan")))


def _has_sat(config: EvaluateStage, context: StageContext, name: str) -> bool:
    return all(answer_file(context, name, quantity).is_file() for quantity, _ in _sittings(config))


def _read_marks(config: EvaluateStage, context: StageContext, name: str) -> dict[str, Marks]:
    return {q: marks_of(read_groups(answer_file(context, name, q))) for q, _ in _sittings(config)}


def _unscorable(config: EvaluateStage, context: StageContext, name: str) -> int:
    files = [answer_file(context, name, quantity) for quantity, _ in _sittings(config)]
    return sum(r.score.value is None for file in files for group in read_groups(file) for r in group.rollouts)


def _shape(folder: Path) -> str:
    """Return what of a model's config decides whether engines started for one model can hold another's weights."""
    config = json.loads((folder / "config.json").read_text())
    not_shape = {"dtype", "torch_dtype", "transformers_version", "_name_or_path", "use_cache"}
    return json.dumps({key: value for key, value in config.items() if key not in not_shape}, sort_keys=True)
