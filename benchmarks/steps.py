"""Whole steps of GRPO on real engines: one version ahead, against strictly on policy.

    make demo && python -m benchmarks.steps async

Both run the demo's GRPO from the demo's ODPO model, with as many updates and the same settings. Learner and engine have
a thread each, as if each had a core or a card of its own.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import yaml

from benchmarks.runs import RUNS, begin_anew, steps_of

RECIPE = Path("configs/quickstart.yaml")
STEPS, WARM_UP, LAST = 40, 5, 10
"""Updates of each run, those that are not timed, and those by which the final reward is told."""


def recipe(max_staleness: int) -> dict[str, Any]:
    """Return the demo's GRPO as a recipe of its own."""
    found: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    stage = {key: value for key, value in found["stages"]["grpo"].items() if key not in ("init_from", "checkpoint")}
    stage |= {"num_steps": STEPS, "max_staleness": max_staleness, "checkpoint": {"every_steps": 0}}
    name, model = f"bench-staleness-{max_staleness}", str(RUNS / "quickstart/odpo/output")
    return {"name": name, "model": model, "seed": 17, "engine": found["engine"], "stages": {"grpo": stage}}


def run(max_staleness: int) -> list[dict[str, float]]:
    """Run it anew, and return the metrics of its steps."""
    folder, came_through = begin_anew(recipe(max_staleness))
    if not came_through:
        raise RuntimeError(f"{folder} did not come to its end")
    return steps_of(folder, "grpo")


def compare() -> dict[str, Any]:
    """Return how much faster a step is one version ahead, and what both runs reached."""
    rows = {name: run(max_staleness) for name, max_staleness in (("sync", 0), ("ours", 1))}
    seconds = {name: statistics.median(map(_seconds, found[WARM_UP:])) for name, found in rows.items()}
    reached = {name: statistics.fmean(row["reward/math/mean"] for row in found[-LAST:]) for name, found in rows.items()}
    laps = {
        name: {lap: statistics.median(row[f"time/{lap}_s"] for row in found[WARM_UP:]) for lap in LAPS}
        for name, found in rows.items()
    }
    return {
        "ratio": seconds["sync"] / seconds["ours"],
        **seconds,
        "unit": "s a step",
        "runs": STEPS - WARM_UP,
        "final_reward": reached,
        "laps": laps,
        "staleness_max": max(row["rollout/staleness_max"] for row in rows["ours"]),
        "sync_share": {
            "value": sum(row["time/sync_s"] for row in rows["sync"]) / sum(map(_seconds, rows["sync"])),
            "runs": STEPS,
        },
    }


LAPS = ("generate_and_score", "learn", "sync")


def _seconds(row: dict[str, float]) -> float:
    return sum(row[f"time/{lap}_s"] for lap in LAPS)


if __name__ == "__main__":
    print(json.dumps(compare()))
