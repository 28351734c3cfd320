"""Metrics for trackers that people know: TensorBoard, Weights & Biases, MLflow, Trackio, all through accelerate's.

The driver reads what stages write and hands it on in threads of their own: a tracker that fails or hangs holds up no
stage.
"""

import importlib.util
import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from pipeline.config import RunConfig, TrackerName
from pipeline.plan import Step

logger = logging.getLogger(__name__)

PACKAGES: Mapping[TrackerName, Sequence[str]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}
"""Any of these serves."""
NOT_TRACKED = ("step", "time", "num_steps")
CLOSE_TIMEOUT_S = 60.0
"""How long the trackers may take to hand on the last metrics, once the run has ended."""


class Tracker(Protocol):
    """What is asked of accelerate's trackers."""

    def log(self, values: dict[str, float], step: int | None) -> None:
        """Take metrics of a step."""
        ...

    def finish(self) -> None:
        """Hand on what is left."""
        ...


class Tracking:
    """An observer of a run that hands its metrics on, as `stage/metric`."""

    def __init__(self, trackers: Mapping[str, Tracker], *, close_timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        self._close_timeout_s = close_timeout_s
        self._reading: tuple[str, Path] | None = None
        self._read_bytes = 0
        self._queues: dict[str, SimpleQueue[tuple[dict[str, float], int] | None]] = {}
        self._threads: dict[str, threading.Thread] = {}
        for name, tracker in trackers.items():
            queue: SimpleQueue[tuple[dict[str, float], int] | None] = SimpleQueue()
            thread = threading.Thread(target=_hand_on, args=(name, tracker, queue), name=name, daemon=True)
            self._queues[name], self._threads[name] = queue, thread
            thread.start()

    def begins(self, step: Step) -> None:
        """Read the end of the stage before."""
        self._read()

    def works(self, step: Step, attempt: Path) -> None:
        """Read what has been written since the last call."""
        if self._reading != (step.name, attempt):
            self._read()
            self._reading, self._read_bytes = (step.name, attempt), 0
        self._read()

    def close(self) -> None:
        """Read the end of the last stage; wait for the trackers, which are left behind when they take too long."""
        self._read()
        for name, queue in self._queues.items():
            queue.put(None)
            self._threads[name].join(self._close_timeout_s)
            if self._threads[name].is_alive():
                logger.warning("%s did not take the last metrics within %.0f s", name, self._close_timeout_s)

    def _read(self) -> None:
        if self._reading is None:
            return
        stage, attempt = self._reading
        for row in self._new_rows(attempt / "metrics.jsonl"):
            values = {f"{stage}/{name}": value for name, value in row.items() if name not in NOT_TRACKED}
            for queue in self._queues.values():
                queue.put((values, int(row["step"])))

    def _new_rows(self, file: Path) -> Iterator[dict[str, float]]:
        if not file.is_file():
            return
        with file.open("rb") as opened:
            opened.seek(self._read_bytes)
            for line in opened:
                if not line.endswith(b"\n"):  # half written
                    return
                self._read_bytes += len(line)
                try:
                    yield json.loads(line)
                except ValueError:  # a full disk cut one short, and the next went on in its line
                    logger.warning("a line of %s is no JSON, and is not tracked: %.80r", file, line)


def missing(config: RunConfig) -> Iterator[str]:
    """Say which trackers that a recipe names are not installed."""
    for name in config.tracking:
        if not any(importlib.util.find_spec(package) for package in PACKAGES[name]):
            yield f"tracking: {name} is not installed; pip install {PACKAGES[name][0]}, or leave it out"


def start(config: RunConfig, folder: Path) -> Tracking:
    """Start the trackers that the recipe names; what they keep on disk goes below ``folder``.

    Raises RuntimeError where one cannot be started: it wants a login, say.
    """
    return Tracking({name: _started(name, config, folder) for name in config.tracking})


def _started(name: TrackerName, config: RunConfig, folder: Path) -> Tracker:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    try:
        place = {"logging_dir": str(folder / "tracking")} if kind.requires_logging_directory else {}
        tracker = kind(config.name, **place)
        tracker.start()
        tracker.store_init_configuration(dict(_flat(config.model_dump(mode="json"))))
    except (Exception, SystemExit) as error:
        raise RuntimeError(f"tracking by {name} could not be started: {error}; leave it out of `tracking`") from error
    return tracker  # type: ignore[no-any-return]


def _flat(tree: Any, where: str = "") -> Iterator[tuple[str, str | float]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _flat(value, f"{where}.{key}".strip("."))
    else:
        yield where, tree if isinstance(tree, int | float | str) else json.dumps(tree)


def _hand_on(name: str, tracker: Tracker, queue: "SimpleQueue[tuple[dict[str, float], int] | None]") -> None:
    try:
        while (item := queue.get()) is not None:
            values, step = item
            tracker.log(values, step=step)
        tracker.finish()
    except Exception as error:
        logger.warning("%s takes no more metrics, and the run goes on without it: %r", name, error)
