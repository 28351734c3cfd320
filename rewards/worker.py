"""What runs inside a reward worker process: import the rewards once, then score one group after another.

Started by `rewards.process`, which holds the other end of the pipe. It receives the reward configs, then
groups; it sends (kind, body) pairs: ``ready`` or ``failed`` once, then for each group ``running`` before each
reward and ``scored`` at the end.
"""

import contextlib
import ctypes
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from rewards import grading
from rewards.types import RewardError

PR_SET_PDEATHSIG = 1


def main(pipe_fd: int, parent_pid: int) -> None:
    """Serve until the pipe closes."""
    die_with_parent(parent_pid)
    be_killed_first()
    pipe = Connection(pipe_fd)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is done with us
        serve(pipe)


def serve(pipe: Connection) -> None:
    """Load what the first message says, then answer each group."""
    configs = pipe.recv()
    try:
        rewards = grading.load(configs)
    except RewardError as error:
        pipe.send(("failed", str(error)))
        return
    pipe.send(("ready", None))
    while True:
        group = pipe.recv()
        scores = grading.grade(rewards, group, announce=lambda label: pipe.send(("running", label)))
        pipe.send(("scored", scores))


def die_with_parent(parent_pid: int) -> None:
    """Ask Linux to kill this process when the thread that started it ends, however it ends.

    Elsewhere a closing pipe is what ends an orphan, once its reward has returned.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it died before we asked
            os._exit(1)


def be_killed_first() -> None:
    """Offer this process to Linux when memory runs out, so that it takes a reward and not the learner."""
    with contextlib.suppress(OSError):  # some containers forbid it, and it is only a preference
        Path("/proc/self/oom_score_adj").write_text("1000")
