"""What a run's folder holds of figures: results, metrics by step, and seconds by activity, as its page shows them."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.state import RunFolder, RunState
from stages.base import StageResult

Metrics = Mapping[str, float]
"""Of one step: a line of `metrics.jsonl`."""
History = Mapping[int, Metrics]
"""Metrics by step."""

ACTIVITIES: Mapping[str, str] = {
    "generate_and_score": "generating, and scoring meanwhile",
    "learn": "learning",
    "sync": "syncing weights",
}
"""What is measured, and how the page calls it."""
WAITING, REST = "waiting for scores", "all else: starting, loading, saving"
_ACTIVITY = re.compile(r"(?:.*/)?time/(\w+)_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """One run, read."""

    config: RunConfig
    folder: RunFolder
    state: RunState
    results: Mapping[str, StageResult]
    """Of the stages that are done."""
    histories: Mapping[str, History]
    """By stage. Of a step that several attempts took, the last; of an exam, all its metrics under step 0."""
    spent_s: Mapping[str, Mapping[str, float]]
    """Seconds by stage and activity, over all attempts; those of a stage add up to its wall time."""
    notes: Sequence[str]
    """What of the run could not be read."""


def read(config: RunConfig, folder: RunFolder) -> RunData:
    """Read a run that has begun, finished or not. Raises FileNotFoundError where it has not."""
    state = folder.load()
    if state is None:
        raise FileNotFoundError(f"{folder.root} holds no run that has begun")
    notes: list[str] = []
    attempts = {name: _attempts(folder.stage(name), notes) for name in config.stages}
    return RunData(
        config=config,
        folder=folder,
        state=state,
        results={name: folder.result(name) for name in config.stages if state.stage(name).status == "done"},
        histories={
            name: joined(found) if config.stages[name].kind == "evaluate" else history(found)
            for name, found in attempts.items()
        },
        spent_s={
            name: spent(found, state.stage(name).wall_s) for name, found in attempts.items() if state.stage(name).wall_s
        },
        notes=notes,
    )


def history(attempts: Sequence[Sequence[Metrics]]) -> History:
    """Return the metrics of each step that led to where the stage is now.

    An attempt goes on from a checkpoint: steps that an earlier one took beyond it are no part of what became.
    """
    found: dict[int, dict[str, float]] = {}
    for rows in attempts:
        goes_on_at = min((row["step"] for row in rows if row["step"] > 0), default=float("inf"))
        found = {step: row for step, row in found.items() if step < goes_on_at}
        for row in rows:
            found.setdefault(int(row["step"]), {}).update(row)
    return dict(sorted(found.items()))


def joined(attempts: Sequence[Sequence[Metrics]]) -> History:
    """Return an exam's metrics, each of which has its model's name; of such as are told twice, the last."""
    return {0: {name: value for rows in attempts for row in rows for name, value in row.items()}}


def spent(attempts: Sequence[Sequence[Metrics]], wall_s: float) -> dict[str, float]:
    """Return how many of a stage's seconds went into what, work that was lost with an attempt included.

    Scores are waited for once all answers are there; until then, scoring goes on beside generating.
    """
    seconds: defaultdict[str, float] = defaultdict(float)
    for row in (row for rows in attempts for row in rows):
        for name, value in row.items():
            if told := _ACTIVITY.fullmatch(name):
                seconds[ACTIVITIES.get(told[1], told[1].replace("_", " "))] += value
        generating = ACTIVITIES["generate_and_score"]
        waited = min(row.get("reward/wait_s", 0.0), row.get("time/generate_and_score_s", 0.0))
        seconds[WAITING] += waited
        seconds[generating] -= waited
    seconds[REST] = max(0.0, wall_s - sum(seconds.values()))
    return {activity: value for activity, value in seconds.items() if value > 0}


def _attempts(stage: Path, notes: list[str]) -> list[list[Metrics]]:
    return [_rows(file, notes) for file in sorted(stage.glob("attempt_*/metrics.jsonl"))]


def _rows(file: Path, notes: list[str]) -> list[Metrics]:
    rows, num_broken = list[Metrics](), 0
    for line in file.read_bytes().splitlines():
        try:
            row = json.loads(line)
            rows.append({**row, "step": float(row["step"])})
        except (ValueError, TypeError, KeyError):  # half written yet, or cut by a kill or a full disk
            num_broken += 1
    if num_broken:
        notes.append(f"{num_broken} lines of {file.relative_to(file.parents[2])} are no metrics, and are left out")
    return rows
