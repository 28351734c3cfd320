"""No engine outlives its owner: vLLM's child processes end when the process that started them is gone.

vLLM stops its children when it is closed, but a killed owner closes nothing, and the children would keep
their memory (on a GPU: the card) without end.
"""

import os
import signal
import threading
import time

OWNER_VARIABLE = "STROP_ENGINE_OWNER"
"""Environment variable through which an owner tells its descendants its process id."""

_LOOK_EVERY_S = 0.5


def own_descendants() -> None:
    """Make this process the owner of all that it starts from now on."""
    os.environ[OWNER_VARIABLE] = str(os.getpid())


def end_with_owner() -> None:
    """Watch the owner in a thread; when it is gone, kill the parent (unless that is the owner), then itself.

    Called in vLLM's workers. A worker is the owner's child or, below an engine core process, its grandchild. Of an
    owner that dies before its worker is there, a core stays until its own start-up deadline, five minutes.
    """
    owner = int(os.environ[OWNER_VARIABLE])
    if owner == os.getpid():
        return
    parent = os.getppid()
    threading.Thread(target=_watch, args=(owner, parent), name="end-with-owner", daemon=True).start()


def _watch(owner: int, parent: int) -> None:
    while _is_alive(owner):
        time.sleep(_LOOK_EVERY_S)
    if parent not in (owner, 1) and os.getppid() == parent:
        os.kill(parent, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the id was given to someone else's process
        return False
    return True
