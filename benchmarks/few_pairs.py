"""ODPO against DPO where graded pairs are few: a table, and `benchmarks/results/few_pairs.json`.

    make run RECIPE=configs/odpo.yaml && python -m benchmarks.few_pairs [SEED ...]

Amini et al. 2024, arXiv 2402.10571, find the offset to help most with few pairs. Here the ladder's SFT model makes two
graded pairs from each of 48 prompts, learns from them with and without an offset, and takes the exam; once for each of
five seeds, by which prompts' answers and the order of pairs are drawn.
"""

import json
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.conditions import conditions, keep, kept
from benchmarks.runs import RUNS, exam_of, run_from_scratch

RECIPE = Path("configs/odpo.yaml")
RESULT = "few_pairs.json"
SEEDS, PROMPTS = (1, 2, 3, 4, 5), 48
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""97.5 % quantiles of Student's t, by degrees of freedom."""


def recipe(seed: int) -> dict[str, Any]:
    """Return both losses on the same few pairs, from the ladder's SFT model."""
    found: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    stages = found["stages"]
    pairs = {name: value for name, value in stages["pairs"].items() if name != "init_from"}
    pairs |= {"prompts": {**pairs["prompts"], "limit": PROMPTS}, "pairing": {"type": "graded", "most_pairs": 2}}
    both = {name: value for name, value in stages["odpo"].items() if name not in ("init_from", "num_epochs")}
    both |= {"num_epochs": 4, "batch_size": 16, "micro_batch_size": 16}
    exam = {**stages["exam_odpo"], "of": ["dpo", "odpo"]}
    return {
        "name": f"few-pairs-{seed}",
        "model": str(RUNS / found["name"] / "sft" / "output"),
        "seed": seed,
        "engine": found["engine"],
        "stages": {"pairs": pairs, "dpo": {**both, "loss": {"type": "dpo", "beta": 0.1}}, "odpo": both, "exam": exam},
    }


def run(seed: int) -> dict[str, Any]:
    """Run it; return what both reached, and how many pairs there were."""
    folder, came_through = run_from_scratch(recipe(seed))
    if not came_through:
        raise RuntimeError(f"{folder} did not come to its end")
    made = json.loads((folder / "pairs/result.json").read_text())["metrics"]["pairs/made"]
    return {"pairs": made, **{name: exam_of(folder, "exam", name) for name in ("dpo", "odpo")}}


def main(*chosen: str) -> None:
    """Run, print, keep; seeds that are not asked for keep their last figures."""
    found = {"seeds": {}, **kept(RESULT)}
    seeds = [int(seed) for seed in chosen] or SEEDS
    if len({*map(str, seeds), *found["seeds"]}) > 1 + max(T_975):
        raise SystemExit(f"the interval is for {1 + max(T_975)} seeds at most")
    for seed in seeds:
        found["seeds"][str(seed)] = {**run(seed), "conditions": conditions(num_threads=1)}
        keep(RESULT, found)
    gains = [row["odpo"]["mean"] - row["dpo"]["mean"] for row in found["seeds"].values()]
    if len(gains) > 1:
        half = T_975[len(gains) - 1] * stdev(gains) / len(gains) ** 0.5
        found["odpo_over_dpo"] = {"mean": fmean(gains), "low": fmean(gains) - half, "high": fmean(gains) + half}
        keep(RESULT, found)
    table = Table(title="few graded pairs: exam, %", title_justify="left")
    for heading in ("seed", "pairs", "DPO", "ODPO"):
        table.add_column(heading)
    for seed, row in found["seeds"].items():
        table.add_row(str(seed), f"{row['pairs']:.0f}", *(f"{100 * row[name]['mean']:.1f}" for name in ("dpo", "odpo")))
    Console(width=80).print(table)
    Console(width=80).print(found.get("odpo_over_dpo", ""))


if __name__ == "__main__":
    main(*sys.argv[1:])
