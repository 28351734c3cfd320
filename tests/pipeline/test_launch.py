"""What the launcher does with what Ray tells it; without Ray, which `tests/end_to_end` and `tests/faults` have."""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import launch, ray_process
from pipeline.job import Job, Outcome
from pipeline.launch import RayLauncher
from rewards.machine import use_own_processors
from stages.base import StageResult
from tests.pipeline.test_job import job_of


class RayError(Exception):
    """Stands for Ray's."""


def launcher(ray: Any) -> RayLauncher:
    made = object.__new__(RayLauncher)
    made._ray, made._is_cluster, made._stall_timeout_s = ray, False, 60.0
    return made


def watched(job: Job, looks: list[list[str]]) -> Outcome:
    """Return what comes of a stage of one rank, which Ray says has ended or not at each look."""
    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayError)
    ray = SimpleNamespace(
        exceptions=exceptions,
        wait=lambda references, **_: (looks.pop(0), references),
        get=lambda reference, **_: Outcome(result=StageResult()),
    )
    share: Any = SimpleNamespace(bundle_of=lambda rank, num: rank, node_name=lambda bundle: "here")
    return launcher(ray)._watch(launch._Attempt(job=job, share=share, ranks=["first"]), lambda: None)


@pytest.mark.parametrize(("silent_s", "is_lost"), [(0.0, False), (7200.0, True)])
def test_a_log_of_long_ago_is_no_silence_of_what_has_just_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent_s: float, is_lost: bool
) -> None:
    job = job_of(tmp_path, {})
    log = job.attempt / "stage.log"
    log.write_text("something")
    os.utime(log, (time.time() - 7200,) * 2)
    clock = iter([time.time(), *[time.time() + silent_s] * 9])
    monkeypatch.setattr(launch.time, "time", lambda: next(clock))
    outcome = watched(job, [[], ["first"]])
    assert outcome.is_lost == is_lost and ("no sign of life for 7200 s" in outcome.cause) == is_lost


def test_whatever_breaks_in_the_launcher_is_named_and_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> Outcome:
        raise KeyError("bundles_to_node_id")

    monkeypatch.setattr(RayLauncher, "_run", breaks)
    ray = SimpleNamespace(exceptions=SimpleNamespace(RayError=RayError))
    outcome = launcher(ray).run(job_of(tmp_path, {}), lambda: None)
    assert outcome == Outcome(cause="it could not be launched: KeyError: 'bundles_to_node_id'")


@pytest.mark.parametrize(
    ("is_cluster", "set_", "is_job", "expected"),
    [
        (False, None, False, str(os.cpu_count())),
        (False, "3", False, "3"),
        (True, None, False, ""),
        (True, "3", True, "3"),
        (True, "1", False, "1"),
        (True, "1", True, ""),  # set by Ray, in a driver that was submitted
    ],
)
def test_processes_compute_with_the_processors_of_their_own_node(
    monkeypatch: pytest.MonkeyPatch, is_cluster: bool, set_: str | None, is_job: bool, expected: str
) -> None:
    for name, value in (("OMP_NUM_THREADS", set_), (launch.JOB, "{}" if is_job else None)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert launch._settings(is_cluster=is_cluster)["OMP_NUM_THREADS"] == expected
    monkeypatch.setenv("OMP_NUM_THREADS", expected)
    use_own_processors()
    assert os.environ["OMP_NUM_THREADS"] == (expected or str(os.cpu_count()))


@pytest.mark.processes
def test_a_ray_that_does_not_start_is_not_called_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_process, "START_TIMEOUT_S", 0.01)
    ray = ray_process.RayProcess(
        None, tmp_path / "ray.log", num_processes=1, stall_timeout_s=60, reserve_timeout_s=60, silent_s=60
    )
    with pytest.raises(ray_process.RayError, match="could not start Ray in 0 s"):
        ray.start()
    assert ray._child is None, "it is killed"
