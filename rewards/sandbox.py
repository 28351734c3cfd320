"""A jail for code that nobody has read: no network, its own files, processes, memory, time and output, all bounded.

    Order (source, trials) -> bubblewrap -> `inside.trials` -> Outcome of each trial

bubblewrap is what Flatpak jails applications with. The code sees Python, its installed packages and an empty folder in
memory, all else read-only or absent; its processes are in a namespace of their own, so that none is left when the jail
ends, and belong to a user that owns nothing. Where bubblewrap is missing or the machine forbids it, there is an error
and no weaker jail; ``kind="none"`` must be asked for by name, and keeps only the bounds on memory, time and output.
"""

import contextlib
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal

from rewards.config import SANDBOX_GRACE_S
from rewards.inside.bounds import FORBIDDEN
from rewards.inside.trials import BEGUN
from rewards.strays import kill_those_with
from rewards.types import RewardError

JAIL_USERS = range(20_000, 60_000)
"""User ids for jails that root starts: one each, so that the bound on processes is a jail's own."""
MARK_VARIABLE = "STROP_SANDBOX"
"""Without a jail, its value finds the processes that the code has started."""
SYSTEM_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
HOME = "/sandbox"
"""The one folder to write to, in memory; also called /tmp, where our own Python does not lie below that."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_INSIDE = Path(__file__).with_name("inside")
_PROGRAM = "import sys; sys.path.insert(0, {!r}); from rewards.inside import trials; del sys.path[0]; trials.main()"
_OURS = "/strop"
"""Where a jail has what it runs of Strop: the folder `inside`, nothing else."""


class SandboxError(RewardError):
    """A sandbox that cannot be set up, or that ended without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one order may use."""

    seconds: float
    """Wall time of all trials together."""
    seconds_a_trial: float
    memory_bytes: int
    """Address space of each process; so many processes, and the files, are the most that a jail takes."""
    processes: int
    """At once; holds in a jail only."""
    output_bytes: int
    """Standard output of a trial."""
    disk_bytes: int
    """Size of the folder in memory, and of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One fresh process for the code."""

    source: str
    setup: str = ""
    """Python to execute before, in the same namespace; where it needs what the code defines, after it instead."""
    input: str = ""
    """Its standard input."""
    check: str = ""
    """Python to execute afterwards in the same namespace."""
    name: str = "__main__"
    """What `__name__` says."""
    is_run: bool = True
    """False: it is compiled only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a trial ended."""

    how: Literal["ended", "raised", "late", "too much", "lost"]
    """Reached its end; raised, left early or was killed; ran out of time; printed too much; took the reporter along."""
    output: str = ""
    """What it printed on standard output, up to the limit."""


class Sandbox:
    """Tries code in jails, one an order. Thread-safe."""

    def __init__(self, kind: Literal["bubblewrap", "none"], limits: Limits) -> None:
        """Set up one jail to see that it can be done; SandboxError with what to do where it cannot."""
        self._is_jailed = kind == "bubblewrap"
        self._limits = limits
        self._cores = SimpleQueue[int]()
        for core in sorted(os.sched_getaffinity(0)):
            self._cores.put(core)
        try:
            if self._is_jailed and shutil.which("bwrap") is None:
                raise SandboxError("there is no bwrap")
            if self._is_jailed and platform.machine() not in FORBIDDEN:
                raise SandboxError(f"the system calls of a {platform.machine()} are not known")
            if self.run([Trial(source="")])[0].how != "ended":
                raise SandboxError("an empty program does not reach its end in it")
        except SandboxError as error:
            raise SandboxError(
                f"code cannot be run in a sandbox here: {error}. Install bubblewrap (Debian: apt install bubblewrap) "
                "on a machine that allows it, or, for code that you trust, say sandbox: none"
            ) from error

    def run(self, trials: Sequence[Trial]) -> list[Outcome]:
        """Run the trials one after the other; SandboxError where not even that was begun."""
        with self._a_core() as core:
            return self._run(trials, core)

    @contextlib.contextmanager
    def _a_core(self) -> Iterator[int | None]:
        """Lend a core that no other order of ours runs on; None where there is none left."""
        try:
            core = self._cores.get_nowait()
        except Empty:
            yield None
            return
        try:
            yield core
        finally:
            self._cores.put(core)

    def _run(self, trials: Sequence[Trial], core: int | None) -> list[Outcome]:
        order = {
            "core": core,
            "limits": asdict(self._limits),
            "trials": [asdict(trial) for trial in trials],
            "user": secrets.choice(JAIL_USERS) if self._is_jailed and os.getuid() == 0 else None,
            "is_jailed": self._is_jailed,
        }
        if self._is_jailed:
            told, complaint = self._converse(_jail(self._limits.disk_bytes), order, {}, "/")
        else:
            mark = uuid.uuid4().hex
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                env = {**_plain_environment(folder), **_marks(), MARK_VARIABLE: mark}
                told, complaint = self._converse(_python(str(_INSIDE.parent.parent)), order, env, folder)
                kill_those_with(f"{MARK_VARIABLE}={mark}")
        if told[:1] != [BEGUN]:
            raise SandboxError(complaint or "it ended without a word")
        outcomes = list(_outcomes(told[1 : len(trials) + 1]))
        return [*outcomes, *[Outcome(how="lost")] * (len(trials) - len(outcomes))]

    def _converse(
        self, command: Sequence[str], order: dict[str, Any], env: dict[str, str], folder: str
    ) -> tuple[list[str], str]:
        """Hand the order to the command; return the lines that it tells in the time that it has, and its complaint.

        Inside, the end of its standard input is the sign to end: when time is up, and when this process is no more.
        """
        told = json.dumps(order).encode() + b"\n"
        most = (6 * self._limits.output_bytes + 1024) * len(order["trials"])  # JSON makes six bytes of some characters
        with tempfile.TemporaryFile() as complaints:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, env=env, cwd=folder
            )
            assert process.stdin is not None and process.stdout is not None
            ending = threading.Thread(target=self._end, args=(process,))
            ending.start()
            try:
                with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended already
                    process.stdin.write(told)
                    process.stdin.flush()
                with process.stdout as tell:
                    lines = tell.read(most).decode(errors="replace").splitlines()
            finally:
                process.kill()
                ending.join()
            complaints.seek(0)
            return lines, complaints.read(2000).decode(errors="replace").strip()

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait for the process until its time is up, then see to it that nothing of it goes on. Runs in a thread."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self._limits.seconds + SANDBOX_GRACE_S)
        process.kill()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            process.stdin.close()
        process.wait()


def _outcomes(lines: Sequence[str]) -> Iterator[Outcome]:
    for line in lines:
        try:
            yield Outcome(**json.loads(line))
        except (ValueError, TypeError):  # cut off
            return


def _jail(disk_bytes: int) -> list[str]:
    """Return the command that jails what comes after it.

    Root needs no namespace of users, and gives its rights up inside: in such a namespace it would still count as root,
    whose number of processes the kernel does not bound.
    """
    bwrap = shutil.which("bwrap")
    assert bwrap is not None
    command = [bwrap, "--as-pid-1", "--die-with-parent", "--new-session", "--clearenv"]
    command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if os.getuid() == 0:
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user", "--disable-userns"]
    for variable, value in _plain_environment(HOME).items():
        command += ["--setenv", variable, value]
    command += ["--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for folder in map(Path, SYSTEM_FOLDERS):
        if folder.is_symlink():
            command += ["--symlink", os.readlink(folder), str(folder)]
        elif folder.exists():
            command += ["--ro-bind", str(folder), str(folder)]
    for prefix in dict.fromkeys([sys.base_prefix, sys.prefix]):
        if not Path(prefix).is_relative_to("/usr"):
            for parent in reversed(Path(prefix).parents[:-1]):
                command += ["--perms", "0755", "--dir", str(parent)]
            command += ["--ro-bind", prefix, prefix]
    command += ["--ro-bind", str(_INSIDE), f"{_OURS}/rewards/inside", "--proc", "/proc"]
    for device in DEVICES:
        command += ["--dev-bind", device, device]
    command += ["--perms", "1777", "--size", str(disk_bytes), "--tmpfs", HOME, "--symlink", HOME, "/dev/shm"]
    if not any(Path(prefix).is_relative_to("/tmp") for prefix in (sys.base_prefix, sys.prefix)):
        command += ["--symlink", HOME, "/tmp"]
    return [*command, "--remount-ro", "/", "--chdir", HOME, "--", *_python(_OURS)]


def _python(ours: str) -> list[str]:
    return [sys.executable, "-I", "-c", _PROGRAM.format(ours)]


def _plain_environment(home: str) -> dict[str, str]:
    """Return what a program needs of an environment; numeric libraries get one thread, for each takes address space."""
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", **one_thread}


def _marks() -> dict[str, str]:
    """Return the marks by which those who started this process find what it has started."""
    return {name: value for name, value in os.environ.items() if name.startswith("STROP_")}
