"""What a run's folder holds of figures: results, metrics by step, and seconds by activity, as its page shows them."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.progress import Row, row_of
from pipeline.standing import Standing, require_begun, standing_of
from pipeline.state import RunFolder

History = Mapping[int, Row]
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
    standing: Standing
    histories: Mapping[str, History]
    """By stage. Of a step that several attempts took, the last; of an exam, all its metrics under step 0."""
    spent_s: Mapping[str, Mapping[str, float]]
    """Seconds by stage and activity, over all attempts; those of a stage add up to its wall time."""
    notes: Sequence[str]
    """What of the run could not be read."""


def read(config: RunConfig, folder: RunFolder) -> RunData:
    """Read a run that has begun, finished or not. Raises RunFolderError where it has not, or cannot be read."""
    require_begun(folder)
    standing = standing_of(folder)
    notes = list(standing.notes)
    attempts = {name: _attempts(folder.stage(name), notes) for name in config.stages}
    return RunData(
        config=config,
        folder=folder,
        standing=standing,
        histories={
            name: joined(found) if config.stages[name].kind == "evaluate" else history(found)
            for name, found in attempts.items()
        },
        spent_s={stage.name: spent(attempts[stage.name], stage.wall_s) for stage in standing.stages if stage.wall_s},
        notes=notes,
    )


def history(attempts: Sequence[Sequence[Row]]) -> History:
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


def joined(attempts: Sequence[Sequence[Row]]) -> History:
    """Return an exam's metrics, each of which has its model's name; of such as are told twice, the last."""
    return {0: {name: value for rows in attempts for row in rows for name, value in row.items()}}


def spent(attempts: Sequence[Sequence[Row]], wall_s: float) -> dict[str, float]:
    """Return how many of a stage's seconds went into what, work that was lost with an attempt included.

    Scores are waited for once all answers are there; until then, scoring goes on while others generate.
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


def _attempts(stage: Path, notes: list[str]) -> list[list[Row]]:
    return [_rows(file, notes) for file in sorted(stage.glob("attempt_*/metrics.jsonl"))]


def _rows(file: Path, notes: list[str]) -> list[Row]:
    lines = file.read_bytes().splitlines()
    rows = [row for line in lines if (row := row_of(line)) is not None]
    if num_broken := len(lines) - len(rows):  # half written yet, or cut by a kill or a full disk
        notes.append(f"{num_broken} lines of {file.relative_to(file.parents[2])} are no metrics, and are left out")
    return rows
