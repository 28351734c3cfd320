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
import yaml
from safetensors.torch import load_file

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
    """Say whether a process still runs; a zombie does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
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
        for line in file.read_text().splitlines():
            row = json.loads(line)
            found.setdefault(row["step"], {}).update(row)
    return found


def weights(run: Path, stage: str) -> dict[str, Any]:
    """Return a finished stage's weights."""
    return load_file(run / stage / "output" / "model.safetensors")


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
