"""What every kind of sandbox has: limits, a program to run inside, and a place to run it in.

Enclosure (`jail.Jail`, `container.Container`, `enclosure.Bare`) -> Place, one an order -> `sandbox.Sandbox`
"""

import contextlib
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from rewards.strays import kill_those_with
from rewards.types import RewardError

HOME = "/sandbox"
"""The one folder in a jail to write to, in memory."""
OURS = "/strop"
"""Where a jail has what it runs of Strop: the folder `inside`, nothing else."""
INSIDE = Path(__file__).with_name("inside")
JAIL_USERS = range(20_000, 60_000)
"""User ids for jails: one each, so that the bound on processes is a jail's own."""
OWN_MEMORY_BYTES = 64 << 20
"""For what runs in a jail of ours, on top of what the code may take, where the kernel bounds the sum of both."""
OWN_PROCESSES = 8
MARK_VARIABLE = "STROP_SANDBOX"
"""Without a jail, its value finds the processes that the code has started."""
_PROGRAM = "import sys; sys.path.insert(0, {!r}); from rewards.inside import trials; trials.main()"


class SandboxError(RewardError):
    """A sandbox that cannot be set up, or that ended without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one order may use."""

    seconds: float
    """Wall time of all trials together."""
    seconds_a_trial: float
    memory_bytes: int
    """Of all processes and files of a jail together; and address space of each process."""
    processes: int
    """At once; holds in a jail only."""
    output_bytes: int
    """Standard output of a trial."""
    disk_bytes: int
    """Size of the folder in memory, and of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one order is carried out."""

    command: Sequence[str]
    """Starts what runs inside, with the order as its standard input."""
    env: dict[str, str]
    folder: str = "/"
    """To start the command in."""
    user: int | None = None
    """Whom to become inside; None: nobody else."""
    stop: Callable[[], None] = lambda: None
    """What else must be done where the command had to be killed."""


class Enclosure(Protocol):
    """A kind of sandbox. Constructed once, which raises SandboxError where it cannot be had; entered once an order."""

    is_jailed: ClassVar[bool]
    """Whether the code is alone in it."""
    way_out: ClassVar[str]
    """What to do where it cannot be had."""

    def entered(self, limits: Limits) -> AbstractContextManager[Place]:
        """Make a place, and leave nothing of it behind."""


class Bare:
    """No jail: a folder of its own, and an end for the processes that can be found."""

    is_jailed: ClassVar[bool] = False
    way_out: ClassVar[str] = "The limits may be too narrow for an empty program"

    @contextlib.contextmanager
    def entered(self, limits: Limits) -> Iterator[Place]:
        """Lend a folder and an environment."""
        mark = uuid.uuid4().hex
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            env = {**plain_environment(folder), **_marks(), MARK_VARIABLE: mark}
            try:
                yield Place(command=own_python(str(INSIDE.parent.parent)), env=env, folder=folder)
            finally:
                kill_those_with(f"{MARK_VARIABLE}={mark}")


def own_python(ours: str) -> list[str]:
    """Return the command of this Python that runs what is in the folder `inside`, below ``ours``."""
    return [sys.executable, *program(ours)]


def program(ours: str) -> list[str]:
    """Return Python's arguments to do so."""
    return ["-I", "-c", _PROGRAM.format(ours)]


def plain_environment(home: str) -> dict[str, str]:
    """Return what a program needs of an environment; numeric libraries get one thread, for each takes address space."""
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", **one_thread}


def _marks() -> dict[str, str]:
    """Return the marks by which those who started this process find what it has started."""
    return {name: value for name, value in os.environ.items() if name.startswith("STROP_")}
