"""A stage of a run in a process of its own, to which something may happen: without Ray, so that many are affordable."""

import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path

from pipeline.config import load_config
from pipeline.job import Job, Outcome, run_job
from pipeline.plan import Step
from pipeline.run import StageFailed, run
from pipeline.state import RunFolder
from tests.faults.points import Fault, Point, Points

PRELOADED = ["stages.grpo.train", "stages.preference.train", "stages.reward_model.train", "stages.evaluate.examine",
             "stages.sft.train", "stages.pairs.build", "rollout.transformers_engine", "torch.optim.adamw",
             "tests.faults.child"]  # fmt: skip
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)
LOOKS = threading.Lock()
"""Whoever starts a process looks for the ends of all others, and of two who look at once one is told 255."""


class InProcess:
    """Runs each job in the driver's own process."""

    def run(self, job: Job, on_poll: Callable[[], None]) -> Outcome:
        on_poll()
        return run_job(job)


class Silent:
    """An observer that says nothing."""

    def begins(self, step: Step) -> None:
        pass

    def works(self, step: Step, attempt: Path) -> None:
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What came of a process."""

    passed: list[str] = field(default_factory=list)
    """The points it passed; none of one that was killed."""
    failure: str | None = None
    """What `strop` would have printed of a failure."""


def bring(
    recipe: Path,
    runs: Path,
    stage: str,
    *,
    fault: Fault = "kill",
    at: Point | None = None,
    plant: str | None = None,
    most_bytes: int | None = None,
    timeout_s: float = 240.0,
) -> Ended:
    """Bring a run to the end of a stage, unless something happens to it at a point.

    ``plant`` is a function, as `module:name`, that plants a defect first; files can have ``most_bytes``. Raises
    AssertionError where the process is not killed when it should be, dies otherwise, or takes too long.
    """
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_work, args=(recipe, runs, stage, fault, at, plant, most_bytes, there))
    with LOOKS:
        process.start()
    there.close()
    with here:
        ended = _received(here, timeout_s)
    wait([process.sentinel], timeout_s)
    with LOOKS:
        exit_code = process.exitcode
    if exit_code is None:
        process.kill()
        raise AssertionError(f"{stage} did not end within {timeout_s:.0f} s ({at})")
    expected = -signal.SIGKILL if at is not None and fault == "kill" else 0
    assert exit_code == expected, f"{stage} ended with {exit_code}, not {expected} ({at})"
    return ended


def _received(pipe: Connection, timeout_s: float) -> Ended:
    """Return what a process tells at its end; nothing of one that was killed, or takes too long."""
    try:
        return pipe.recv() if pipe.poll(timeout_s) else Ended()
    except EOFError:
        return Ended()


def _work(
    recipe: Path,
    runs: Path,
    stage: str,
    fault: Fault,
    at: Point | None,
    plant: str | None,
    most_bytes: int | None,
    told: Connection,
) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    if plant is not None:
        module, _, name = plant.partition(":")
        getattr(import_module(module), name)()
    if most_bytes is not None:  # beyond, a write fails: Python has the signal ignored
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
    config = load_config(recipe)
    points = Points(runs, fault, at)
    points.watch()
    folder = RunFolder(runs / config.name)
    failure = None
    try:
        with folder.locked():
            run(config, folder, InProcess, Silent(), only=stage)
    except (StageFailed, OSError) as error:
        failure = f"{type(error).__name__}: {error}"
    told.send(Ended(passed=points.passed, failure=failure))
