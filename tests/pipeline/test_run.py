"""The loop over the plan, with a launcher that only pretends."""

import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.job import Job, Outcome
from pipeline.plan import Step
from pipeline.run import StageFailed, run
from pipeline.standing import standing_of
from pipeline.state import RunFolder, write_json
from rewards.waits import Waiting
from stages.base import StageResult


class FakeLauncher:
    """Records the jobs that it is given, and fails those of the stages named."""

    def __init__(self, failing: set[str] | None = None, *, manifest: str = "{}") -> None:
        self.jobs: list[Job] = []
        self.manifest = manifest
        self.failing = failing or set()

    def run(self, job: Job, on_poll: Callable[[], None]) -> Outcome:
        self.jobs.append(job)
        on_poll()
        if job.name in self.failing:
            return Outcome(cause="StageError: it would not")
        (job.folder / "output").mkdir(exist_ok=True)
        (job.folder / "output" / "manifest.json").write_text(self.manifest)
        return Outcome(result=StageResult(metrics={"train/steps": 1.0}))


class Events:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def begins(self, step: Step) -> None:
        self.heard.append(f"{step.action} {step.name}")

    def works(self, step: Step, attempt: Path) -> None:
        self.heard.append(f"works {step.name} {attempt.name}")


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    data = tmp_path / "a.jsonl"
    data.write_text('{"prompt": "1+1", "completion": "2"}\n')
    sft: dict[str, Any] = {"kind": "sft", "data": str(data), "num_steps": 1}
    stages = {"a": sft, "b": {**sft, "init_from": "a"}, "c": {**sft, "init_from": "b"}}
    return RunConfig.model_validate({"name": "r", "model": "m", "stages": stages})


def test_stages_run_in_order_each_with_the_output_of_the_one_before(config: RunConfig, tmp_path: Path) -> None:
    launcher, events = FakeLauncher(), Events()
    state = run(config, RunFolder(tmp_path / "r"), lambda: launcher, events)
    assert [job.name for job in launcher.jobs] == ["a", "b", "c"]
    assert launcher.jobs[1].inputs == {"policy": (tmp_path / "r" / "a" / "output").resolve()}
    looks = ["works a attempt_001"] * 2  # one while it works, and one at its end
    assert events.heard[:4] == ["run a", *looks, "run b"]
    assert {stage.status for stage in state.stages.values()} == {"done"}
    assert len({job.seed for job in launcher.jobs}) == 3


def test_a_failure_stops_the_run_and_the_next_one_continues_there(config: RunConfig, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    with pytest.raises(StageFailed, match=r"stage 'b' failed: StageError: it would not\n.*stage.log\n.*strop resume"):
        run(config, folder, lambda: FakeLauncher({"b"}), Events())
    state = folder.load()
    assert state is not None and state.stage("b").status == "failed" and state.stage("c").status == "waiting"
    launcher, events = FakeLauncher(), Events()
    run(config, folder, lambda: launcher, events)
    assert [(job.name, job.attempt.name) for job in launcher.jobs] == [("b", "attempt_002"), ("c", "attempt_001")]
    assert events.heard[:2] == ["skip a", "continue b"]


class LosesTwice(FakeLauncher):
    """Loses the first two attempts at stage `b`."""

    def run(self, job: Job, on_poll: Callable[[], None]) -> Outcome:
        if job.name == "b" and len([past for past in self.jobs if past.name == "b"]) < 2:
            self.jobs.append(job)
            return Outcome(cause="rank 1 of its learner died", is_lost=True)
        return super().run(job, on_poll)


def test_a_stage_that_was_lost_goes_on_by_itself_so_often(config: RunConfig, tmp_path: Path) -> None:
    launcher, events = LosesTwice(), Events()
    state = run(config, RunFolder(tmp_path / "r"), lambda: launcher, events)
    assert [job.attempt.name for job in launcher.jobs if job.name == "b"] == [f"attempt_00{n}" for n in (1, 2, 3)]
    assert events.heard.count("continue b") == 2 and state.stage("b").status == "done"
    once = config.model_copy(update={"max_restarts": 1})
    with pytest.raises(StageFailed, match="rank 1 of its learner died"):
        run(once, RunFolder(tmp_path / "other"), LosesTwice, Events())


def test_nothing_is_launched_when_all_is_done(config: RunConfig, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    run(config, folder, FakeLauncher, Events())

    def never() -> FakeLauncher:
        raise AssertionError("launched")

    run(config, folder, never, Events())


class HandsOverNothing(FakeLauncher):
    """Ends each stage with figures alone, as exams and reports do."""

    def run(self, job: Job, on_poll: Callable[[], None]) -> Outcome:
        self.jobs.append(job)
        return Outcome(result=StageResult(metrics={"readiness/signal_fraction": 0.5}))


@pytest.mark.parametrize(
    "stage",
    [
        {"kind": "readiness", "prompts": "DATA", "rewards": ["math"]},
        {"kind": "evaluate", "of": ["base"], "tasks": {"dev": {"data": "DATA"}}},
    ],
    ids=["readiness", "evaluate"],
)
def test_a_stage_that_hands_over_figures_alone_is_skipped_once_done(tmp_path: Path, stage: dict[str, Any]) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text('{"prompt": "1+1", "answer": "2"}\n')
    filled = json.loads(json.dumps(stage).replace("DATA", str(data)))
    config = RunConfig.model_validate({"name": "r", "model": "m", "stages": {"ready": filled}})
    launcher, events = HandsOverNothing(), Events()
    for _ in range(2):
        run(config, RunFolder(tmp_path / "r"), lambda: launcher, events)
    assert len(launcher.jobs) == 1
    assert [events.heard[0], events.heard[-1]] == ["run ready", "skip ready"]


def test_a_changed_stage_starts_from_nothing(config: RunConfig, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    run(config, folder, FakeLauncher, Events())
    leftover = folder.stage("c") / "checkpoints" / "step_000001"
    leftover.mkdir(parents=True)
    changed = config.stages["c"].model_copy(update={"num_steps": 2})
    launcher = FakeLauncher()
    run(config.model_copy(update={"stages": {**config.stages, "c": changed}}), folder, lambda: launcher, Events())
    assert [(job.name, job.attempt.name) for job in launcher.jobs] == [("c", "attempt_001")]
    assert not leftover.exists()
    assert (tmp_path / "r" / "c.old-1" / "checkpoints" / "step_000001").is_dir()


def test_a_kill_before_a_changed_stage_is_noted_never_continues_its_old_checkpoints(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "r")
    run(config, folder, FakeLauncher, Events())
    (folder.stage("c") / "checkpoints" / "step_000001").mkdir(parents=True)
    stages = {**config.stages, "c": config.stages["c"].model_copy(update={"num_steps": 2})}
    changed = config.model_copy(update={"stages": stages})

    def killed(name: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folder, "set_aside", killed)
        run(changed, folder, FakeLauncher, Events())
    launcher, events = FakeLauncher(), Events()
    run(changed, folder, lambda: launcher, events)
    assert events.heard[:3] == ["skip a", "skip b", "run c"]
    assert not (folder.stage("c") / "checkpoints").exists()


def test_a_stage_whose_result_was_deleted_runs_again(config: RunConfig, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    run(config, folder, FakeLauncher, Events())
    (folder.stage("c") / "result.json").unlink()
    launcher = FakeLauncher()
    run(config, folder, lambda: launcher, Events())
    assert [job.name for job in launcher.jobs] == ["c"]


def test_what_a_stage_made_anew_comes_to_decides_over_those_that_read_it(config: RunConfig, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    run(config, folder, FakeLauncher, Events())
    (folder.stage("a") / "result.json").unlink()
    same, other = FakeLauncher(), FakeLauncher(manifest='{"format": 2}')
    run(config, folder, lambda: same, Events())
    assert [job.name for job in same.jobs] == ["a"]
    (folder.stage("a") / "result.json").unlink()
    run(config, folder, lambda: other, Events())
    assert [job.name for job in other.jobs] == ["a", "b", "c"]


def test_a_launcher_that_fails_is_no_trace_but_a_failed_stage(config: RunConfig, tmp_path: Path) -> None:
    class Broken(FakeLauncher):
        def run(self, job: Job, on_poll: Callable[[], None]) -> Outcome:
            raise RuntimeError("no place on the cluster")

    folder = RunFolder(tmp_path / "r")
    with pytest.raises(StageFailed, match="stage 'a' failed: it could not be launched: no place on the cluster"):
        run(config, folder, Broken, Events())
    state = folder.load()
    assert state is not None and state.stage("a").status == "failed"


def test_one_stage_is_run_with_what_it_needs_and_no_more(config: RunConfig, tmp_path: Path) -> None:
    launcher = FakeLauncher()
    state = run(config, RunFolder(tmp_path / "r"), lambda: launcher, Events(), only="b")
    assert [job.name for job in launcher.jobs] == ["a", "b"]
    assert state.stage("c").status == "waiting"


def test_the_time_of_an_attempt_whose_driver_was_killed_is_counted(config: RunConfig, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")

    class Killed(BaseException):
        pass

    class Killing(FakeLauncher):
        def run(self, job: Job, on_poll: Callable[[], None]) -> Outcome:
            (job.attempt / "metrics.jsonl").touch()
            begun = folder.load()
            assert begun is not None
            later = begun.stage(job.name).begun + 100
            os.utime(job.attempt / "metrics.jsonl", (later, later))
            raise Killed

    with pytest.raises(Killed):
        run(config, folder, Killing, Events())

    def start() -> FakeLauncher:
        left = standing_of(folder).stages[0]
        assert (left.status, round(left.wall_s)) == ("interrupted", 100) and not left.waits
        return FakeLauncher()

    write_json(folder.resolved, config.model_dump(mode="json"))
    write_json(folder.stage("a") / "latest" / "waits.json", [asdict(Waiting(what="x", since=0.0, limit_s=1.0))])
    with folder.locked():
        state = run(config, folder, start, Events())
    assert 100 <= state.stage("a").wall_s < 110
    assert state.wall_s == sum(stage.wall_s for stage in state.stages.values())


def test_what_is_set_aside_never_takes_a_name_that_is_taken(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "a.old-2").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    folder.set_aside("a")
    assert (tmp_path / "a.old-3").is_dir()


def test_a_look_at_the_lock_keeps_nobody_out_and_leaves_the_driver_s_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.locked():
        assert folder.is_driven()
        assert (tmp_path / ".lock").read_text() == f"pid {os.getpid()} on {socket.gethostname()}"
    assert not folder.is_driven()
