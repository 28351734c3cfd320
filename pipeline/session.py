"""The processes of one Unix session: all that a driver has started on this machine, and what hangs among them."""

import os
import signal
from contextlib import suppress
from pathlib import Path

TRACKER = b"multiprocessing.resource_tracker"
STOPPED = "T"
"""The kernel's letter for a process that was stopped, by SIGSTOP or a debugger."""
ENDED = "ZX"
"""The letters for one that has ended, whether or not its parent has taken note."""


def kill(session: int) -> None:
    """SIGKILL every process of a session but Python's resource trackers.

    These end by themselves once their owners are gone, and remove what those have left in shared memory.
    """
    killed: set[int] = set()
    while found := [pid for pid in _members(session) if pid not in killed]:  # what was forked meanwhile, too
        for pid in found:
            killed.add(pid)
            with suppress(OSError):  # it has ended by itself
                if TRACKER not in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)


def has_ended(session: int) -> bool:
    """Say whether no process of a session runs any more, so that what they held is let go."""
    return all(state in ENDED for pid in _members(session) for _, state in _status(pid))


def stopped(session: int) -> str:
    """Return `; stopped: NAME (PID), ...` for those that were stopped, which are why others wait; "" for none."""
    found = [f"{name} ({pid})" for pid in _members(session) for name, state in _status(pid) if state == STOPPED]
    return f"; stopped: {', '.join(found)}" if found else ""


def _members(session: int) -> list[int]:
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if _session_of(pid) == session]


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _status(pid: int) -> list[tuple[str, str]]:
    """Return name and state letter of a process (`proc_pid_stat(5)`); nothing of one that is gone."""
    try:
        before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return []
    return [(before.partition("(")[2], after.split()[0])]
