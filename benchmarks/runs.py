"""Recipes that benchmarks make up, run from scratch through the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

RUNS = Path("runs")


def run_from_scratch(content: dict[str, Any]) -> tuple[Path, bool]:
    """Run a recipe in a folder of its own, which is emptied first; return the folder, and whether the run came through.

    A learner has one thread, as if it and each engine had a core or a card of their own.
    """
    file, folder = RUNS / f"{content['name']}.yaml", RUNS / content["name"]
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    command = [sys.executable, "-m", "pipeline.cli", "run", str(file)]
    done = subprocess.run(command, stdout=sys.stderr, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    return folder, done.returncode == 0


def steps_of(folder: Path, stage: str) -> list[dict[str, float]]:
    """Return the metrics of a stage's steps."""
    return [json.loads(line) for line in (folder / stage / "latest/metrics.jsonl").read_text().splitlines()]


def exam_of(folder: Path, exam: str, stage: str) -> dict[str, float]:
    """Return the accuracy that a stage's model reached, with its interval."""
    found = json.loads((folder / exam / "result.json").read_text())["exams"][stage]["dev/accuracy"]
    return {name: found[name] for name in ("mean", "low", "high")}
