"""The processes of a run below Ray's driver, by what they are for."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil


def family(of: int | None = None) -> Iterator[psutil.Process]:
    """Yield Ray's driver, which process ``of`` has started (default: this one), and all processes below it."""
    for child in psutil.Process(of).children():
        with suppress(psutil.NoSuchProcess):
            if _is_driver(child):
                yield from (child, *child.children(recursive=True))


def role(process: psutil.Process) -> str | None:
    """Return what a process is for; None for Ray's helpers and for one that is gone."""
    try:
        name, words = process.name(), " ".join(process.cmdline())
        if _is_driver(process):
            return "driver"
        if name in ("raylet", "gcs_server"):
            return name
        if name == "ray::run_job":
            log = Path(f"/proc/{process.pid}/fd/1").readlink().name
            return "stage" if log == "stage.log" else log.removesuffix(".log")
        above = [" ".join(parent.cmdline()) for parent in process.parents()]
    except (psutil.NoSuchProcess, OSError):
        return None
    if "EngineActor" in words:
        return "engine"
    if "EngineActor" in above[0] and "resource_tracker" not in words:
        return "core"
    if "rewards.worker" not in words:
        return None
    return ("keeper", "worker", "reader")[min(2, sum("rewards.worker" in words for words in above))]


def _is_driver(process: psutil.Process) -> bool:
    """Say whether a process leads a session and runs what the command line forked off: Ray's driver alone does."""
    try:
        return os.getsid(process.pid) == process.pid and "--multiprocessing-fork" in process.cmdline()
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False


def of_role(wanted: str, of: int | None = None) -> list[psutil.Process]:
    """Return the processes of a role; besides those of `role` there are raylet, gcs_server and rank_N."""
    return [process for process in family(of) if role(process) == wanted]
