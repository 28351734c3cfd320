"""How well online DPO, corrected GRPO and a plain policy gradient stand old samples.

    make run RECIPE=configs/online_dpo.yaml && python -m benchmarks.staleness [STALENESS ...]

Each method learns from the SFT model of the ladder with as many updates, on answers that are 0, 1, 4 and 8 versions old
at most, and takes the exam: a table, and `benchmarks/results/staleness.json`. After Noukhovitch et al. 2024, arXiv
2410.18252, in small.
"""

import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.conditions import conditions, keep, kept
from benchmarks.runs import RUNS, exam_of, run_from_scratch, steps_of

RECIPE = Path("configs/online_dpo.yaml")
RESULT = "staleness.json"
STALENESS = (0, 1, 4, 8)
STEPS = 40
METHODS: dict[str, dict[str, Any]] = {
    "online DPO": {"loss": {"type": "online_preference", "of": {"type": "dpo", "beta": 0.1}}},
    "GRPO, corrected": {"loss": {"type": "clipped_ratio"}, "correction": {"type": "truncated"}},
    "policy gradient": {"loss": {"type": "policy_gradient"}, "correction": {"type": "uncorrected"}},
}
"""What each says in place of the recipe's loss; all else is the same."""


def recipe(method: str, staleness: int) -> dict[str, Any]:
    """Return the ladder's online stage and its exam as a recipe of their own, from the ladder's SFT model."""
    found: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    stage = {name: value for name, value in found["stages"]["online_dpo"].items() if name not in ("init_from", "loss")}
    stage |= {**METHODS[method], "max_staleness": staleness, "num_steps": STEPS, "checkpoint": {"every_steps": 0}}
    exam = {**found["stages"]["exam_online_dpo"], "of": ["learned"]}
    name = f"staleness-{list(METHODS).index(method)}-{staleness}"
    facts = {key: found[key] for key in ("seed", "engine")}
    model = str(RUNS / found["name"] / "sft" / "output")
    return {"name": name, "model": model, **facts, "stages": {"learned": stage, "exam": exam}}


def run(method: str, staleness: int) -> dict[str, float]:
    """Run it; return the exam's accuracy with its interval, and how old the answers were."""
    folder, came_through = run_from_scratch(recipe(method, staleness))
    rows = steps_of(folder, "learned")
    age = sum(row["rollout/staleness_mean"] for row in rows) / max(1, len(rows))
    if came_through:
        return {**exam_of(folder, "exam", "learned"), "mean_age": age}
    # a policy that learning broke can end a run, and that is a result; all else is none
    if "stages.base.StageError" not in (folder / "learned/latest/stage.log").read_text() or not rows:
        raise RuntimeError(f"{folder} ended for another reason than what was learned; read its stage.log")
    return {"mean": 0.0, "low": 0.0, "high": 0.0, "mean_age": age, "broke_at_step": float(len(rows))}


def main(*chosen: str) -> None:
    """Run, print, keep; what is not asked for keeps its last figures."""
    found = kept(RESULT)
    for staleness in map(int, chosen) if chosen else STALENESS:
        for method in METHODS:
            found.setdefault(method, {})[str(staleness)] = {
                **run(method, staleness),
                "conditions": conditions(num_threads=1),
            }
            keep(RESULT, found)
    table = Table(title=f"Exam after {STEPS} updates, % [95 %]", title_justify="left")
    for heading in ("versions old at most", *METHODS):
        table.add_column(heading)
    for staleness in STALENESS:
        cells = [found.get(method, {}).get(str(staleness)) for method in METHODS]
        table.add_row(str(staleness), *(_shown(cell) if cell else "" for cell in cells))
    Console(width=100).print(table)


def _shown(cell: dict[str, float]) -> str:
    broke = f" broke at {cell['broke_at_step']:.0f}" if "broke_at_step" in cell else ""
    return f"{100 * cell['mean']:.1f} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]{broke}"


if __name__ == "__main__":
    main(*sys.argv[1:])
