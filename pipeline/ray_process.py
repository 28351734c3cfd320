"""Ray's driver in a process of its own, watched from this one: Ray may hang or die, and this program must not.

Where Ray's own processes are stopped or killed, its calls in a driver wait without end, or take the driver with them.
So jobs travel over a pipe to a child, which runs them by `pipeline.launch` and gives a sign of life every second. When
none comes, all that the child has started on this machine is killed, and the next job gets a new child and a new Ray.
"""

import logging
import multiprocessing
import os
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline import session
from pipeline.cluster import FIRST_LIMIT_S, Cluster, ClusterError
from pipeline.job import Job, Outcome, WaitsFile, log_to
from pipeline.launch import JOB, RayLauncher
from rewards.own_files import remove_left_weights, use_own_files
from rewards.private import FOR_NOBODY_ELSE
from rewards.strays import die_with_parent
from rewards.waits import Wait, WaitError

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 300.0
"""How long Ray may take to start, or a cluster to answer."""
SILENT_S = 120.0
"""How long the child may give no sign of life; it gives one about every second."""
CLOSE_TIMEOUT_S = 30.0
END_TIMEOUT_S = 10.0
"""How long what was killed may take to be gone, before what it holds is left for the next run to remove."""
WAITS_NAME = "waits_strop.json"


class RayError(RuntimeError):
    """Ray could not be started or joined, or fell silent, or died: which of its processes, if that is seen."""


class RayProcess:
    """A `pipeline.run.Launcher` whose Ray is started when it is needed, and started again when it is lost."""

    def __init__(
        self,
        cluster: Cluster | None,
        log: Path,
        *,
        num_processes: int,
        stall_timeout_s: float,
        reserve_timeout_s: float,
        silent_s: float = SILENT_S,
    ) -> None:
        """See `RayLauncher`; without a cluster Ray starts here.

        ``log`` takes what Ray has to say; ``silent_s`` is how long it may say nothing.
        """
        self._arguments = {
            "cluster": cluster,
            "num_processes": num_processes,
            "stall_timeout_s": stall_timeout_s,
            "reserve_timeout_s": reserve_timeout_s,
        }
        self._log = log
        self._silent_s = silent_s
        self._child: _Child | None = None
        self._is_at_work = False
        self._was_there = False

    def start(self) -> Self:
        """Start Ray, or join a cluster; raises RayError where that cannot be."""
        self._started()
        return self

    def run(self, job: Job, on_poll: Callable[[], None]) -> Outcome:
        """Have the child run one attempt; where the child is lost, so is the attempt."""
        self._is_at_work = True
        try:
            with WaitsFile(job.attempt / WAITS_NAME).kept():
                outcome = self._outcome_of(job, on_poll)
        except RayError as error:
            outcome = Outcome(cause=str(error), is_lost=True)
        self._is_at_work = False
        if outcome.is_lost:  # for Ray itself may be why
            self._kill()
        return outcome

    def close(self) -> None:
        """Have Ray end, by force if it does not by itself."""
        if self._child is not None:
            if not self._is_at_work:  # or it would not hear of it
                self._child.end()
            self._kill()

    def _outcome_of(self, job: Job, on_poll: Callable[[], None]) -> Outcome:
        child = self._started()
        child.send(job)
        while (outcome := child.hear("a sign of life of Ray's driver", self._silent_s)) is None:
            on_poll()
        return outcome

    def _started(self) -> "_Child":
        if self._child is None:
            patience_s = START_TIMEOUT_S if self._was_there else FIRST_LIMIT_S  # one that was lost may come back
            self._child = _Child(self._log, {**self._arguments, "patience_s": patience_s})
            cluster = self._arguments["cluster"]
            late = f"could not join the cluster at {cluster} in" if cluster else "could not start Ray in"
            try:
                self._child.hear("Ray to start", START_TIMEOUT_S + patience_s * bool(cluster), late=late)
            except RayError:
                self._kill()
                raise
            self._was_there = True
        return self._child

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Child:
    """The process, seen from its parent."""

    def __init__(self, log: Path, arguments: dict[str, Any]) -> None:
        self._log = log
        self._pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process: BaseProcess = context.Process(target=_serve, args=(theirs, os.getpid(), log, arguments))
        self._process.start()
        theirs.close()
        assert self._process.pid is not None
        self._session = self._process.pid  # it leads one

    def send(self, job: Job | None) -> None:
        """Send a job; None is the end."""
        try:
            self._pipe.send(job)
        except OSError as error:
            raise self._lost("is gone") from error

    def hear(self, what: str, limit_s: float, *, late: str = "gave no sign of life for") -> Outcome | None:
        """Wait for the next sign of life, which may be an outcome. Raises RayError where none comes, or never will."""
        try:
            with Wait(what, limit_s) as wait:
                while not self._pipe.poll(wait.slice_s()):
                    wait.look()
            said: Outcome | RayError | None = self._pipe.recv()
        except WaitError as error:
            raise self._lost(f"{late} {limit_s:.0f} s") from error
        except (EOFError, OSError) as error:
            self._process.join(1.0)
            raise self._lost(f"died (exit code {self._process.exitcode})") from error
        if isinstance(said, RayError):
            raise said
        return said

    def end(self) -> None:
        """Ask it to end, and wait a while."""
        try:
            self.send(None)
            self._process.join(CLOSE_TIMEOUT_S)
        except RayError:
            return  # it has ended
        if self._process.is_alive():
            stopped = session.stopped(self._session)
            logger.warning("Ray's driver did not end within %.0f s and is killed%s", CLOSE_TIMEOUT_S, stopped)

    def kill(self) -> None:
        """Kill it, and all that it has started here."""
        self._process.kill()
        session.kill(self._session)
        self._process.join(CLOSE_TIMEOUT_S)
        self._pipe.close()
        with suppress(WaitError), Wait("killed processes to let go of their files", END_TIMEOUT_S) as wait:
            wait.until(lambda: session.has_ended(self._session), every_s=0.05)
        remove_left_weights()

    def _lost(self, how: str) -> RayError:
        return RayError(f"Ray's driver {how}{session.stopped(self._session)}; see {self._log}")


def _serve(pipe: Connection, parent: int, log: Path, arguments: dict[str, Any]) -> None:
    """Run jobs until there is none any more. In the child."""
    die_with_parent(parent)
    os.setsid()  # all that Ray starts here is of this session; and Ctrl-C is the parent's to take
    log_to(log)
    os.umask(FOR_NOBODY_ELSE)  # for Ray and the engines; a stage writes into the run's folder, with the user's own
    use_own_files()
    if JOB not in os.environ:  # for where its driver is, Ray looks for modules before it looks anywhere else
        os.chdir("/")
    try:
        launcher = RayLauncher(**arguments)
    except Exception as error:
        kind = "" if isinstance(error, ClusterError) else f"{type(error).__name__}: "
        at = f", of the cluster at {arguments['cluster']}" if arguments["cluster"] and kind else ""
        pipe.send(RayError(f"{kind}{error}{at}"))
        return
    pipe.send(None)
    while (job := pipe.recv()) is not None:
        pipe.send(launcher.run(job, lambda: pipe.send(None)))
    launcher.close()
