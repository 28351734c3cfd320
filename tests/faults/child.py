"""A run, or a stage of it, in a process of its own that may be killed: without Ray, so that many are affordable."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

from pipeline.config import load_config
from pipeline.launch import Job, Outcome, run_job
from pipeline.plan import Step
from pipeline.run import run
from pipeline.state import RunFolder
from tests.faults.points import Point, pass_points

PRELOADED = ["stages.grpo.train", "stages.preference.train", "stages.reward_model.train", "stages.evaluate.examine",
             "stages.sft.train", "stages.pairs.build", "rollout.transformers_engine", "torch.optim.adamw"]  # fmt: skip
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


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


def bring(recipe: Path, runs: Path, stage: str, *, kill_at: Point | None = None, timeout_s: float = 120.0) -> list[str]:
    """Bring a run to the end of a stage, or have it killed; return the points that were passed, none when killed.

    Raises AssertionError where it fails, is not killed when it should be, or takes too long.
    """
    record = runs / "passed.json"
    record.unlink(missing_ok=True)
    process = CONTEXT.Process(target=_work, args=(recipe, runs, stage, kill_at, record))
    process.start()
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"{stage} did not end within {timeout_s:.0f} s ({kill_at})")
    expected = 0 if kill_at is None else -signal.SIGKILL
    assert process.exitcode == expected, f"{stage} ended with {process.exitcode}, not {expected} ({kill_at})"
    return list(json.loads(record.read_text())) if kill_at is None else []


def _work(recipe: Path, runs: Path, stage: str, kill_at: Point | None, record: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    config = load_config(recipe)
    passed = pass_points(runs, kill_at)
    folder = RunFolder(runs / config.name)
    with folder.locked():
        run(config, folder, InProcess, Silent(), only=stage)
    record.write_text(json.dumps(passed))
