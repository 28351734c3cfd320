"""The metrics file of one attempt: one JSON object a step. Its time of change is also the stage's sign of life."""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)


OF_PAIRS = {
    "rewards/chosen": "preference/reward_chosen",
    "rewards/rejected": "preference/reward_rejected",
    "rewards/margins": "preference/margin_beyond_offset",
    "rewards/accuracies": "preference/accuracy_beyond_offset",
    "logps/chosen": "preference/logprob_chosen_nats",
    "logps/rejected": "preference/logprob_rejected_nats",
}
"""TRL's names of what a loss of pairs tells, and ours."""


class MetricsFile:
    """Appends ``{"step": N, "time": seconds since the epoch, name: value, ...}`` lines to `metrics.jsonl`.

    Names are ``area/quantity[/stat]`` with the unit at the end, such as ``rollout/length/mean_tokens``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def folder(self) -> Path:
        """The attempt's folder."""
        return self._path.parent

    def write(self, step: int, values: Mapping[str, float], *, of: int | None = None) -> None:
        """Append one line; ``of`` is the number of steps there will be."""
        total = {} if of is None else {"num_steps": of}
        line = json.dumps({"step": step, **total, "time": round(time.time(), 3), **values})
        with self._path.open("a") as file:
            file.write(line + "\n")

    def alive(self) -> None:
        """Say that the stage is working although no step has ended."""
        self._path.touch()


class Clock:
    """Seconds spent on each part of a step, as metrics."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, name: str) -> None:
        """Note the time since the last lap under this name."""
        now = time.monotonic()
        self.laps[f"time/{name}_s"] = now - self._since
        self._since = now
