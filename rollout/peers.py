"""Who is at the other end of this process's connections: gloo takes whoever connects while a group meets for a member.

    before = own_sockets(); group = ...; require_own_peers(before)

On its machine, Linux knows whose the other end is. Of connections to other machines nothing can be said here.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rewards.waits import Wait
from rollout.types import RolloutError

ACCEPT_TIMEOUT_S = 10.0
"""How long the other end may take to accept a connection; until then it is nobody's."""
_ESTABLISHED, _CLOSING = "01", "08"
"""States of a connection as the kernel writes them; the second: the other end has hung up, and what it said is here."""
_MAPPED = "0000000000000000FFFF0000"
"""What an IPv4 address among those of IPv6 begins with, as the kernel writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """One end of a connection of this machine's (`proc_pid_net(5)`)."""

    here: str
    """Address and port in hexadecimal."""
    there: str
    state: str
    user: int
    socket: int
    """Its inode."""


def own_sockets() -> set[int]:
    """Return the inodes of the sockets that this process has."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # it is closed by now
            kind, _, inode = os.readlink(entry).partition(":")
            if kind == "socket":
                found.add(int(inode.strip("[]")))
    return found


def require_own_peers(before: set[int]) -> None:
    """Raise RolloutError if a connection made since is not to a process of this user's, where it is on this machine."""
    strangers: list[str] = []

    def are_own() -> bool:
        strangers[:] = _strangers(own_sockets() - before)
        return not strangers

    def stranger(_: str) -> RolloutError:
        return RolloutError(
            f"not a process of ours, but {strangers[0]}, has connected while processes met; whoever it was may have "
            "wanted to send weights or code of theirs. Run it again"
        )

    with Wait("the other ends of new connections", ACCEPT_TIMEOUT_S, fails=stranger) as wait:
        wait.until(are_own, every_s=0.01)


def _strangers(sockets: set[int]) -> list[str]:
    ends = list(_ends())
    at = {(end.here, end.there): end for end in ends}
    found = []
    for end in ends:
        is_on_this_machine = end.here.partition(":")[0] == end.there.partition(":")[0]
        if end.socket in sockets and end.state in (_ESTABLISHED, _CLOSING) and is_on_this_machine:
            other = at.get((end.there, end.here))
            if other is None or other.state != _ESTABLISHED or end.state != _ESTABLISHED:
                found.append("one that has hung up")
            elif other.user != os.geteuid():
                found.append(f"one of user {other.user}")
    return found


def _ends() -> Iterator[_End]:
    for family in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):  # a machine without IPv6
            for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
                _, here, there, state, _, _, _, user, _, inode, *_ = line.split()
                here, there = here.removeprefix(_MAPPED), there.removeprefix(_MAPPED)
                yield _End(here=here, there=there, state=state, user=int(user), socket=int(inode))
