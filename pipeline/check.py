"""Everything that is known to be wrong with a recipe before anything heavy starts, and what would run."""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import temporary
from pipeline.cluster import cluster_of, exposed_token
from pipeline.config import RunConfig
from pipeline.graph import order
from pipeline.plan import Planner, Step
from pipeline.state import RunFolder
from pipeline.tracking import missing
from stages.adapter_check import AdapterTrial
from stages.base import Problem
from stages.data.read_once import ReadOnce
from stages.gold_trials import GoldTrial, start_gold_trials
from stages.model_check import count_parameters
from stages.preflight import check_data


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What `check` found."""

    problems: list[Problem]
    """What must be mended before the run can start."""
    notes: list[str]
    """What is worth knowing."""
    steps: list[Step]
    """The plan; empty when there are problems."""


def check(config: RunConfig, folder: RunFolder) -> Findings:
    """Check a recipe against its data, model and rewards, and plan it. Raises ConfigError where the graph is wrong."""
    order(config.stages)
    gc.set_threshold(100_000)  # rows are many and live to the end: walking them again and again took a fifth of it
    trials = start_gold_trials(config.stages)  # rewards are imported elsewhere while this process reads the data
    read = ReadOnce()
    with AdapterTrial(config.stages, config.facts) as adapters:
        found = list(check_data(config.stages, config.facts, read))
        found += _gold(trials, read, stop=_has_problems(found))
        found += [] if _has_problems(found) else adapters.problems()
    problems = [line for line in found if not line.startswith("note:")]
    notes = [line.removeprefix("note: ") for line in found if line.startswith("note:")]
    problems += list(missing(config))
    problems += (without := list(temporary.problems()))
    notes += [] if without else list(temporary.notes())
    notes += list(exposed_token()) if cluster_of(config.ray_address) else []
    notes += list(_memory(config))
    steps = [] if problems else Planner(config, folder).plan()
    return Findings(problems=problems, notes=notes, steps=steps)


def _has_problems(found: Sequence[Problem]) -> bool:
    return any(not line.startswith("note:") for line in found)


def _gold(trials: list[GoldTrial], read: ReadOnce, *, stop: bool) -> Iterator[Problem]:
    """Collect what rewards say of gold answers, unless the data itself is wrong; close the trials either way."""
    for trial in trials:
        with trial:
            if not stop:
                yield from trial.problems(read)


def _memory(config: RunConfig) -> Iterator[str]:
    folder = Path(config.model)
    count = count_parameters(folder) if folder.is_dir() else None
    if count is None:
        return
    for name, stage in config.stages.items():
        need = count * stage.bytes_per_parameter(config.precision) / 2**30
        if need >= 1:
            yield f"stage {name!r} needs about {need:.0f} GiB for weights, gradients and optimizer, without activations"
