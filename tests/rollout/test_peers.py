"""Whose the other ends of a process's connections are: a stranger's are found, also of one that has hung up."""

import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from rollout import peers
from rollout.peers import own_sockets, require_own_peers
from rollout.transports.broadcast import _join
from rollout.types import RolloutError
from tests.users import NOBODY, PYTHON, as_user, needs_root

pytestmark = pytest.mark.processes

CONNECTS = """
import socket, sys
client = socket.create_connection((sys.argv[1], int(sys.argv[2])))
client.sendall(b"take this")
if sys.argv[3] == "stays":
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "ACCEPT_TIMEOUT_S", 0.3)


@pytest.fixture(params=["127.0.0.1", "::1", "::"])
def server(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """Yield one that listens; the last to both kinds of addresses, of which the older then looks like the newer."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        listening = socket.create_server((request.param, 0), family=family, dualstack_ipv6=request.param == "::")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listening:
        yield listening


def address(server: socket.socket) -> str:
    bound = str(server.getsockname()[0])
    return "127.0.0.1" if bound == "::" else bound


def test_one_s_own_processes_are_no_strangers(server: socket.socket) -> None:
    before = own_sockets()
    with ExitStack() as opened:
        for _ in range(3):
            opened.enter_context(socket.create_connection((address(server), server.getsockname()[1])))
            opened.enter_context(server.accept()[0])
        assert len(own_sockets() - before) == 6
        require_own_peers(before)


@needs_root
@pytest.mark.parametrize(("how", "who"), [("stays", f"one of user {NOBODY}"), ("goes", "one that has hung up")])
def test_another_user_s_is_a_stranger_even_when_it_is_gone(server: socket.socket, how: str, who: str) -> None:
    before = own_sockets()
    command = [str(PYTHON), "-I", "-c", CONNECTS, address(server), str(server.getsockname()[1]), how]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", **as_user(NOBODY)
    ) as stranger:
        assert stranger.stdout is not None
        connection, _ = server.accept()
        stranger.stdout.readline()
        with connection, pytest.raises(RolloutError, match=f"not a process of ours, but {who}, has connected"):
            require_own_peers(before)
        require_own_peers(before)  # now that it is closed


def test_a_connection_that_was_there_before_is_not_asked_about(server: socket.socket) -> None:
    with socket.create_connection((address(server), server.getsockname()[1])), server.accept()[0] as left:
        left.shutdown(socket.SHUT_WR)
        require_own_peers(own_sockets())
        with pytest.raises(RolloutError, match="hung up"):
            require_own_peers(set())


HIJACKS = """
import socket, struct, sys
held = []
for number in range(8):  # gloo's of the connections that a process waits for
    held.append(socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
    held[-1].sendall(struct.pack("=q", number))
print(flush=True)
sys.stdin.read()
"""


def listens_at(before: set[int]) -> int | None:
    """Return the port at which this process listens since then."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, place, _, state, *_, inode = line.split()[:10]
        if state == "0A" and int(inode) in own_sockets() - before:
            return int(place.partition(":")[2], 16)
    return None


@needs_root
def test_another_user_who_is_first_at_gloo_s_door_is_not_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    ticket = {"meeting_point": str(tmp_path / "group"), "size": 2, "timeout_s": 10}
    before, cpu = own_sockets(), torch.device("cpu")
    with ThreadPoolExecutor(2) as members:
        first = members.submit(_join, ticket, rank=0, device=cpu)
        while (port := listens_at(before)) is None:
            time.sleep(0.01)
        command = [str(PYTHON), "-I", "-c", HIJACKS, str(port)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", **as_user(NOBODY)
        ) as stranger:
            assert stranger.stdout is not None
            stranger.stdout.readline()
            members.submit(_join, ticket, rank=1, device=cpu)
            with pytest.raises(RolloutError, match=f"one of user {NOBODY}, has connected while processes met"):
                first.result(30)
