"""Stages on Ray: start or join a cluster, reserve what a stage declares, run it in a process of its own, watch it.

The only file of this package with Ray. A stage's process writes everything it prints to `stage.log` of its attempt.
"""

import fcntl
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stages.base import ALONE, Rank, RunFacts, StageContext, StageError, StageResult
from stages.config import AnyStage
from stages.metrics import MetricsFile

logger = logging.getLogger(__name__)

NO_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch, on any system in spite of its name: 0 has its processes listen on loopback alone. Without it Ray takes
127.0.0.1 for "whatever this machine is called", and listens on all interfaces."""
POLL_S = 1.0
LEFTOVER_TIMEOUT_S = 120.0
"""How long a stage waits for a process of an earlier attempt to end."""
LAST_WORDS_S = 15.0
"""How long to wait for what the other ranks say, once one has ended."""
RESERVE_TIMEOUT_S = 300.0
"""How long a stage may wait for its share of the cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One attempt at one stage, as it travels to the process that runs it."""

    name: str
    config: AnyStage
    facts: RunFacts
    folder: Path
    """The stage's folder."""
    attempt: Path
    """The attempt's folder, for `stage.log` and `metrics.jsonl`."""
    inputs: dict[str, Path]
    fingerprint: str
    seed: int
    launched_from: Path
    """Paths in the recipe are relative to it; user code is imported from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an attempt: a result, or the cause of its end."""

    result: StageResult | None = None
    cause: str = ""
    is_lost: bool = False
    """Whether a process died or fell silent, rather than having said what is wrong: another attempt may succeed."""


class RayLauncher:
    """Runs jobs on Ray. Ray starts here, on loopback, unless an address of a cluster is given."""

    def __init__(self, address: str | None, *, num_processes: int, stall_timeout_s: float) -> None:
        if not address:  # read when Ray is imported
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's own default, but unsaid it warns
            os.environ[NO_CLUSTER] = "0"
        import ray

        self._ray = ray
        self._stall_timeout_s = stall_timeout_s
        _set_environment()
        if address:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        else:
            for library in ("GLOO", "NCCL"):  # weights and gradients travel on loopback, too
                os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
            ray.init(
                num_cpus=max(os.cpu_count() or 1, num_processes),  # slots, not cores: each process finds a place
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _node_ip_address="127.0.0.1",
            )

    def run(self, job: Job, on_poll: Callable[[], None]) -> Outcome:
        """Reserve, start, and watch the stage until it ends, dies, or gives no sign of life for too long."""
        group = self._reserve(job)
        num = job.config.learner_processes()
        references = [self._start(job, Rank(index=index, num=num), group) for index in range(num)]
        try:
            return self._watch(job, references, on_poll)
        finally:
            for reference in references[1:]:
                self._ray.cancel(reference, force=True)
            self._ray.util.remove_placement_group(group)

    def _start(self, job: Job, rank: Rank, group: Any) -> Any:
        """Start a rank: the first in the group's first bundle, the others in its last ones."""
        bundle = rank.index and len(group.bundle_specs) - rank.num + rank.index
        options = {
            "num_cpus": 1,
            "num_gpus": group.bundle_specs[bundle].get("GPU", 0),
            "max_calls": 1,  # a process of its own: nothing of one stage is left for the next
            "max_retries": 0,
            "scheduling_strategy": self._ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=bundle, placement_group_capture_child_tasks=True
            ),
        }
        return self._ray.remote(**options)(run_job).remote(job, rank)

    def _reserve(self, job: Job) -> Any:
        """Wait for the stage's bundles: the first is the stage's own, then one an engine, then one a further rank.

        All on one node, since weights go to the engines through its shared memory.
        """
        gpus = int(self._ray.cluster_resources().get("GPU", 0))
        group = self._ray.util.placement_group(_bundles(job, gpus), strategy="STRICT_PACK")
        started = time.monotonic()
        while not self._ray.wait([group.ready()], timeout=10.0)[0]:
            waited = time.monotonic() - started
            logger.warning("stage %s waits for %s, %.0f s so far", job.name, group.bundle_specs, waited)
            if waited > RESERVE_TIMEOUT_S:
                self._ray.util.remove_placement_group(group)
                raise RuntimeError(
                    f"stage {job.name!r} needs {group.bundle_specs} and the cluster, which has "
                    f"{self._ray.cluster_resources()}, did not give it within {RESERVE_TIMEOUT_S:.0f} s"
                )
        return group

    def _watch(self, job: Job, references: list[Any], on_poll: Callable[[], None]) -> Outcome:
        """Wait for the first rank to end the stage, or for any to be lost, which is the end of all."""
        first, waiting = references[0], list(references)
        while True:
            for ended in self._ray.wait(waiting, timeout=POLL_S)[0]:
                outcome = self._outcome_of(job, references, ended)
                if ended is first and outcome.result is not None:
                    return outcome
                if outcome.result is None:
                    outcome = self._cause(job, references, ended, outcome)
                    self._ray.cancel(first, force=True)
                    return outcome
                waiting.remove(ended)  # the first has let it go
            on_poll()
            silent = time.time() - _last_sign_of_life(job)
            if silent > self._stall_timeout_s:
                self._ray.cancel(first, force=True)
                return Outcome(
                    cause=f"gave no sign of life for {silent:.0f} s (stall_timeout_s is {self._stall_timeout_s:.0f}); "
                    f"its last words are in {job.attempt / 'stage.log'}",
                    is_lost=True,
                )

    def _cause(self, job: Job, references: list[Any], ended: Any, outcome: Outcome) -> Outcome:
        """Return why the stage ended: the rank that died, or else what all have to say, who ended first before them."""
        others = [reference for reference in references if reference is not ended]
        if outcome.is_lost or not others:
            return outcome
        gone, _ = self._ray.wait(others, num_returns=len(others), timeout=LAST_WORDS_S)
        told = [outcome, *(self._outcome_of(job, references, reference) for reference in gone)]
        lost = [found for found in told if found.is_lost]
        return lost[0] if lost else Outcome(cause="; ".join(found.cause for found in told if found.cause))

    def _outcome_of(self, job: Job, references: list[Any], reference: Any) -> Outcome:
        index = references.index(reference)
        try:
            outcome: Outcome = self._ray.get(reference, timeout=60.0)
            told = f"rank {index} of its learner: {outcome.cause}; see {job.attempt / _log_name(index)}"
            return replace(outcome, cause=told) if outcome.cause and index else outcome
        except self._ray.exceptions.RayTaskError as error:  # it could not even begin
            return Outcome(cause=f"{type(error.cause).__name__}: {error.cause}")
        except self._ray.exceptions.RayError as error:
            whose = f"rank {index} of its learner" if index else "its process"
            cause = f"{whose} died ({type(error).__name__}); see {job.attempt / _log_name(index)}"
            return Outcome(cause=cause, is_lost=True)


def _log_name(index: int) -> str:
    return f"rank_{index}.log" if index else "stage.log"


def _bundles(job: Job, gpus: int) -> list[dict[str, float]]:
    """Return what a stage and its engines need: a GPU for each learner and what each engine wants.

    A single GPU is shared by learner and engine. Raises RuntimeError where there are too few otherwise.
    """
    engines = job.facts.engine.worker_gpus() if any(part.generates for part in job.config.whole()) else []
    num_learners = job.config.learner_processes()
    if not gpus:
        return [{"CPU": 1.0}] * (num_learners + len(engines))
    if engines == [1] and num_learners == 1 and gpus == 1:
        return [{"CPU": 1.0, "GPU": 0.5}] * 2
    if num_learners + sum(engines) > gpus:
        raise RuntimeError(
            f"{num_learners} learners and engines of {engines} GPUs need {num_learners + sum(engines)}, and the "
            f"cluster has {gpus}; lower num_learners, engine.num_engines or engine.tensor_parallel (one learner and "
            "one engine of one GPU can share a single card)"
        )
    return [{"CPU": 1.0, "GPU": float(each)} for each in (1, *engines, *[1] * (num_learners - 1))]


def run_job(job: Job, rank: Rank = ALONE) -> Outcome:
    """Run a rank of a stage; in its own process, which ends with it."""
    job.attempt.mkdir(parents=True, exist_ok=True)
    _log_to(job.attempt / _log_name(rank.index))
    os.chdir(job.launched_from)
    sys.path.insert(0, str(job.launched_from))
    context = StageContext(
        name=job.name,
        folder=job.folder,
        inputs=job.inputs,
        facts=job.facts,
        fingerprint=job.fingerprint,
        seed=job.seed,
        metrics=MetricsFile(job.attempt / "metrics.jsonl"),
        rank=rank,
    )
    from stages.registry import run_stage

    try:
        with _alone_in(job.folder) if rank.index == 0 else nullcontext():
            return Outcome(result=run_stage(job.config, context))
    except Exception as error:
        logger.error("stage %s failed\n%s", job.name, traceback.format_exc())
        return Outcome(cause=f"{type(error).__name__}: {error}")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the stage's folder: on a cluster, a stage can outlive the driver that started it for a while."""
    deadline = time.monotonic() + LEFTOVER_TIMEOUT_S
    with (folder / ".lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise StageError(f"an earlier attempt still works in {folder}; end its process first") from error
                logger.info("waiting for an earlier attempt to leave %s", folder)
                time.sleep(POLL_S)
        yield


def _log_to(path: Path) -> None:
    """Send this process's output, and that of the processes it starts, to a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True
    )


def _set_environment() -> None:
    """Settings that the processes started from here inherit."""
    threads = str(os.cpu_count() or 1)
    for name, value in {
        "OMP_NUM_THREADS": threads,  # Ray would set 1 for a task of one CPU slot
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait cost 20 times the time where cores are shared
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }.items():
        os.environ.setdefault(name, value)
    here = str(Path(__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))


def _last_sign_of_life(job: Job) -> float:
    files = [job.attempt, job.attempt / "stage.log", job.attempt / "metrics.jsonl"]
    return max(path.stat().st_mtime for path in files if path.exists())
