"""What a run came to: gains for people and `summary.json` for programs."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline.config import RunConfig
from pipeline.state import RunFolder, RunState
from stages.base import Estimate, StageResult


def summarize(config: RunConfig, folder: RunFolder, state: RunState) -> dict[str, Any]:
    """Return the content of `summary.json`."""
    results = {name: folder.result(name) for name in config.stages if state.stage(name).status == "done"}
    return {
        "name": config.name,
        "seed": config.seed,
        "wall_s": round(state.wall_s, 1),
        "engine": config.engine.type,
        "stages": [
            {
                "name": name,
                "kind": stage.kind,
                "status": state.stage(name).status,
                "wall_s": round(state.stage(name).wall_s, 1),
            }
            for name, stage in config.stages.items()
        ],
        "exams": _plain(exams_of(results)),
        "gains": _plain(gains_of(results)),
    }


def gains_table(gains: Mapping[str, Mapping[str, Estimate]]) -> Table | None:
    """Return what each examined model gained over the one before, on the same problems; None without an exam."""
    rows = [(step, quantity, value) for step, row in gains.items() for quantity, value in row.items()]
    if not rows:
        return None
    title = "paired gains with 95 % bootstrap intervals"
    found = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1))
    for heading in ("step", "exam"):
        found.add_column(heading)
    for heading in ("gain", "beyond noise"):
        found.add_column(heading, justify="right")
    for step, quantity, value in rows:
        found.add_row(Text(step), Text(quantity), _gain(value), "yes" if value.low > 0 or value.high < 0 else "no")
    return found


def exams_of(results: Mapping[str, StageResult]) -> dict[str, dict[str, Estimate]]:
    """Return what exams found, of all evaluate stages together, by examined stage and quantity."""
    return _joined(result.exams for result in results.values())


def gains_of(results: Mapping[str, StageResult]) -> dict[str, dict[str, Estimate]]:
    """Return what exams found each model to gain over the one before, of all evaluate stages together."""
    return _joined(result.gains for result in results.values())


def _plain(table: Mapping[str, Mapping[str, Estimate]]) -> dict[str, dict[str, Any]]:
    return {name: {quantity: asdict(value) for quantity, value in row.items()} for name, row in table.items()}


def _joined(tables: Iterable[Mapping[str, Mapping[str, Estimate]]]) -> dict[str, dict[str, Estimate]]:
    joined: dict[str, dict[str, Estimate]] = {}
    for table in tables:
        for name, row in table.items():
            joined.setdefault(name, {}).update(row)
    return joined


def _gain(value: Estimate) -> str:
    return f"{value.mean * 100:+.1f} [{value.low * 100:+.1f}, {value.high * 100:+.1f}] points"
