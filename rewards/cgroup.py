"""Groups of processes whose sum the kernel bounds: cgroup v2, where this user may make one.

A user may below what systemd has delegated to it, and root nearly everywhere; in a container there is rarely one.
"""

import contextlib
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

PREFIX = "strop-sandbox-"
"""Of the names; what follows is the process id of who made it, and something random."""
REMOVAL_S = 1.0
"""How long to wait for killed processes to leave; a cgroup that outlasts it is removed by the next run."""
_JOIN = 'echo $$ > "$0" && exec "$@"'
"""A shell's program: enter the cgroup, so that all that comes after is born in it, and become the command."""


def find_parent(mounts: Path = Path("/proc/self/mounts"), own: Path = Path("/proc/self/cgroup")) -> Path | None:
    """Return the nearest cgroup, our own or one above it, in which we may make others with bounds; None: there is none.

    It must hand memory and pids down already; and let us move processes between what is below it. Removes what dead
    runs have left there.
    """
    folder = _own_cgroup(mounts, own)
    while folder is not None and (folder / "cgroup.procs").exists():
        if _gives(folder):
            _remove_left_over(folder)
            return folder if _can_be_joined(folder) else None
        folder = folder.parent
    return None


@contextlib.contextmanager
def a_cgroup(parent: Path, *, memory_bytes: int, processes: int) -> Iterator[list[str]]:
    """Make a cgroup with bounds, and yield what comes before a command to run it in there.

    Past its memory, files in memory and the kernel's own for it included, all that is in it is killed together.
    """
    bounds = {"memory.max": memory_bytes, "pids.max": processes}
    optional = {"memory.swap.max": 0, "memory.oom.group": 1}  # where there is swap, and since Linux 4.19
    folder = parent / f"{PREFIX}{os.getpid()}-{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        for name, value in bounds.items():
            (folder / name).write_text(str(value))
        for name, value in optional.items():
            with contextlib.suppress(OSError):
                (folder / name).write_text(str(value))
        yield ["/bin/sh", "-c", _JOIN, str(folder / "cgroup.procs")]
    finally:
        _remove(folder)


def _own_cgroup(mounts: Path, own: Path) -> Path | None:
    points = [line.split()[1] for line in mounts.read_text().splitlines() if line.split()[2] == "cgroup2"]
    names = [line.removeprefix("0::/") for line in own.read_text().splitlines() if line.startswith("0::/")]
    if not points or not names or ".." in Path(names[0]).parts:  # above what our namespace shows
        return None
    return Path(points[0]) / names[0]


def _gives(folder: Path) -> bool:
    handed_down = (folder / "cgroup.subtree_control").read_text().split()
    may_write = all(os.access(path, os.W_OK) for path in (folder, folder / "cgroup.procs"))
    return may_write and {"memory", "pids"} <= set(handed_down)


def _can_be_joined(parent: Path) -> bool:
    """Try it, for more may be in the way than files show."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        with a_cgroup(parent, memory_bytes=1 << 26, processes=8) as join:
            subprocess.run([*join, "/bin/true"], check=True, timeout=5, stderr=subprocess.DEVNULL)
        return True
    return False


def _remove_left_over(parent: Path) -> None:
    """Remove what was made by processes that are no more. One that has processes in it Linux does not remove."""
    for folder in parent.glob(f"{PREFIX}*"):
        maker = folder.name.removeprefix(PREFIX).split("-")[0]
        if not Path("/proc", maker).exists():
            with contextlib.suppress(OSError):
                folder.rmdir()


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):  # before Linux 5.14; then the jail's own end must do
        (folder / "cgroup.kill").write_text("1")
    end = time.monotonic() + REMOVAL_S
    while True:
        try:
            folder.rmdir()
            return
        except OSError:
            if time.monotonic() > end:
                return
        time.sleep(0.01)
