"""The loop over the plan: what is done is skipped, what is not runs, and what came of it is written down."""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from pipeline.config import RunConfig
from pipeline.graph import needed
from pipeline.job import Job, Outcome
from pipeline.plan import Planner, Step
from pipeline.state import RunFolder, RunState, StageState, last_sign_of_life, write_json
from pipeline.summary import summarize

logger = logging.getLogger(__name__)


class Launcher(Protocol):
    """What the loop asks of `pipeline.launch.RayLauncher`."""

    def run(self, job: Job, on_poll: Callable[[], None]) -> Outcome:
        """Run one attempt to its end."""
        ...


class StageFailed(RuntimeError):
    """A stage ended without a result: which, why, and how to go on."""


class Observer(Protocol):
    """Who hears of progress: the terminal, trackers."""

    def begins(self, step: Step) -> None:
        """Take note that a stage of the plan is begun or passed over."""
        ...

    def works(self, step: Step, attempt: Path) -> None:
        """Take note that a stage is at work; called about once a second."""
        ...


class Observers:
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def begins(self, step: Step) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.begins(step)

    def works(self, step: Step, attempt: Path) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.works(step, attempt)


def run(
    config: RunConfig,
    folder: RunFolder,
    launch: Callable[[], Launcher],
    observer: Observer,
    *,
    only: str | None = None,
) -> RunState:
    """Bring the run to its end, or to the end of one stage and what it needs; returns its state.

    ``launch`` is called once, and only when some stage has to run. Raises StageFailed at the first stage that fails.
    """
    wanted = needed(config.stages, only)
    state = _as_left(folder) or RunState(name=config.name, begun_in=str(Path.cwd()))
    planner = Planner(config, folder)
    names = [name for name in planner.order if name in wanted]
    launcher: Launcher | None = None
    for name in names:
        for restarts_left in range(config.max_restarts, -1, -1):
            step = planner.step(name)  # by what the stages before it have come to
            observer.begins(step)
            if step.action == "skip":
                break
            launcher = launcher or _launched(launch)
            state, outcome, job = _attempt(config, folder, state, step, launcher, observer)
            if outcome.result is not None:
                break
            if not outcome.is_lost or not restarts_left:
                raise _failure(folder, name, outcome.cause, job)
            logger.warning("stage %s goes on from its last checkpoint, for %s", name, outcome.cause)
    try:
        folder.save(state)
        write_json(folder.summary, summarize(config, folder, state))
    except OSError as error:
        raise _failure(folder, names[-1], f"done, but not summed up ({error})") from error
    return state


def _as_left(folder: RunFolder) -> RunState | None:
    """Return where a run stands once its last driver is gone, and write it down: what ran then is interrupted.

    The time of an attempt whose driver was killed before it could write it is counted.
    """
    before = folder.load()
    if before is None:
        return None
    left = before
    for name, stage in before.stages.items():
        if stage.status == "running":
            spent_s = max(0.0, last_sign_of_life(folder.stage(name) / "latest") - stage.begun)
            left = left.with_stage(name, replace(stage, status="interrupted", wall_s=stage.wall_s + spent_s))
    if left != before:
        try:
            folder.save(left)
        except OSError as error:
            interrupted = next(name for name in left.stages if left.stage(name) != before.stage(name))
            raise _failure(folder, interrupted, f"it could not go on ({error})") from error
    return left


def _launched(launch: Callable[[], Launcher]) -> Launcher:
    try:
        return launch()
    except Exception as error:
        raise StageFailed(f"Ray could not be started or joined: {error}") from error


def _attempt(
    config: RunConfig, folder: RunFolder, state: RunState, step: Step, launcher: Launcher, observer: Observer
) -> tuple[RunState, Outcome, Job]:
    before = state.stage(step.name) if step.action == "continue" else StageState()
    number = before.attempts + 1
    running = replace(
        before,
        status="running",
        identity=step.identity,
        inputs=folder.manifests(config.stages[step.name].inputs().values()),
        attempts=number,
        begun=time.time(),
        why=step.why,
        cause="",
    )
    state = state.with_stage(step.name, running)
    try:
        if step.action == "run":
            folder.set_aside(step.name)  # first: old checkpoints must not go on under the new fingerprint
        folder.save(state)
        folder.event("stage begins", stage=step.name, attempt=number, why=step.why)
        job = _job(config, folder, step, number)
    except OSError as error:  # a full disk, say
        raise _failure(folder, step.name, f"it could not begin ({error})") from error
    started = time.monotonic()
    try:
        outcome = launcher.run(job, lambda: observer.works(step, job.attempt))
    except Exception as error:  # the cluster, not the stage
        outcome = Outcome(cause=f"it could not be launched: {error}")
    seconds = time.monotonic() - started
    observer.works(step, job.attempt)  # what came since the last look
    ended = replace(
        running, status="done" if outcome.result else "failed", wall_s=before.wall_s + seconds, cause=outcome.cause
    )
    state = state.with_stage(step.name, ended)
    try:
        if outcome.result is not None:
            folder.save_result(step.name, outcome.result)
        folder.save(state)
        folder.event("stage ends", stage=step.name, attempt=number, status=ended.status, cause=outcome.cause)
    except OSError as error:  # which is then also why the stage failed
        cause = f"{outcome.cause or 'done, but not written down'} ({error})"
        raise _failure(folder, step.name, cause, job) from error
    return state, outcome, job


def _failure(folder: RunFolder, name: str, cause: str, job: Job | None = None) -> StageFailed:
    printed = f"  what it printed:  {job.attempt / 'stage.log'}\n" if job is not None else ""
    return StageFailed(
        f"stage {name!r} failed: {cause}\n"
        f"{printed}"
        f"  to go on:         strop resume {folder.root}\n"
        "  ... if the recipe was what had to be mended:  strop run RECIPE --resume"
    )


def _job(config: RunConfig, folder: RunFolder, step: Step, attempt: int) -> Job:
    stage = config.stages[step.name]
    return Job(
        name=step.name,
        config=stage,
        facts=config.facts,
        folder=folder.stage(step.name).resolve(),
        attempt=folder.new_attempt(step.name, attempt).resolve(),
        inputs={role: folder.stage(source).resolve() / "output" for role, source in stage.inputs().items()},
        fingerprint=step.fingerprint,
        seed=_stage_seed(config.seed, step.name),
        launched_from=Path.cwd(),
    )


def _stage_seed(seed: int, name: str) -> int:
    """Return a seed of the stage's own, so that a stage added or renamed leaves the others' alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "little") & 0x7FFFFFFF
