"""Whole steps of GRPO on real engines: one version ahead, against strictly on policy.

    make demo && python -m benchmarks.steps [--rounds N] [--steps N]     # as JSON

A round is a run of each: the demo's GRPO from the demo's ODPO model, with as many updates and the same settings, under
a seed of the round's own. Learner and engine have a thread each, as if each had a core or a card of its own.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, median
from typing import Any

import yaml

from benchmarks.conditions import conditions
from benchmarks.runs import RUNS, run_from_scratch, steps_of
from benchmarks.turns import Paired, Side, in_turn, rounds_from

RECIPE = Path("configs/quickstart.yaml")
STEPS, WARM_UP, LAST = 40, 5, 10
"""Updates of each run, those that are not timed, and those by which the final reward is told."""
LAPS = ("generate_and_score", "learn", "sync")
STALENESS = {"sync": 0, "ours": 1}

Row = dict[str, float]
"""The metrics of a step."""


def recipe(max_staleness: int, seed: int, num_steps: int) -> dict[str, Any]:
    """Return the demo's GRPO as a recipe of its own."""
    found: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    stage = {key: value for key, value in found["stages"]["grpo"].items() if key not in ("init_from", "checkpoint")}
    stage |= {"num_steps": num_steps, "max_staleness": max_staleness, "checkpoint": {"every_steps": 0}}
    name, model = f"bench-staleness-{max_staleness}", str(RUNS / "quickstart/odpo/output")
    return {"name": name, "model": model, "seed": seed, "engine": found["engine"], "stages": {"grpo": stage}}


def compare(num_rounds: int, num_steps: int) -> dict[str, Any]:
    """Return how much faster a step is one version ahead, and what both sides reached."""
    runs: dict[str, list[list[Row]]] = {name: [] for name in STALENESS}

    def side(name: str) -> Side:
        def measure(number: int) -> float:
            folder, came_through = run_from_scratch(recipe(STALENESS[name], 17 + number, num_steps))
            if not came_through:
                raise RuntimeError(f"{folder} did not come to its end; read grpo/latest/stage.log in it")
            runs[name].append(steps_of(folder, "grpo"))
            return median(map(_seconds, runs[name][-1][WARM_UP:]))

        return Side(name=name, measure=measure)

    values = in_turn([side(name) for name in STALENESS], num_rounds=num_rounds, num_warm_up=0)
    on_policy = [row for rows in runs["sync"] for row in rows]
    return {
        **Paired(values=values, unit="s a step", ratio_of=("sync", "ours")).to_json(),
        "steps_timed": num_steps - WARM_UP,
        "final_reward": {name: _final_reward(found) for name, found in runs.items()},
        "laps_s": {name: _laps(row for rows in found for row in rows[WARM_UP:]) for name, found in runs.items()},
        "staleness_max": max(row["rollout/staleness_max"] for rows in runs["ours"] for row in rows),
        "sync_share": sum(row["time/sync_s"] for row in on_policy) / sum(map(_seconds, on_policy)),
        "conditions": conditions(num_threads=1),
    }


def _seconds(row: Row) -> float:
    return sum(row[f"time/{lap}_s"] for lap in LAPS)


def _laps(rows: Iterable[Row]) -> dict[str, float]:
    found = list(rows)
    return {lap: median(row[f"time/{lap}_s"] for row in found) for lap in LAPS}


def _final_reward(runs: Iterable[list[Row]]) -> list[float]:
    """Return the mean reward of each run's last steps."""
    return [fmean(row["reward/math/mean"] for row in rows[-LAST:]) for rows in runs]


def main() -> None:
    """Compare, and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps")
    rounds_from(parser, default=3)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"updates of each run; the first {WARM_UP} warm it up")
    arguments = parser.parse_args()
    if arguments.steps <= WARM_UP:
        parser.error(f"--steps {arguments.steps} leaves nothing to time: the first {WARM_UP} warm the run up")
    print(json.dumps(compare(arguments.num_rounds, arguments.steps)))


if __name__ == "__main__":
    main()
