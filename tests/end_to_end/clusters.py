"""A Ray cluster of several nodes on this machine, all on loopback; run as a program it is that cluster.

`ray start` refuses to make several nodes that listen on loopback alone; Ray's own `cluster_utils` does it. It is in a
process of its own, since what it sets holds for all of a process.
"""

import contextlib
import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from rewards.strays import kill_those_with
from tests.end_to_end.runs import ROOT

LOOPBACK = "127.0.0.1"
ANSWER_TIMEOUT_S = 120.0
CLOSE_TIMEOUT_S = 60.0


class LoopbackCluster:
    """Nodes with one processor each, next to a head that has none."""

    def __init__(self, folder: Path) -> None:
        self.environment = {
            **os.environ,
            "RAY_TMPDIR": str(folder),  # away from any other cluster on this machine
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "PYTHONPATH": str(ROOT),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.end_to_end.clusters"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=self.environment,
        )  # fmt: skip
        self.num_nodes = 0
        """Beside the head."""

    def start(self) -> None:
        """Wait until the head is there."""
        found = self._ask("start")
        self.environment["RAY_ADDRESS"] = self.address = found["address"]
        self.dashboard = found["dashboard"]

    def join(self) -> None:
        """Add a node; it goes by its raylet's process id."""
        self._ask("join")
        self.num_nodes += 1

    def leave(self, node: int) -> None:
        """Have a node be gone without a word: Ray notices after a quarter of a minute."""
        self._ask(f"leave {node}")
        self.num_nodes -= 1

    def workers(self, title: str) -> list[psutil.Process]:
        """Return the workers that do what ``title`` says; the parent of each is its node."""
        return [child for child in self.processes() if title in _command_of(child)]

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the cluster."""
        return psutil.Process(self._process.pid).children(recursive=True)

    def close(self) -> None:
        """End it, and kill what does not end by itself: Ray's processes, and drivers that a failed test has left."""
        processes: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            processes = self.processes()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.stdin.close()
            self._process.wait(CLOSE_TIMEOUT_S)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        kill_those_with(f"RAY_TMPDIR={self.environment['RAY_TMPDIR']}")
        self._process.wait(CLOSE_TIMEOUT_S)

    def _ask(self, order: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        is_there, _, _ = select.select([self._process.stdout], [], [], ANSWER_TIMEOUT_S)
        assert is_there, f"the cluster did not answer within {ANSWER_TIMEOUT_S:.0f} s when asked to {order}"
        answer = self._process.stdout.readline()
        assert answer, f"the cluster ended when asked to {order}"
        found: dict[str, Any] = json.loads(answer)
        return found


@contextmanager
def loopback_cluster() -> Iterator[LoopbackCluster]:
    """Yield a cluster; nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # Ray's sockets have names of 107 characters at most
    with ExitStack() as left:
        left.callback(shutil.rmtree, folder, ignore_errors=True)
        cluster = LoopbackCluster(folder)
        left.callback(cluster.close)
        cluster.start()
        yield cluster


def _command_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as found:
        return int(found.getsockname()[1])


def _serve() -> None:
    """Do what is ordered on stdin, and answer on stdout."""
    from ray.cluster_utils import Cluster

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is no answer
    place = {"node_ip_address": LOOPBACK}
    folder = os.environ["RAY_TMPDIR"]
    head = {**place, "num_cpus": 0, "include_dashboard": True, "dashboard_port": _free_port(),
            "dashboard_agent_listen_port": _free_port()}  # fmt: skip
    cluster = Cluster(initialize_head=True, head_node_args=head)
    raylets: dict[int, subprocess.Popen[bytes]] = {}
    for order in sys.stdin:
        answer: dict[str, Any] = {}
        match order.split():
            case ["start"]:
                answer = {"address": cluster.address, "dashboard": f"http://{cluster.webui_url}"}
            case ["join"]:
                own = tempfile.mkdtemp(dir=folder)  # as if on a machine of its own; a job's files are copied there
                raylet = cluster.add_node(**place, num_cpus=1, temp_dir=own).all_processes["raylet"][0].process
                raylets[raylet.pid] = raylet
            case ["leave", pid]:
                raylets[int(pid)].kill()
                raylets[int(pid)].wait()  # its workers take a zombie for alive
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    cluster.shutdown()


if __name__ == "__main__":
    _serve()
