"""One attempt at one stage, in the process that runs it: what it is given, how it is set up, and what comes of it.

The process writes everything it prints to `stage.log` of its attempt. It may be on another machine than the driver.
"""

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.state import locks, write_json
from pipeline.warned import WarningsFile
from pipeline.warned import file_name as warned_in
from rewards.importing import import_ours
from rewards.machine import require_seen, use_own_processors
from rewards.own_files import use_own_files
from rewards.printable import log_stream
from rewards.private import own_umask
from rewards.waits import Wait, WaitError, current
from stages.base import ALONE, NodeLostError, Rank, RunFacts, StageContext, StageError, StageResult
from stages.config import AnyStage
from stages.metrics import MetricsFile

logger = logging.getLogger(__name__)

LEFTOVER_TIMEOUT_S = 120.0
"""How long a stage waits for a process of an earlier attempt to end."""
TELL_EVERY_S = 1.0
WORTH_TELLING_S = 2.0
"""Shorter waits are not written down."""
LAST_WRITE_S = 10.0
"""How long a write of them may take, once the stage has ended."""


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
    launched_from: Path | None
    """Paths in the recipe are relative to it; user code is imported from it. None: where its process begins, which for
    a job submitted to a cluster is Ray's copy of what was submitted."""
    umask: int = field(default_factory=own_umask)
    """Of who started the run: the run's folder is for whom they want it to be, on whatever machine it is written to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an attempt: a result, or the cause of its end."""

    result: StageResult | None = None
    cause: str = ""
    is_lost: bool = False
    """Whether a process died or fell silent, or a node left, rather than something being wrong: another attempt may
    succeed."""


def run_job(job: Job, rank: Rank = ALONE) -> Outcome:
    """Run a rank of a stage; in its own process, which ends with it."""
    os.umask(job.umask)
    use_own_processors()
    use_own_files()
    try:
        for folder in filter(None, (job.attempt, job.launched_from, *job.inputs.values())):
            require_seen(folder)
    except WaitError as error:
        return Outcome(cause=str(error))
    log_to(job.attempt / log_name(rank.index))
    if job.launched_from is not None:
        os.chdir(job.launched_from)
    import_ours()
    sys.path.insert(0, str(Path.cwd()))
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

    warned = WarningsFile(job.attempt / warned_in(rank.index))
    with WaitsFile(job.attempt / _waits_name(rank.index)).kept():
        try:
            with _alone_in(job.folder) if rank.index == 0 else nullcontext(), warned.kept():
                return Outcome(result=run_stage(job.config, context))
        except Exception as error:
            logger.error("stage %s failed\n%s", job.name, traceback.format_exc())
            return Outcome(cause=f"{type(error).__name__}: {error}", is_lost=isinstance(error, NodeLostError))


def log_name(index: int) -> str:
    """Return the name of the file that a rank prints to."""
    return f"rank_{index}.log" if index else "stage.log"


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the stage's folder: on a cluster, a stage can outlive the driver that started it for a while."""
    what, way_out = f"an earlier attempt to leave {folder}", "end its process first"
    with (folder / ".lock").open("w") as file:
        with Wait(what, LEFTOVER_TIMEOUT_S, way_out=way_out, fails=StageError) as wait:
            wait.until(lambda: locks(file))
        yield


@dataclass(slots=True)
class WaitsFile:
    """What this process waits for, written down for those who look at the run."""

    path: Path
    _told: list[dict[str, Any]] = field(default_factory=list)

    def write(self) -> None:
        """Write it, if it is another than before."""
        now = [asdict(waiting) for waiting in current() if time.time() - waiting.since > WORTH_TELLING_S]
        if now != self._told:
            self._told = now
            try:
                write_json(self.path, now)
            except OSError as error:  # a full disk, of which the stage itself will tell
                logger.warning("what is waited for could not be written to %s: %s", self.path, error)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write it until the block ends, in a thread."""
        is_over = threading.Event()

        def keep() -> None:
            while not is_over.wait(TELL_EVERY_S):
                self.write()

        thread = threading.Thread(target=keep, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join(LAST_WRITE_S)


def _waits_name(index: int) -> str:
    return f"waits_{index}.json" if index else "waits.json"


def log_to(path: Path) -> None:
    """Send this process's output, and that of the processes it starts, to a file.

    What Python writes there, traces with answers in them among it, does not act on a terminal that shows the file.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = log_stream(sys.stdout), log_stream(sys.stderr)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True
    )
