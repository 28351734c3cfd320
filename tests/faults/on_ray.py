"""A run brought to its end on real Ray, in this process as the command line does it, with short limits."""

from pathlib import Path

import psutil

from pipeline.config import RunConfig
from pipeline.plan import Step
from pipeline.ray_process import RayProcess
from pipeline.run import run
from pipeline.state import RunFolder
from tests.faults.child import Silent
from tests.faults.family import family


class Sees(Silent):
    """Keeps all processes that the run has ever had: when it is over they are found below none any more."""

    def __init__(self) -> None:
        self.seen: set[psutil.Process] = set()

    def works(self, step: Step, attempt: Path) -> None:
        self.seen |= set(family())


def bring(config: RunConfig, folder: Path, observer: Silent, *, num_processes: int, limit_s: float) -> None:
    """Bring it there; ``limit_s`` is that of every wait on a process that could be stopped."""
    limits = dict.fromkeys(("stall_timeout_s", "reserve_timeout_s", "silent_s"), limit_s)
    with RayProcess(None, folder.with_suffix(".log"), num_processes=num_processes, **limits) as ray:
        run(config, RunFolder(folder), ray.start, observer)
