"""The sandbox by bubblewrap, with which Flatpak jails applications.

The code sees Python, its installed packages and an empty folder in memory, all else read-only or absent; its processes
are in a namespace of their own, so that none is left when the jail ends, and belong to a user that owns nothing.
"""

import contextlib
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from rewards.cgroup import a_cgroup, find_parent
from rewards.enclosure import (
    HOME,
    INSIDE,
    JAIL_USERS,
    OURS,
    OWN_MEMORY_BYTES,
    OWN_PROCESSES,
    Limits,
    Place,
    SandboxError,
    own_python,
    plain_environment,
)
from rewards.inside.system_calls import ARCHITECTURES

SYSTEM_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
DEVICES = ("/dev/null", "/dev/random", "/dev/urandom")
"""Not /dev/zero: what is mapped of it and shared stays, unseen, for as long as a part of it is mapped."""


class Jail:
    """Makes jails by bubblewrap."""

    is_jailed: ClassVar[bool] = True
    way_out: ClassVar[str] = (
        "Install bubblewrap (Debian: apt install bubblewrap) on a machine that allows it, or have Podman or Docker and "
        "say sandbox: container, or, for code that you trust, sandbox: none"
    )

    def __init__(self) -> None:
        """Look for what is needed."""
        if shutil.which("bwrap") is None:
            raise SandboxError("there is no bwrap")
        if platform.machine() not in ARCHITECTURES:
            raise SandboxError(f"the system calls of a {platform.machine()} are not known")
        self._cgroups = find_parent()

    @contextlib.contextmanager
    def entered(self, limits: Limits) -> Iterator[Place]:
        """Lend a jail, in a cgroup of its own where this machine gives us one."""
        user = secrets.choice(JAIL_USERS) if os.getuid() == 0 else None
        if self._cgroups is None:
            yield Place(command=command(limits.disk_bytes), env={}, user=user)
            return
        memory_bytes, processes = limits.memory_bytes + OWN_MEMORY_BYTES, limits.processes + OWN_PROCESSES
        with a_cgroup(self._cgroups, memory_bytes=memory_bytes, processes=processes) as join:
            yield Place(command=[*join, *command(limits.disk_bytes)], env={}, user=user)


def command(disk_bytes: int) -> list[str]:
    """Return the command of a jail with our program in it.

    Root needs no namespace of users, and gives its rights up inside: in such a namespace it would still count as root,
    whose number of processes the kernel does not bound.
    """
    bwrap = shutil.which("bwrap")
    assert bwrap is not None
    made = [bwrap, "--as-pid-1", "--die-with-parent", "--new-session", "--clearenv"]
    made += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if os.getuid() == 0:
        made += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        made += ["--unshare-user", "--disable-userns"]
    for variable, value in plain_environment(HOME).items():
        made += ["--setenv", variable, value]
    return [*made, *_files(disk_bytes), "--remount-ro", "/", "--chdir", HOME, "--", *own_python(OURS)]


def _files(disk_bytes: int) -> Iterator[str]:
    """Yield the arguments for what is to be seen; /tmp too is HOME, where our own Python does not lie below that."""
    for folder in ("/dev", "/etc"):  # else root makes them for nobody but itself
        yield from ("--perms", "0755", "--dir", folder)
    yield from ("--ro-bind", "/usr", "/usr")
    yield from ("--ro-bind", str(INSIDE / "hosts"), "/etc/hosts")
    yield from ("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache")
    for system in map(Path, SYSTEM_FOLDERS):
        if system.is_symlink():
            yield from ("--symlink", os.readlink(system), str(system))
        elif system.exists():
            yield from ("--ro-bind", str(system), str(system))
    prefixes = dict.fromkeys([sys.base_prefix, sys.prefix])
    for prefix in prefixes:
        if not Path(prefix).is_relative_to("/usr"):
            for parent in reversed(Path(prefix).parents[:-1]):
                yield from ("--perms", "0755", "--dir", str(parent))
            yield from ("--ro-bind", prefix, prefix)
    yield from ("--ro-bind", str(INSIDE), f"{OURS}/rewards/inside", "--proc", "/proc")
    for device in DEVICES:
        yield from ("--dev-bind", device, device)
    yield from ("--perms", "1777", "--size", str(disk_bytes), "--tmpfs", HOME, "--symlink", HOME, "/dev/shm")
    if not any(Path(prefix).is_relative_to("/tmp") for prefix in prefixes):
        yield from ("--symlink", HOME, "/tmp")
