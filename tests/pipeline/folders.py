"""Folders of runs, made by hand in each state in which one can be found."""

import json
import time
from pathlib import Path
from typing import Any

from pipeline.state import RunFolder, RunState, StageState

STAGES = {
    "sft": {"kind": "sft", "data": "d.jsonl", "num_steps": 10},
    "grpo": {"kind": "grpo", "init_from": "sft", "prompts": "d.jsonl", "num_steps": 80, "rewards": ["math"]},
    "exam": {"kind": "evaluate", "of": ["sft", "grpo"], "tasks": {"dev": {"data": "e.jsonl"}}},
}


def write_run(root: Path, *, stages: dict[str, Any] = STAGES, **states: StageState) -> RunFolder:
    """Write a run's recipe, and where its stages stand; those that are not named wait."""
    folder = RunFolder(root)
    root.mkdir(parents=True, exist_ok=True)
    folder.resolved.write_text(json.dumps({"name": root.name, "seed": 17, "model": "m", "stages": stages}))
    folder.save(RunState(name=root.name, stages=states))
    return folder


def running(**changes: Any) -> StageState:
    """Return the state of a stage that began 100 s ago."""
    return StageState(**{"status": "running", "attempts": 1, "begun": time.time() - 100, **changes})


def write_lines(folder: RunFolder, stage: str, *rows: dict[str, Any], end: str = "\n") -> Path:
    """Append lines of metrics to a stage's newest attempt."""
    attempt = folder.stage(stage) / "latest"
    if not attempt.exists():
        folder.new_attempt(stage, 1)
    with (attempt / "metrics.jsonl").open("a") as file:
        file.write("\n".join(json.dumps(row) for row in rows) + end)
    return attempt


def grpo_line(step: int, seconds_ago: float, **more: Any) -> dict[str, Any]:
    """Return a line of GRPO's metrics."""
    return {
        "step": step, "num_steps": 80, "time": time.time() - seconds_ago, "train/loss": 0.25, "reward/mean": 0.75,
        "reward/math/mean": 0.5, "rollout/staleness_mean": 0.5, "rollout/staleness_max": 2, "sync/drift_max": 7e-6,
        "policy/mismatch_max_nats": 3e-5, "policy/kl_nats": 0.0125, "rollout/ahead": 64,
        "reward/queue_groups_max": 10.0, "rollout/sampled_tokens": 2000.0, "train/forwarded_tokens": 1000.0,
        "rollout/engine_restarts": 0.0, "reward/cause/ok/count": 512.0, **more,
    }  # fmt: skip
