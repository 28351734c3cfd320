"""What a process takes from the machine it finds itself on. It lies in this package since all others may import it."""

import os
import socket
from pathlib import Path

from rewards.waits import Wait

SEEN_TIMEOUT_S = 60.0
"""How long a folder that one machine has made may take to be seen on another."""


def require_seen(folder: Path) -> None:
    """Wait for a folder that another machine has made; on one that is not shared it never comes, a WaitError."""
    way_out = "on a cluster it must lie in a folder that all nodes share, and so must HF_HOME; see docs/cluster.md"
    with Wait(f"{folder} to be seen on {socket.gethostname()}", SEEN_TIMEOUT_S, way_out=way_out) as wait:
        wait.until(folder.is_dir)


def use_own_processors() -> None:
    """Have what computes in this process use all processors of its machine, where OMP_NUM_THREADS is left open."""
    if os.environ.get("OMP_NUM_THREADS") == "":
        os.environ["OMP_NUM_THREADS"] = str(os.cpu_count() or 1)
