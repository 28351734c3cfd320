"""How much memory a whole jail takes, as seen from inside: Linux bounds each process, but not their sum.

Counted are the processes' own memory, the pieces that they share (each SHARED_BYTES at most, `bounds`), files in
memory, and what sockets hold. Not counted are pipes, of which Linux keeps a user under 64 MB, tables of pages, and
small things such as locks of files; a cgroup, where there is one, counts those too. What is taken between two looks is
bounded by what one core can take: with 512 MB allowed, the worst of fifteen ways to take more took 620 MB, on two cores
that ten others wanted. Imports the standard library only.
"""

import contextlib
import functools
import math
import os
import signal
import time
from collections.abc import Collection, Sequence

from rewards.inside.bounds import SHARED_BYTES

LOOK_S = 0.01
"""Between two looks."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
FILE_BYTES = 1 << 10
"""What a file costs besides its content."""
MAX_FILES = 10_000
"""More would take too long to remove."""
MAPPING_BYTES = 1 << 8
MAX_MAPPINGS = 20_000
"""Of all processes; with more, a look would take too long."""
SHARED_NAME = b"/dev/zero (deleted)"
"""How Linux calls memory that is shared without a file."""


class Watch:
    """Looks from time to time whether the code that is tried takes more than a jail may."""

    def __init__(self, most_bytes: int, hidden: Collection[int] = ()) -> None:
        """Leave this process out. The current folder is the one whose files are in memory.

        Processes of ours that may be ``hidden`` are counted as far as they can be seen.
        """
        self._most = most_bytes
        self._hidden = {str(process) for process in hidden}
        self._next = 0.0

    def finds_too_much(self) -> bool:
        """Look, if it is time to."""
        if time.monotonic() < self._next:
            return False
        found = self._is_too_much()
        self._next = time.monotonic() + LOOK_S
        return found

    def _is_too_much(self) -> bool:
        """Look roughly, and where that finds too much, closely, while all stand still.

        Pages that processes share are counted for each of them at first, and then but once, which takes Linux longer to
        find out.
        """
        processes = [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
        left = self._most - _bytes_besides_pages([name for name in processes if name not in self._hidden])
        if sum(map(_own_bytes, processes)) <= left:
            return False
        _send(signal.SIGSTOP, processes)
        lent = _lent(processes)
        if sum(_shared_out_bytes(process) for process in processes if process not in lent) > left:
            return True  # and they stand still until they are killed
        _send(signal.SIGCONT, processes)
        return False


def _send(number: signal.Signals, processes: Sequence[str]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process), number)


def _lent(processes: Sequence[str]) -> set[str]:
    """Return those that wait since vfork for a child that has their memory until it executes a program.

    They wait uninterruptibly, which is D, after a name in parentheses; a child with a copy never makes them
    (`forbid_system_calls`).
    """
    stats = {process: _read(process, "stat").rpartition(b")")[2].split() for process in processes}
    waiting = {process for process, stat in stats.items() if stat[:1] == [b"D"]}
    parents = {process: stat[1].decode() for process, stat in stats.items() if stat[1:]}
    return {
        parent
        for child, parent in parents.items()
        if parent in waiting and _read(child, "statm") == _read(parent, "statm")
    }


def _bytes_besides_pages(processes: Sequence[str]) -> float:
    """Return what is taken that is no process's own: infinitely much where there are too many things to count."""
    mappings = b"".join(map(_mappings, processes))
    num_mappings, num_files, file_bytes = mappings.count(b"\n"), *_files(".")
    if num_mappings > MAX_MAPPINGS or num_files > MAX_FILES:
        return math.inf
    shared_bytes = mappings.count(SHARED_NAME) * SHARED_BYTES
    return num_mappings * MAPPING_BYTES + shared_bytes + num_files * FILE_BYTES + file_bytes + _socket_bytes()


def _files(folder: str) -> tuple[int, int]:
    """Return how many there are in its file system, and the size of their content."""
    system = os.statvfs(folder)
    return system.f_files - system.f_ffree, (system.f_blocks - system.f_bfree) * system.f_frsize


def _own_bytes(process: str) -> int:
    """Return the size of the pages that have no file, those included that it shares with others."""
    sizes = [int(size) for size in _read(process, "statm").split()]
    return (sizes[1] - sizes[2]) * PAGE_BYTES if sizes else 0


def _shared_out_bytes(process: str) -> int:
    """Return the same, of pages that n processes share the n-th part."""
    for line in _read(process, "smaps_rollup").splitlines():
        if line.startswith(b"Pss_Anon:"):
            return int(line.split()[1]) << 10
    return _own_bytes(process)


def _read(process: str, name: str) -> bytes:
    """Return what Linux says of a process; nothing where it has ended, or may not be asked."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/{name}", "rb") as lines:
        return lines.read()
    return b""


def _mappings(process: str) -> bytes:
    """Return a line for each of its mappings. One that hides them has too many."""
    try:
        with open(f"/proc/{process}/maps", "rb") as lines:
            return lines.read(MAX_MAPPINGS * 64)
    except PermissionError:
        return b"\n" * (MAX_MAPPINGS + 1)
    except OSError:  # it has ended
        return b""


def _socket_bytes() -> int:
    with open("/proc/net/sockstat", "rb") as lines:
        num_sockets = int(lines.readline().split()[2])  # sockets: used 3
    return num_sockets * _most_in_a_socket() + sum(map(_queued_bytes, ("tcp", "tcp6"))) if num_sockets else 0


@functools.cache
def _most_in_a_socket() -> int:
    """Return what one may hold that has no connection, by the sizes of its buffers, which cannot be made larger."""
    import socket  # few programs have any

    with socket.socket(socket.AF_UNIX) as one:
        sizes = [one.getsockopt(socket.SOL_SOCKET, option) for option in (socket.SO_SNDBUF, socket.SO_RCVBUF)]
    return sum(sizes) + (1 << 16)  # the last message may go beyond


def _queued_bytes(protocol: str) -> int:
    """Return what lies in the queues of its connections, to be sent and to be read."""
    total = 0
    with contextlib.suppress(FileNotFoundError), open(f"/proc/net/{protocol}", "rb") as lines:
        for line in lines.readlines()[1:]:
            to_send, to_read = line.split()[4].split(b":")
            total += int(to_send, 16) + int(to_read, 16)
    return total
