"""Moments at which something can happen to a process, by name: before each write below a folder, and before some calls.

Python tells of writes by its audit events; what libraries write past Python is told of where they are asked to.
"""

import errno
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

CALLS = (
    "accelerate:Accelerator.backward",
    "rewards.scorer:Scorer.submit",
    "rollout.transformers_engine:TransformersEngine.generate",
    "rollout.transformers_engine:TransformersEngine.load_weights",
    "rollout.transformers_engine:_sample",
    "rollout.weight_sync:WeightSync.publish",
    "stages.grpo.learner:Learner.update",
    "torch.optim.adamw:AdamW.step",
)
"""In the middle of generation (`_sample`: of an answer), scoring, weight sync and updates."""
WRITERS = (
    "peft.peft_model:safe_save_file",
    "safetensors.torch:save_file",
    "stages.preference.reference_cache:save_file",
    "torch:save",
    "transformers.modeling_utils:safe_save_file",
)
"""Functions of a content and a path that write past Python, under the names by which they are called."""
TAKE_SPACE = ("os.mkdir", "os.symlink", "os.rename")
"""Audit events that a full disk refuses, as it does `open` for writing; the last path of each counts."""
FREE_SPACE = ("os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")

Point = tuple[str, int]
"""A name and which time it is passed, from 1."""
Fault = Literal["kill", "full"]
"""The process is killed, or from then on the disk has no space left."""


class Points:
    """Counts the points that this process passes, and has one of them go wrong."""

    def __init__(self, root: Path, fault: Fault = "kill", at: Point | None = None) -> None:
        self.passed: list[str] = []
        """Names: `event path below root`, digits as `#`, so that checkpoints of two steps have points of one name."""
        self._root = root
        self._fault = fault
        self._at = at
        self._counts: Counter[str] = Counter()
        self._is_full = False
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Begin to count; there is no end to it, for an audit hook stays as long as its process."""
        sys.addaudithook(self._hear)
        for call in CALLS:
            name = f"call {call.partition(':')[2]}"
            _announce(call, lambda arguments, name=name: self._pass(name))
        for writer in WRITERS:
            _announce(writer, lambda arguments: self._hear("open", (arguments[1], "w", 0)))

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        takes_space = event in TAKE_SPACE or (event == "open" and _writes(arguments[1], arguments[2]))
        if not takes_space and event not in FREE_SPACE:
            return
        path = arguments[1] if event in ("os.rename", "os.symlink") else arguments[0]
        below = _below(self._root, os.fspath(path)) if isinstance(path, str | bytes | os.PathLike) else None
        if below is None or "waits" in below:  # these are written when the moment comes, by a thread
            return
        self._pass(f"{event} {below}")
        if self._is_full and takes_space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))

    def _pass(self, name: str) -> None:
        with self._lock:
            self.passed.append(name)
            self._counts[name] += 1
            is_here = self._at == (name, self._counts[name])
        if is_here and self._fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self._is_full = self._is_full or is_here


def _writes(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _below(root: Path, path: str | bytes) -> str | None:
    text = os.path.abspath(os.fsdecode(path))
    return re.sub(r"\d+", "#", text[len(str(root)) + 1 :]) if text.startswith(f"{root}/") else None


def _announce(call: str, tell: Callable[[tuple[Any, ...]], None]) -> None:
    """Have a function, `module:name`, told of with its arguments each time before it is called."""
    module, _, name = call.partition(":")
    owner: Any = import_module(module)
    *classes, function = name.split(".")
    for each in classes:
        owner = getattr(owner, each)
    original = getattr(owner, function)

    @wraps(original)
    def announced(*arguments: Any, **named: Any) -> Any:
        tell(arguments)
        return original(*arguments, **named)

    setattr(owner, function, announced)
