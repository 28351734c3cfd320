"""Processes that must not be left behind: those that die with their parent, those below one, those found by a mark."""

import contextlib
import ctypes
import os
import signal
import sys
from collections import defaultdict
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
PASSES = 100
"""How often to look for processes that were started while others were being killed."""


def die_with_parent(parent_pid: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Ask Linux to send this process a signal when the thread that started it ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)
        if os.getppid() != parent_pid:  # it died before we asked
            os._exit(1)


def adopt_orphans() -> None:
    """Ask Linux to make this process the parent of all below it that lose theirs. Raises OSError where it cannot."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError("this kernel has no subreapers (PR_SET_CHILD_SUBREAPER), or forbids them")


def descendants(of: int) -> list[int]:
    """Return the ids of all processes below one that still run, as `/proc` has them."""
    children = defaultdict[int, list[int]](list)
    ended = set[int]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):  # it is gone
                state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                children[int(parent)].append(int(entry.name))
                if state in "ZX":
                    ended.add(int(entry.name))
    found, known = [], [of]
    while known:
        below = children.pop(known.pop(), [])
        known += below
        found += [pid for pid in below if pid not in ended]
    return found


def kill_those_with(variable: str) -> None:
    """Kill the processes that were started with this `NAME=value` in their environment.

    Looks again until a pass finds none, for a process may start another while the list is being read. What has cleared
    its environment and left its process group is not found; `rewards.keeper` finds that.
    """
    for _ in range(PASSES):
        if not _kill_once(variable.encode()):
            return


def _kill_once(variable: bytes) -> bool:
    """Say whether there was one."""
    found = False
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone by now, or another user's
                if variable in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
                    found = True
    return found
