"""Trackers get what stages write, once; one that fails, hangs or is missing holds up nobody."""

import json
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.plan import Step
from pipeline.tracking import Tracking, missing, start

CONFIG = {"name": "r", "model": "m", "stages": {"sft": {"kind": "sft", "data": "d.jsonl", "num_steps": 1}}}


class Kept:
    """A tracker that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[tuple[int | None, dict[str, float]]] = []
        self.is_finished = False

    def log(self, values: dict[str, float], step: int | None) -> None:
        self.got.append((step, values))

    def finish(self) -> None:
        self.is_finished = True


class Failing(Kept):
    def log(self, values: dict[str, float], step: int | None) -> None:
        raise ConnectionError("no route to the tracker")


class Hanging(Kept):
    def log(self, values: dict[str, float], step: int | None) -> None:
        threading.Event().wait(600)


def stage(name: str) -> Step:
    return Step(name=name, action="run", why="never ran", identity={})


def write(file: Path, *rows: dict[str, float], end: str = "\n") -> None:
    file.parent.mkdir(exist_ok=True, parents=True)
    with file.open("a") as opened:
        opened.write("\n".join(json.dumps(row) for row in rows) + end)


def test_each_line_is_handed_on_once_under_its_stage_also_the_last_of_each_attempt(tmp_path: Path) -> None:
    kept = Kept()
    tracking = Tracking({"kept": kept})
    first, second = tmp_path / "a" / "attempt_001", tmp_path / "b" / "attempt_001"
    tracking.begins(stage("a"))
    tracking.works(stage("a"), first)
    write(first / "metrics.jsonl", {"step": 1, "num_steps": 2, "time": 5.0, "train/loss": 3.0})
    tracking.works(stage("a"), first)
    write(first / "metrics.jsonl", {"step": 2, "train/loss": 2.0}, end="")
    tracking.works(stage("a"), first)
    assert [step for step, _ in _settled(kept, 1)] == [1], "the second line is half written"
    with (first / "metrics.jsonl").open("a") as file:
        file.write("\n")
    tracking.begins(stage("b"))
    tracking.works(stage("b"), second)
    write(second / "metrics.jsonl", {"step": 1, "reward/mean": 0.5})
    tracking.close()
    assert kept.got == [(1, {"a/train/loss": 3.0}), (2, {"a/train/loss": 2.0}), (1, {"b/reward/mean": 0.5})]
    assert kept.is_finished


def test_a_line_that_a_full_disk_cut_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()
    tracking = Tracking({"kept": kept})
    write(tmp_path / "metrics.jsonl", {"step": 1, "train/loss": 3.0})
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 2, "trai{"step": 3, "train/loss": 1.0}\n')
    write(tmp_path / "metrics.jsonl", {"step": 4, "train/loss": 0.5})
    tracking.works(stage("a"), tmp_path)
    tracking.close()
    assert [step for step, _ in kept.got] == [1, 4] and "is no JSON, and is not tracked" in caplog.text


def _settled(kept: Kept, num: int) -> list[tuple[int | None, dict[str, float]]]:
    deadline = time.monotonic() + 10
    while len(kept.got) < num and time.monotonic() < deadline:
        time.sleep(0.01)
    return list(kept.got)


def test_one_that_fails_or_hangs_holds_up_neither_the_run_nor_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept()
    tracking = Tracking({"failing": Failing(), "hanging": Hanging(), "kept": kept}, close_timeout_s=0.2)
    write(tmp_path / "metrics.jsonl", {"step": 1, "train/loss": 3.0}, {"step": 2, "train/loss": 2.0})
    began = time.monotonic()
    tracking.works(stage("a"), tmp_path)
    tracking.close()
    assert time.monotonic() - began < 5 and [step for step, _ in kept.got] == [1, 2]
    assert "failing takes no more metrics" in caplog.text and "no route to the tracker" in caplog.text
    assert "hanging did not take the last metrics within 0 s" in caplog.text


def test_one_that_is_not_installed_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = RunConfig.model_validate({**CONFIG, "tracking": "wandb"})
    assert list(missing(config)) == ["tracking: wandb is not installed; pip install wandb, or leave it out"]


def test_tensorboard_gets_scalars_and_the_recipe(tmp_path: Path) -> None:
    config = RunConfig.model_validate({**CONFIG, "tracking": "tensorboard"})
    assert not list(missing(config))
    tracking = start(config, tmp_path / "r")
    write(tmp_path / "metrics.jsonl", {"step": 7, "train/loss": 3.0})
    tracking.works(stage("sft"), tmp_path)
    tracking.close()
    scalars = [
        (event.step, value.tag, value.simple_value)
        for file in (tmp_path / "r" / "tracking").rglob("events.out.tfevents.*")
        for event in events_in(file)
        for value in event.summary.value
    ]
    assert (7, "sft/train/loss", 3.0) in scalars
    assert "stages.sft.num_steps" in "".join(p.read_text() for p in (tmp_path / "r" / "tracking").rglob("*.yml"))


def events_in(file: Path) -> list[Any]:
    """Read a file of events: each with its length, and checksums that are passed over."""
    from tensorboardX.proto.event_pb2 import Event

    content, events, at = file.read_bytes(), [], 0
    while at < len(content):
        (length,) = struct.unpack("<Q", content[at : at + 8])
        events.append(Event.FromString(content[at + 12 : at + 12 + length]))
        at += 12 + length + 4
    return events
