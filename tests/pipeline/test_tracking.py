"""Trackers get what stages write, once; one that fails, hangs or is missing holds up nobody."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.plan import Step
from pipeline.state import RunFolder
from pipeline.trackers import TrackedLine
from pipeline.tracking import RECORD, Record, Tracking, TrackingError, missing, start

SFT = {"kind": "sft", "data": "d.jsonl", "num_steps": 1}
CONFIG = {"name": "r", "model": "m", "stages": {"a": SFT, "b": SFT}}


class Kept:
    """A tracker that keeps what it gets."""

    id = "kept-1"

    def __init__(self) -> None:
        self.got: list[tuple[int, dict[str, float]]] = []
        self.numbers: list[int] = []
        self.failed: bool | None = None

    def log(self, line: TrackedLine) -> None:
        self.got.append((line.step, dict(line.values)))
        self.numbers.append(line.number)

    def finish(self, *, failed: bool) -> None:
        self.failed = failed


class Failing(Kept):
    def log(self, line: TrackedLine) -> None:
        raise ConnectionError("no route to the tracker")


class Hanging(Kept):
    def log(self, line: TrackedLine) -> None:
        threading.Event().wait(600)


def opening(tracker: Kept) -> Callable[[], Kept]:
    return lambda: tracker


def stage(name: str, action: Any = "run") -> Step:
    return Step(name=name, action=action, why="never ran", identity={})


def write(file: Path, *rows: dict[str, float], end: str = "\n") -> None:
    file.parent.mkdir(exist_ok=True, parents=True)
    with file.open("a") as opened:
        opened.write("\n".join(json.dumps(row) for row in rows) + end)


def test_each_line_is_handed_on_once_under_its_stage_also_the_last_of_each_attempt(tmp_path: Path) -> None:
    kept = Kept()
    first, second = tmp_path / "a" / "attempt_001", tmp_path / "b" / "attempt_001"
    with Tracking({"kept": opening(kept)}, tmp_path / "tracking") as tracking:
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
    assert kept.got == [(1, {"a/train/loss": 3.0}), (2, {"a/train/loss": 2.0}), (1, {"b/reward/mean": 0.5})]
    assert kept.numbers == [0, 1, 2] and kept.failed is False
    record = json.loads((tmp_path / "tracking" / RECORD).read_text())
    assert record == {
        "ids": {"kept": "kept-1"},
        "reached": {"a": 2, "b": 1},
        "lines_of_reached": {"a": 1, "b": 1},
        "num_lines": 3,
    }


def test_a_line_that_a_full_disk_cut_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()
    write(tmp_path / "metrics.jsonl", {"step": 1, "train/loss": 3.0})
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 2, "trai{"step": 3, "train/loss": 1.0}\n')
    write(tmp_path / "metrics.jsonl", {"step": 4, "train/loss": 0.5})
    with Tracking({"kept": opening(kept)}, tmp_path) as tracking:
        tracking.works(stage("a"), tmp_path)
    assert [step for step, _ in kept.got] == [1, 4] and "is no line of metrics, and is not tracked" in caplog.text


def _settled(kept: Kept, num: int) -> list[tuple[int, dict[str, float]]]:
    deadline = time.monotonic() + 10
    while len(kept.got) < num and time.monotonic() < deadline:
        time.sleep(0.01)
    return list(kept.got)


def test_one_that_fails_or_hangs_holds_up_neither_the_run_nor_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trackers = {"failing": Failing(), "hanging": Hanging(), "kept": (kept := Kept())}
    openings = {name: opening(tracker) for name, tracker in trackers.items()}
    write(tmp_path / "metrics.jsonl", {"step": 1, "train/loss": 3.0}, {"step": 2, "train/loss": 2.0})
    began = time.monotonic()
    with Tracking(openings, tmp_path, close_timeout_s=0.2) as tracking:
        tracking.works(stage("a"), tmp_path)
    assert time.monotonic() - began < 5 and [step for step, _ in kept.got] == [1, 2]
    assert "failing takes no more metrics" in caplog.text and "no route to the tracker" in caplog.text
    assert "hanging did not take the last metrics within 0 s" in caplog.text


def test_all_trackers_share_the_time_to_hand_on_the_last_metrics(tmp_path: Path) -> None:
    openings = {f"hanging {at}": opening(Hanging()) for at in range(5)}
    write(tmp_path / "metrics.jsonl", {"step": 1, "train/loss": 3.0})
    tracking = Tracking({**openings, "kept": opening(kept := Kept())}, tmp_path, close_timeout_s=0.5)
    tracking.works(stage("a"), tmp_path)
    began = time.monotonic()
    tracking.close()
    assert time.monotonic() - began < 1.5 and kept.failed is False, "2.5 s one after the other"


def test_a_disk_that_fails_costs_metrics_and_no_stage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tracking").write_text("a file where the folder should be")
    write(tmp_path / "metrics.jsonl", {"step": 1, "train/loss": 3.0})
    with Tracking({"kept": opening(kept := Kept())}, tmp_path / "tracking") as tracking:
        tracking.works(stage("a"), tmp_path)
    assert len(kept.got) == 1 and "were not all handed on" in caplog.text


def test_one_that_does_not_open_is_told_before_anything_starts_and_the_others_are_closed(tmp_path: Path) -> None:
    def refused() -> Kept:
        raise SystemExit("log in first")

    kept = Kept()
    with pytest.raises(TrackingError, match="tracking by wandb could not be started: log in first; leave it out"):
        Tracking({"kept": opening(kept), "wandb": refused}, tmp_path)
    assert kept.failed is True
    with pytest.raises(
        TrackingError, match=r"log in first; leave it out .*, or delete .*handed_on.json to begin a new"
    ):
        Tracking({"wandb": refused}, tmp_path, Record(ids={"wandb": "r-1"}))


def test_a_run_that_failed_is_told_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a stage"), Tracking({"kept": opening(kept := Kept())}, tmp_path):
        raise ValueError("a stage")
    assert kept.failed is True


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Kept]]:
    """Return what is opened as tensorboard from here on: with which opening, and what it got."""
    opened: list[tuple[Any, Kept]] = []

    def open_(opening: Any) -> Kept:
        opened.append((opening, Kept()))
        opened[-1][1].id = opening.id
        return opened[-1][1]

    monkeypatch.setattr("pipeline.tracking.TRACKERS", {"tensorboard": open_})
    return opened


def test_a_run_goes_on_in_the_same_tracker_s_run_and_no_step_comes_twice(
    tmp_path: Path, trackers: list[tuple[Any, Kept]]
) -> None:
    config, folder = RunConfig.model_validate({**CONFIG, "tracking": "tensorboard"}), RunFolder(tmp_path)
    first, second = tmp_path / "a" / "attempt_001", tmp_path / "a" / "attempt_002"
    with start(config, folder, [stage("a"), stage("b")]) as tracking:
        write(first / "metrics.jsonl", {"step": 0, "early_stop/accuracy": 0.1}, {"step": 1, "train/loss": 3.0})
        write(first / "metrics.jsonl", {"step": 2, "train/loss": 2.0}, {"step": 2, "early_stop/accuracy": 0.2})
        tracking.works(stage("a"), first)
    write(first / "metrics.jsonl", {"step": 3, "train/loss": 1.0})  # its driver was killed before it could read it
    with start(config, folder, [stage("a", "continue"), stage("b")]) as tracking:
        write(second / "metrics.jsonl", *({"step": step, "train/loss": 4.0 - step} for step in (2, 3, 4)))
        tracking.works(stage("a", "continue"), second)
    (before, one), (after, other) = trackers
    assert (before.is_new, after.is_new) == (True, False) and before.id == after.id
    assert [step for step, _ in one.got] == [0, 1, 2, 2]
    assert other.got == [(3, {"a/train/loss": 1.0}), (4, {"a/train/loss": 0.0})]
    assert one.numbers + other.numbers == list(range(6))


def test_an_exam_whose_step_was_handed_on_without_it_is_not_lost_by_a_kill(
    tmp_path: Path, trackers: list[tuple[Any, Kept]]
) -> None:
    config, folder = RunConfig.model_validate({**CONFIG, "tracking": "tensorboard"}), RunFolder(tmp_path)
    first, second, third = (tmp_path / "a" / f"attempt_{number:03d}" for number in (1, 2, 3))
    step, exam = {"step": 2, "train/loss": 2.0}, {"step": 2, "early_stop/accuracy": 0.2}
    with start(config, folder, [stage("a"), stage("b")]) as tracking:
        write(first / "metrics.jsonl", {"step": 1, "train/loss": 3.0}, step)
        tracking.works(stage("a"), first)
    with start(config, folder, [stage("a", "continue"), stage("b")]) as tracking:
        write(second / "metrics.jsonl", step, exam)
        tracking.works(stage("a", "continue"), second)
    with start(config, folder, [stage("a", "continue"), stage("b")]) as tracking:
        write(third / "metrics.jsonl", step, exam, {"step": 3, "train/loss": 1.0})
        tracking.works(stage("a", "continue"), third)
    got = [[(at, *values) for at, values in kept.got] for _, kept in trackers]
    assert got == [[(1, "a/train/loss"), (2, "a/train/loss")], [(2, "a/early_stop/accuracy")], [(3, "a/train/loss")]]


def test_a_stage_that_is_left_out_begins_no_new_run(tmp_path: Path, trackers: list[tuple[Any, Kept]]) -> None:
    config, folder = RunConfig.model_validate({**CONFIG, "tracking": "tensorboard"}), RunFolder(tmp_path)
    with start(config, folder, [stage("a"), stage("b")]) as tracking:
        for name in ("a", "b"):
            write(tmp_path / name / "attempt_001" / "metrics.jsonl", {"step": 1, "train/loss": 3.0})
            tracking.works(stage(name), tmp_path / name / "attempt_001")
    for _ in range(2):
        with start(config, folder, [stage("a", "skip"), stage("b", "run")], only="a"):
            pass
    assert [before.is_new for before, _ in trackers] == [True, False, False]
    assert [len(kept.got) for _, kept in trackers] == [2, 0, 0]


def test_a_run_of_which_a_stage_begins_anew_begins_a_new_one_with_what_the_others_have_written(
    tmp_path: Path, trackers: list[tuple[Any, Kept]]
) -> None:
    config, folder = RunConfig.model_validate({**CONFIG, "tracking": "tensorboard"}), RunFolder(tmp_path)
    with start(config, folder, [stage("a"), stage("b")]) as tracking:
        for name in ("a", "b"):
            write(tmp_path / name / "attempt_001" / "metrics.jsonl", {"step": 1, "train/loss": 3.0})
            tracking.works(stage(name), tmp_path / name / "attempt_001")
    with start(config, folder, [stage("a", "skip"), stage("b", "run")]):
        pass
    (before, _), (after, other) = trackers
    assert after.is_new and before.id != after.id
    assert other.got == [(1, {"a/train/loss": 3.0})] and other.numbers == [0]


def test_a_stage_that_was_planned_to_run_and_is_passed_over_is_not_missed(
    tmp_path: Path, trackers: list[tuple[Any, Kept]]
) -> None:
    config, folder = RunConfig.model_validate({**CONFIG, "tracking": "tensorboard"}), RunFolder(tmp_path)
    for name in ("a", "b"):
        write(tmp_path / name / "attempt_001" / "metrics.jsonl", {"step": 1, "train/loss": 3.0})
    with start(config, folder, [stage("a", "run"), stage("b", "run")]) as tracking:
        tracking.begins(stage("a", "run"))
        write(tmp_path / "a" / "attempt_001" / "metrics.jsonl", {"step": 2, "train/loss": 2.0})
        tracking.works(stage("a"), tmp_path / "a" / "attempt_001")
        tracking.begins(stage("b", "skip"))
        tracking.begins(stage("b", "skip"))
    [(_, kept)] = trackers
    assert kept.got == [(1, {"a/train/loss": 3.0}), (2, {"a/train/loss": 2.0}), (1, {"b/train/loss": 3.0})]


def test_one_that_is_not_installed_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = RunConfig.model_validate({**CONFIG, "tracking": "wandb"})
    assert list(missing(config)) == ["tracking: wandb is not installed; pip install wandb, or leave it out"]
