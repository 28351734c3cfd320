"""How far an attempt is, by the newest lines of its `metrics.jsonl`.

Of a file that only grows no more than the end is read; a line that is half written is passed over.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TAIL_BYTES = 64 * 1024
"""So much is read: some forty steps of GRPO, some two hundred of SFT."""
_CAUSE = re.compile(r"(?:.*/)?reward/cause/(\w+)/count")
_OF_EVERY_LINE = ("step", "num_steps", "time")

Row = Mapping[str, float]
"""A line of metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What the newest lines say: rates and counts are of these lines, not of the whole attempt."""

    step: int
    num_steps: int | None
    """None where the stage does not know."""
    step_s: float | None
    """Seconds a step; None where the lines tell of one step alone."""
    left_s: float | None
    """Seconds until the last step, at this rate."""
    newest: Row
    """Each metric's newest value."""
    causes: Mapping[str, int]
    """How many answers were scored with each cause, "ok" among them."""
    engine_restarts: int
    sampled_tokens_per_s: float | None
    learned_tokens_per_s: float | None
    """With the tokens of prompts; None where the stage does not tell."""
    num_lines: int


def newest_lines(metrics: Path) -> Sequence[Row]:
    """Return the last lines of a metrics file, oldest first, as far as they are whole; none where there is no file."""
    try:
        stat = metrics.stat()
        return _tail(metrics, stat.st_mtime_ns, stat.st_size)
    except OSError:
        return ()


def progress(rows: Sequence[Row], now: float) -> Progress | None:
    """Return what lines of metrics say at ``now``, in seconds since the epoch; None without any line."""
    if not rows:
        return None
    steps = [row for row in rows if "num_steps" in row and "time" in row]
    took_s, num = (steps[-1]["time"] - steps[0]["time"], steps[-1]["step"] - steps[0]["step"]) if steps else (0.0, 0)
    step_s = took_s / num if num > 0 and took_s > 0 else None
    left_s = None
    if step_s is not None:
        left_s = max(0.0, (steps[-1]["num_steps"] - steps[-1]["step"]) * step_s - (now - steps[-1]["time"]))
    return Progress(
        step=int(rows[-1]["step"]),
        num_steps=int(steps[-1]["num_steps"]) if steps else None,
        step_s=step_s,
        left_s=left_s,
        newest={name: value for row in rows for name, value in row.items()},
        causes=count_causes(rows),
        engine_restarts=int(_total(rows, "rollout/engine_restarts")),
        sampled_tokens_per_s=_per_s(rows, _total(rows[1:], "rollout/sampled_tokens")),
        learned_tokens_per_s=_per_s(rows, _total(rows[1:], "train/forwarded_tokens") or _growth(rows)),
        num_lines=len(rows),
    )


@lru_cache(maxsize=128)
def _tail(metrics: Path, mtime_ns: int, size: int) -> Sequence[Row]:
    """Read the end of a file; that of one which has not changed since is known."""
    start = max(0, size - TAIL_BYTES)
    with metrics.open("rb") as file:
        file.seek(start)
        lines = file.read(TAIL_BYTES).split(b"\n")
    return tuple(row for line in lines[1 if start else 0 :] if (row := row_of(line)) is not None)


def row_of(line: bytes) -> Row | None:
    """Return a line's numbers, its step among them; None for a line that is half written, cut, or damaged.

    Step, number of steps and time are finite; a metric need not be.
    """
    try:
        tree = json.loads(line, parse_int=float)  # an integer may have more digits than any float
    except (ValueError, RecursionError):
        return None
    if not isinstance(tree, dict) or "step" not in tree:
        return None
    row = {name: value for name, value in tree.items() if isinstance(value, float)}
    is_whole = all(math.isfinite(row.get(name, math.nan)) for name in _OF_EVERY_LINE if name in tree)
    return row if is_whole else None


def count_causes(rows: Iterable[Row]) -> Counter[str]:
    """Return how many answers were scored with each cause, those of exams among them."""
    counts = Counter[str]()
    for row in rows:
        for name, count in row.items():
            if (found := _CAUSE.fullmatch(name)) and math.isfinite(count):
                counts[found[1]] += int(count)
    return counts


def _total(rows: Sequence[Row], metric: str) -> float:
    """Add a metric up, those of exams with it, whose names begin with the exam's."""
    values = [value for row in rows for name, value in row.items() if name == metric or name.endswith(f"/{metric}")]
    return sum(filter(math.isfinite, values))


def _growth(rows: Sequence[Row], metric: str = "train/seen_tokens") -> float:
    """Return by how much a metric that counts from the start has grown."""
    values = [row[metric] for row in rows if metric in row]
    return values[-1] - values[0] if values else 0.0


def _per_s(rows: Sequence[Row], num: float) -> float | None:
    """Return what came after the first line, by the second; None where nothing did."""
    times = [row["time"] for row in rows if "time" in row]
    took_s = times[-1] - times[0] if times else 0.0
    return num / took_s if num > 0 and took_s > 0 else None
