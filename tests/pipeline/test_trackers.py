"""Each tracker for real, as far as it is installed, without a network: what arrives, and how a run goes on in it."""

import json
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig, TrackerName
from pipeline.plan import Step
from pipeline.state import RunFolder
from pipeline.trackers import PACKAGES, PROJECT
from pipeline.tracking import start
from tests.pipeline.test_tracking import CONFIG, stage, write

Found = dict[str, list[tuple[int, float]]]
"""Steps and values by metric, in the order in which they were written."""

REWARD = "b/reward/[red] of mine/mean"
"""A reward may be called so."""


def in_tensorboard(folder: Path) -> Found:
    from tensorboardX.proto.event_pb2 import Event

    found: Found = defaultdict(list)
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        content, at = file.read_bytes(), 0
        while at < len(content):  # each event with its length, and checksums that are passed over
            (length,) = struct.unpack("<Q", content[at : at + 8])
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 12 + length + 4
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found[value.tag].append((event.step, value.simple_value))
    return found


def records_in(content: bytes) -> Iterator[bytes]:
    """Read a log as LevelDB's: blocks of 32 KiB, and in them records, or parts of such, each with 7 bytes before it."""
    at, record = 7, b""  # after the file's own header
    while at < len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def in_wandb(folder: Path) -> Found:
    from wandb.proto.wandb_internal_pb2 import Record

    found: Found = defaultdict(list)
    numbers = []
    for file in sorted(folder.rglob("run-*.wandb")):
        for record in map(Record.FromString, records_in(file.read_bytes())):
            if not record.history.item:
                continue
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            numbers.append(items["_step"])
            [axis] = [key for key in items if key.endswith("/step")]
            for key, value in items.items():
                if key != axis and not key.startswith("_"):
                    found[key].append((items[axis], value))
    assert numbers == sorted(set(numbers)), "W&B's own step only grows, over both parts of the run"
    assert len({file.name for file in folder.rglob("run-*.wandb")}) == 1, "it is one run"
    return found


def in_mlflow(folder: Path) -> Found:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(PROJECT)
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.data.params["stages.a.num_steps"] == "1" and run.info.status == "FINISHED"
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {name: [(each.step, each.value) for each in found] for name, found in history.items()}


def in_trackio(folder: Path) -> Found:
    from trackio.sqlite_storage import SQLiteStorage

    found: Found = defaultdict(list)
    [run] = SQLiteStorage.get_runs(PROJECT)
    for row in SQLiteStorage.get_logs(PROJECT, run):
        for name, value in row.items():
            if "/" in name:
                found[name].append((row["step"], value))
    return found


READERS: dict[TrackerName, Callable[[Path], Found]] = {
    "tensorboard": in_tensorboard,
    "wandb": in_wandb,
    "mlflow": in_mlflow,
    "trackio": in_trackio,
}


@pytest.mark.parametrize("name", list(READERS))
def test_what_stages_write_arrives_by_step_and_a_run_goes_on_where_it_was(
    name: TrackerName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "tracking" / "trackio"))  # read when it is imported
    pytest.importorskip(PACKAGES[name])
    config, folder = RunConfig.model_validate({**CONFIG, "tracking": name}), RunFolder(tmp_path)
    changed = config.model_copy(update={"stall_timeout_s": 5.0})  # of the machine: the run is the same

    def attempt(number: int, steps: list[Step], *rows: tuple[str, dict[str, Any]], config: RunConfig = config) -> None:
        with start(config, folder, steps) as tracking:
            for where, row in rows:
                place = tmp_path / where / f"attempt_{number:03d}"
                write(place / "metrics.jsonl", {"time": 1e9, **row})
                tracking.works(stage(where), place)

    losses = [("a", {"step": step, "train/loss": float(step)}) for step in (1, 2, 3)]
    attempt(1, [stage("a"), stage("b")], *losses)
    rewards = ("b", {"step": 1, REWARD.removeprefix("b/"): 0.5, "train/loss": float("nan")})
    attempt(2, [stage("a", "continue"), stage("b")], *losses[1:], ("a", {"step": 4, "train/loss": 4.0}), rewards,
            config=changed)  # fmt: skip
    found = READERS[name](tmp_path / "tracking")
    assert found["a/train/loss"] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)], "once each"
    names = {"mlflow": "b/reward/_red_ of mine/mean", "tensorboard": "b/reward/_red__of_mine/mean"}
    assert found[names.get(name, REWARD)] == [(1, 0.5)], "a later stage begins at step 1 again"
