"""GRPO beside TRL's GRPOTrainer, key by key: a table, and `benchmarks/results/rl.json`, or `rl-gpu.json`.

    make bench-rl            # or: python -m benchmarks.rl cpu [KEY ...]
    make bench-rl-gpu        # the update alone, of a larger model on an NVIDIA GPU

Each key runs in processes of its own. The learner's works are in `benchmarks.learner`, whole steps beside TRL's in
`benchmarks.whole_step`, and beside our own in `benchmarks.steps`. TRL runs at the best of a few micro-batch sizes,
which are printed.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
AT_LEAST = {
    "learner_shared_prompt": "4.0 x",
    "learner_uniform": "1.1 x",
    "step_heavy_tail": "4.0 x",
    "learner_memory": "at most 0.4 x",
    "async_over_sync": "1.4 x",
    "sync_share": "at most 0.05",
}


def learner(setting: str, work: str) -> dict[str, Any]:
    """Time the update alone, each side at its best micro-batches."""
    ours, theirs = _ask("benchmarks.learner", "sizes", setting, work)
    found: dict[str, Any] = _ask("benchmarks.learner", "measure", setting, work, ours, theirs)
    return found


def learner_memory(setting: str) -> dict[str, Any]:
    """Compare the most memory that an update takes, each side at its fastest micro-batches."""
    sizes = dict(zip(("ours", "trl"), _ask("benchmarks.learner", "sizes", setting, "shared_prompt"), strict=True))
    mib = {
        side: _ask("benchmarks.learner", "memory", setting, "shared_prompt", side, size)["mib"]
        for side, size in sizes.items()
    }
    return {
        "ratio": mib["ours"] / mib["trl"],
        **mib,
        "unit": "MiB beyond model and optimizer",
        "runs": 3,
        "sizes": sizes,
    }


def step_heavy_tail() -> dict[str, Any]:
    """Time whole steps with generation, TRL's at the micro-batches by which its update is the fastest."""
    _, theirs = _ask("benchmarks.learner", "sizes", "cpu", "shared_prompt")
    found: dict[str, Any] = _ask("benchmarks.whole_step", "compare", theirs)
    return found


def asynchronous() -> dict[str, Any]:
    """Time our steps one version ahead against strictly on policy."""
    found: dict[str, Any] = _ask("benchmarks.steps", "async")
    return found


Works = dict[str, Callable[[], dict[str, Any]]]


def works(setting: str) -> Works:
    """Return what is measured, by key."""
    learners: Works = {
        "learner_shared_prompt": lambda: learner(setting, "shared_prompt"),
        "learner_uniform": lambda: learner(setting, "uniform"),
        "learner_memory": lambda: learner_memory(setting),
    }
    if setting == "gpu":
        return learners
    return {**learners, "step_heavy_tail": step_heavy_tail, "async_over_sync": asynchronous}


def hardware(setting: str) -> str:
    """Return what it is measured on."""
    if setting == "gpu":
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[0]
    return f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"


def _ask(module: str, *arguments: object) -> Any:
    """Run a benchmark in a process of its own, and return what it prints last."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(setting: str, *keys: str) -> None:
    """Measure, print, keep; keys that are not asked for keep their last figures."""
    result = RESULTS / ("rl.json" if setting == "cpu" else f"rl-{setting}.json")
    found = json.loads(result.read_text()) if result.is_file() else {}
    measures = works(setting)
    for key in keys or measures:
        measured = measures[key]()
        found |= {"sync_share": measured.pop("sync_share")} if "sync_share" in measured else {}
        found[key] = measured
        found["hardware"] = hardware(setting)
        result.write_text(json.dumps(found, indent=2) + "\n")
    table = Table(title=f"GRPO, {found['hardware']}; medians", title_justify="left")
    for heading in ("", "ours", "the other", "", "ratio", "wanted"):
        table.add_column(heading)
    for key, row in found.items():
        if isinstance(row, dict):
            ratio, other = row.get("ratio", row.get("value", 0.0)), row.get("trl", row.get("sync", ""))
            shown = (_short(row.get("ours", "")), _short(other), row.get("unit", ""), f"{ratio:.3g}")
            table.add_row(key, *shown, AT_LEAST.get(key, ""))
    Console(width=120).print(table)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(*sys.argv[1:])
