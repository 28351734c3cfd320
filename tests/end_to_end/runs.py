"""Recipes on tiny models, run through the real command line in a process of its own, and killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from safetensors.torch import load_file

from rollout.records import read_groups

ROOT = Path(__file__).parents[2]


def strop(*arguments: str | Path, timeout_s: float = 400.0) -> "subprocess.CompletedProcess[str]":
    """Run the command line to its end."""
    return subprocess.run(
        _command(*arguments), capture_output=True, text=True, timeout=timeout_s, cwd=ROOT, env=_environment()
    )


def begin(*arguments: str | Path, cwd: Path = ROOT, environment: Mapping[str, str] = {}) -> "subprocess.Popen[str]":
    """Start the command line and return its process, output in pipes."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(_command(*arguments), text=True, cwd=cwd, env={**_environment(), **environment}, **pipes)


def kill_when(*arguments: str | Path, ready: Callable[[], bool], timeout_s: float = 300.0) -> None:
    """Start the command line, SIGKILL it once ``ready`` says so, and wait until all that it started is gone."""
    process = subprocess.Popen(_command(*arguments), cwd=ROOT, env=_environment())
    try:
        wait_for(lambda: ready() or process.poll() is not None, "the moment to kill", timeout_s)
        assert process.poll() is None, "the run ended before it was to be killed"
        family = [p for p in psutil.Process(process.pid).children(recursive=True) if not _ends_late(p)]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_for(lambda: not [p for p in family if is_alive(p)], "the dead driver's processes to end", 60.0)


def _ends_late(process: psutil.Process) -> bool:
    """Say whether it is one of Ray's two agents, which notice a dead node by themselves, a minute later."""
    return process.name().startswith(("ray::Dashboard", "ray::RuntimeEnv")) or "Agent" in " ".join(process.cmdline())


def is_alive(process: psutil.Process) -> bool:
    """Say whether a process still runs; a zombie does not, nor does another that has its number by now."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {timeout_s:.0f} s"
        time.sleep(0.05)


def metrics(run: Path, stage: str) -> dict[int, dict[str, float]]:
    """Return a stage's metrics by step; a later attempt's line replaces an earlier one's."""
    found: dict[int, dict[str, float]] = {}
    for file in sorted((run / stage).glob("attempt_*/metrics.jsonl")):
        for line in file.read_text().split("\n")[:-1]:  # what has no newline yet is being written, or was cut short
            row = json.loads(line)
            found.setdefault(row["step"], {}).update(row)
    return found


def prompts_by_step(run: Path, stage: str) -> dict[str, list[str]]:
    """Return of which prompts a stage has learned in each step, by the name of the step's file."""
    files = sorted((run / stage / "rollouts").glob("step_*.parquet"))
    return {file.stem: [group.prompt.id for group in read_groups(file)] for file in files}


def assert_same_weights(one: Path, other: Path, stage: str) -> None:
    """See that a stage has learned the same in two runs, to the last bit."""
    first, second = (load_file(run / stage / "output" / "model.safetensors") for run in (one, other))
    assert first.keys() == second.keys(), stage
    assert not [name for name in first if not torch.equal(first[name], second[name])], stage


def write_recipe(path: Path, **content: Any) -> Path:
    """Write a recipe."""
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write a JSONL file and return its name."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
