"""An attempt in its own process, and what it asks of a cluster; without one."""

import json
import os
import stat
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import job as under_test
from pipeline.config import RunConfig
from pipeline.job import Job, run_job
from pipeline.reservation import bundles_of, told
from rewards import machine
from rewards.waits import Wait
from stages import registry
from stages.base import NodeLostError, StageResult


def job_of(folder: Path, engine: dict[str, Any], **stage: Any) -> Job:
    grpo = {"kind": "grpo", "prompts": "p.jsonl", "rewards": ["math"], "num_steps": 1, **stage}
    config = RunConfig.model_validate({"name": "r", "model": "m", "engine": engine, "stages": {"grpo": grpo}})
    attempt = folder / "grpo" / "attempt_001"
    attempt.mkdir(parents=True)
    return Job(
        name="grpo", config=config.stages["grpo"], facts=config.facts, folder=folder / "grpo", attempt=attempt,
        inputs={}, fingerprint="", seed=0, launched_from=folder,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gpus", "engine", "stage", "expected"),
    [
        (0, {"num_engines": 2}, {"num_learners": 2}, "4 x (1 CPU)"),
        (0, {"type": "transformers"}, {}, "1 x (1 CPU)"),
        (1, {}, {}, "2 x (1 CPU, 0.5 GPU)"),
        (2, {}, {}, "2 x (1 CPU, 1 GPU)"),
        (8, {"num_engines": 2, "tensor_parallel": 2}, {"num_learners": 2}, "2 x (1 CPU, 1 GPU) and 2 x (1 CPU, 2 GPU)"),
    ],
)
def test_a_stage_asks_for_a_place_for_each_of_its_processes(
    tmp_path: Path, gpus: int, engine: dict[str, Any], stage: dict[str, Any], expected: str
) -> None:
    assert told(bundles_of(job_of(tmp_path, engine, **stage), gpus)) == expected


@pytest.mark.parametrize("which", ["attempt", "launched_from"])
def test_a_folder_that_is_not_shared_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    monkeypatch.setattr(machine, "SEEN_TIMEOUT_S", 0.05)
    job = job_of(tmp_path, {})
    elsewhere: dict[str, Any] = {which: tmp_path / "elsewhere"}
    outcome = run_job(replace(job, **elsewhere))
    assert f"{tmp_path / 'elsewhere'} to be seen on " in outcome.cause and "all nodes share" in outcome.cause
    assert not outcome.is_lost and not (tmp_path / "elsewhere").exists()


@pytest.fixture
def in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a job leave this process's output, folder and `sys.path` as they are."""
    monkeypatch.setattr(under_test, "log_to", lambda path: None)
    monkeypatch.setattr(under_test, "use_own_files", lambda: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.usefixtures("in_this_process")
def test_a_stage_that_lost_nodes_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loses(*_: Any) -> StageResult:
        raise NodeLostError("engine 0: its node 10.0.0.3 has left the cluster")

    monkeypatch.setattr(registry, "run_stage", loses)
    outcome = run_job(job_of(tmp_path, {}))
    assert outcome.is_lost and "its node 10.0.0.3 has left" in outcome.cause


@pytest.mark.usefixtures("in_this_process")
def test_what_a_stage_writes_into_the_run_s_folder_is_for_whom_the_user_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writes(*_: Any) -> StageResult:
        (tmp_path / "output").write_text("weights")
        return StageResult()

    monkeypatch.setattr(registry, "run_stage", writes)
    before = os.umask(0o027)
    try:
        job = job_of(tmp_path, {})
        os.umask(0o077)  # as Ray's processes have it
        assert run_job(job).result is not None
        assert stat.S_IMODE((tmp_path / "output").stat().st_mode) == 0o640
    finally:
        os.umask(before)


@pytest.mark.usefixtures("in_this_process")
def test_what_a_stage_waits_for_is_written_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(tmp_path, {})
    file = job.attempt / "waits.json"

    def listed() -> list[str] | None:
        return [wait["what"] for wait in json.loads(file.read_text())] if file.is_file() else None

    def waits(*_: Any) -> StageResult:
        with Wait("a sign", 10.0) as wait:
            wait.until(lambda: listed() == ["a sign"], every_s=0.01)
        wait.until(lambda: listed() == [], every_s=0.01)
        return StageResult(metrics={"threads": threading.active_count()})

    monkeypatch.setattr(registry, "run_stage", waits)
    monkeypatch.setattr(under_test, "TELL_EVERY_S", 0.01)
    monkeypatch.setattr(under_test, "WORTH_TELLING_S", 0.0)
    outcome = run_job(job)
    assert outcome.result is not None, outcome.cause
    assert threading.active_count() == outcome.result.metrics["threads"] - 1
