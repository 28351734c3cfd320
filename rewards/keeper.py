"""The process above each worker: once the worker has ended, however it did, it ends all that has come of the worker.

    whoever asks -> keeper -> worker -> what somebody else's code starts, and what that starts, ...

A process whose parent has ended becomes a child of the keeper, for Linux hands orphans to the next subreaper above
them. So none gets away by leaving its process group and its session, clearing its environment, closing its files and
losing its parents. The keeper runs no code but this. Where it is killed by SIGKILL itself, the worker ends with it, and
such orphans do not.
"""

import contextlib
import os
import resource
import signal
import sys
import time

from rewards.strays import adopt_orphans, descendants, die_with_parent

END_TIMEOUT_S = 3.0
"""How long to go on killing; what is left by then hangs in the kernel, or forks faster than it can be killed."""
LOOK_EVERY_S = 0.02
_HEARD = (signal.SIGTERM, signal.SIGCHLD)


def keep(parent_pid: int) -> None:
    """Fork, and return in the child, which is to be the worker; the other one stays here as its keeper.

    It ends all by SIGTERM, which it also gets when its own parent has gone, and ends as the worker did.
    """
    if sys.platform != "linux":
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, nobody hears how a child ended
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    die_with_parent(parent_pid, signal.SIGTERM)
    adopt_orphans()
    keeper = os.getpid()
    worker = os.fork()
    if worker:
        _stand_by(worker)
    os.setsid()  # a signal to its group is not for the keeper
    die_with_parent(keeper)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)


def _stand_by(worker: int) -> None:
    """Wait for the worker to end, or have it end; then end what has come of it, and go."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # the worker's pipe is to close when the worker ends
    status: int | None = None
    while status is None:
        if signal.sigwait(_HEARD) == signal.SIGTERM:
            os.kill(worker, signal.SIGKILL)
        status = _reaped().get(worker)
    end = time.monotonic() + END_TIMEOUT_S
    while (found := descendants(os.getpid())) and time.monotonic() < end:
        for pid in found:
            with contextlib.suppress(OSError):  # it has ended, or is another user's by now
                os.kill(pid, signal.SIGKILL)
        signal.sigtimedwait(_HEARD, LOOK_EVERY_S)
        _reaped()
    _end_like(status)


def _reaped() -> dict[int, int]:
    """Take leave of the children that have ended; return their wait statuses by process id."""
    statuses = dict[int, int]()
    with contextlib.suppress(ChildProcessError):  # there is none at all
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            statuses[ended[0]] = ended[1]
    return statuses


def _end_like(status: int) -> None:
    """End with the worker's exit code, or by its signal, so that whoever asks learns it."""
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        fatal = os.WTERMSIG(status)
        if fatal not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(fatal, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [fatal])
        os.kill(os.getpid(), fatal)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)
