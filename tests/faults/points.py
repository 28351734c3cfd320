"""Moments at which a process can be killed, by name: before each write below a folder, and before some calls.

Python tells of writes by its audit events; what libraries write past Python lies between two of them.
"""

import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

CALLS = (
    "rewards.scorer:Scorer.submit",
    "rollout.transformers_engine:TransformersEngine.generate",
    "rollout.transformers_engine:TransformersEngine.load_weights",
    "rollout.weight_sync:WeightSync.publish",
    "torch.optim.adamw:AdamW.step",
)
"""In the middle of generation, scoring, weight sync and updates."""
WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate", "shutil.rmtree")
"""Audit events beside `open`; the last path of each is the one that counts."""

Point = tuple[str, int]
"""A name and which time it is passed, from 1."""


def pass_points(root: Path, kill_at: Point | None) -> list[str]:
    """Have this process count points from now on, and die at one of them; return the list of those passed, which grows.

    Names are `event path below root`, digits as `#`: checkpoints of two steps pass points of the same name.
    """
    passed: list[str] = []
    counts: Counter[str] = Counter()

    def at(name: str) -> None:
        passed.append(name)
        counts[name] += 1
        if kill_at == (name, counts[name]):
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and _writes(arguments[1], arguments[2]):
            path = arguments[0]
        elif event in WRITES:
            path = arguments[1] if event in ("os.rename", "os.symlink") else arguments[0]
        else:
            return
        if isinstance(path, str | bytes | os.PathLike) and (below := _below(root, os.fspath(path))):
            at(f"{event} {below}")

    sys.addaudithook(hook)
    for call in CALLS:
        _announce(call, at)
    return passed


def _writes(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _below(root: Path, path: str | bytes) -> str | None:
    text = os.path.abspath(os.fsdecode(path))
    return re.sub(r"\d+", "#", text[len(str(root)) + 1 :]) if text.startswith(f"{root}/") else None


def _announce(call: str, at: Callable[[str], None]) -> None:
    module, _, name = call.partition(":")
    owner: Any = import_module(module)
    *classes, function = name.split(".")
    for each in classes:
        owner = getattr(owner, each)
    original = getattr(owner, function)

    @wraps(original)
    def announced(*arguments: Any, **named: Any) -> Any:
        at(f"call {name}")
        return original(*arguments, **named)

    setattr(owner, function, announced)
