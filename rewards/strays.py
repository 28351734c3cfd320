"""Processes that must not be left behind: those that die with their parent, and those found by what they inherit."""

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PASSES = 100
"""How often to look for processes that were started while others were being killed."""


def die_with_parent(parent_pid: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Ask Linux to send this process a signal when the thread that started it ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)
        if os.getppid() != parent_pid:  # it died before we asked
            os._exit(1)


def kill_those_with(variable: str) -> None:
    """Kill the processes that were started with this `NAME=value` in their environment.

    Looks again until a pass finds none, for a process may start another while the list is being read. What has cleared
    its environment and left its process group is not found.
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
