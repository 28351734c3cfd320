"""One class for each tracker that people know, all alike: opened, given a line of metrics at a time, closed.

accelerate has wrappers of these, which are not used: in a driver, which trains nothing, they want its process state;
they started neither W&B nor trackio in a thread, and none goes on with the run of a driver that was killed.

What a tracker keeps on disk goes below the run's folder, unless its own environment variable says otherwise. Each is
opened and used in one thread of its own, and by the run that was opened there, for what a library takes for the current
run can be that of another thread. Where the driver is killed, TensorBoard and W&B lose what they had taken and not yet
written: seconds.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.config import TrackerName

PROJECT = "strop"
"""What runs belong to where nothing else is said, so that they can be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedLine:
    """A stage's metrics of one step."""

    stage: str
    step: int
    """The stage's own."""
    number: int
    """Of all lines of the run that were handed on, from 0; it only grows."""
    time: float
    """When they were measured, in seconds since the epoch."""
    values: Mapping[str, float]
    """By `stage/metric`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Which run a tracker is to open."""

    name: str
    id: str
    """A new run's own, or what the tracker's `id` was when an earlier driver had it open."""
    is_new: bool
    folder: Path
    """For what is kept on disk."""
    config: Mapping[str, str | float]
    """The recipe, flat."""


class Tracker(Protocol):
    """What is asked of a tracker."""

    id: str
    """By which it can be opened again."""

    def log(self, line: TrackedLine) -> None:
        """Take a line of metrics."""
        ...

    def finish(self, *, failed: bool) -> None:
        """Hand on what is left."""
        ...


class TensorBoard:
    """Scalars by stage and step; the recipe is a text. Goes on in the same folder, with another file."""

    def __init__(self, opening: Opening) -> None:
        from tensorboardX import SummaryWriter

        self.id = opening.id
        folder = str(opening.folder / "tensorboard" / opening.id)
        self._writer = SummaryWriter(folder, filename_suffix=f".{time.time_ns()}")  # its own name ends with the second
        if opening.is_new:
            recipe = "\n".join(f"    {key}: {value}" for key, value in opening.config.items())
            self._writer.add_text("recipe", recipe, 0)

    def log(self, line: TrackedLine) -> None:
        """Take a line of metrics."""
        for name, value in line.values.items():
            self._writer.add_scalar(name, value, global_step=line.step, walltime=line.time)
        self._writer.flush()

    def finish(self, *, failed: bool) -> None:
        """Close the file."""
        self._writer.close()


class WandB:
    """Weights & Biases. Its own step only grows, so each stage's metrics have that stage's step as their axis."""

    def __init__(self, opening: Opening) -> None:
        import wandb

        self.id = opening.id
        opening.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=opening.name,
            id=opening.id,
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(opening.folder)),
            settings=wandb.Settings(console="off"),  # what is printed is the run's view
        )
        self._run.config.update(dict(opening.config), allow_val_change=True)
        self._stages: set[str] = set()

    def log(self, line: TrackedLine) -> None:
        """Take a line of metrics."""
        axis = f"{line.stage}/step"
        if line.stage not in self._stages:
            self._stages.add(line.stage)
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(f"{line.stage}/*", step_metric=axis)
        self._run.log({**line.values, axis: line.step}, step=line.number)

    def finish(self, *, failed: bool) -> None:
        """Hand on what is left, and say how the run ended."""
        self._run.finish(exit_code=int(failed))


class MLflow:
    """MLflow, through its client, to which it is said each time which run is meant. Parameters stay as they began."""

    MOST_AT_ONCE = 100
    MOST_CHARACTERS = 250
    """Of a name."""

    def __init__(self, opening: Opening) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        opening.folder.mkdir(parents=True, exist_ok=True)
        here = f"sqlite:///{opening.folder.resolve() / 'mlflow.db'}"
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", here))
        if opening.is_new:
            self.id = self._client.create_run(self._experiment(opening.folder), run_name=opening.name).info.run_id
            params = [Param(self._name(key), str(value)[:6000]) for key, value in opening.config.items()]
            for at in range(0, len(params), self.MOST_AT_ONCE):
                self._client.log_batch(self.id, params=params[at : at + self.MOST_AT_ONCE])
        else:
            self.id = self._client.get_run(opening.id).info.run_id
            self._client.update_run(self.id, status="RUNNING")

    def log(self, line: TrackedLine) -> None:
        """Take a line of metrics."""
        from mlflow.entities import Metric

        at_ms = int(line.time * 1000)
        metrics = [Metric(self._name(name), value, at_ms, line.step) for name, value in line.values.items()]
        for at in range(0, len(metrics), self.MOST_AT_ONCE):
            self._client.log_batch(self.id, metrics=metrics[at : at + self.MOST_AT_ONCE])

    def finish(self, *, failed: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self.id, status="FAILED" if failed else "FINISHED")

    def _experiment(self, folder: Path) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(name, artifact_location=str(folder.resolve() / "mlflow")))

    def _name(self, name: str) -> str:
        """Return a name as far as MLflow allows: letters, digits and `_-. :/`."""
        return re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)[: self.MOST_CHARACTERS]


class Trackio:
    """Trackio, in its own SQLite file: it knows a run by its name."""

    def __init__(self, opening: Opening) -> None:
        os.environ.setdefault("TRACKIO_DIR", str((opening.folder / "trackio").resolve()))  # read when it is imported
        import trackio

        self.id = opening.id
        self._run = trackio.init(project=PROJECT, name=opening.id, resume="allow", config=dict(opening.config))

    def log(self, line: TrackedLine) -> None:
        """Take a line of metrics."""
        self._run.log(dict(line.values), step=line.step)

    def finish(self, *, failed: bool) -> None:
        """Hand on what is left."""
        self._run.finish()


TRACKERS: Mapping[TrackerName, Callable[[Opening], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
}
PACKAGES: Mapping[TrackerName, str] = {
    "tensorboard": "tensorboardX",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
}
"""What has to be installed."""


def flat(tree: Any, where: str = "") -> Iterator[tuple[str, str | float]]:
    """Yield a tree's leaves by their path; lists are JSON."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flat(value, f"{where}.{key}".strip("."))
    else:
        yield where, tree if isinstance(tree, int | float | str) else json.dumps(tree)
