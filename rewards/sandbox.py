"""A sandbox for code that nobody has read: no network, its own files, processes, memory, time and output, all bounded.

    Order (source, trials) -> Place (a jail, a container, a folder) -> `inside.trials` -> Outcome of each trial

Where the kind of jail that is asked for is missing or the machine forbids it, there is an error and no weaker one;
``kind="none"`` must be asked for by name, and keeps only the bounds on a process's memory, time and output.
"""

import contextlib
import json
import os
import random
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue
from typing import IO, Any, Literal

from rewards.config import SANDBOX_GRACE_S, SandboxKind
from rewards.container import Container
from rewards.enclosure import Bare, Enclosure, Limits, Place, SandboxError
from rewards.inside.trials import BEGUN
from rewards.jail import Jail

ENDING_S = 0.2
"""For a command whose output has ended to end, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """What lets a test be judged apart from the program, in a process of its own."""

    asked: tuple[str, ...]
    """Names of the program's that the test may use."""
    classes: tuple[str, ...] = ()
    """Names of classes that the set-up defines: their objects are copied between the two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One fresh process for the code."""

    source: str
    setup: str = ""
    """Python to execute before, in the same namespace; where it needs what the code defines, after it instead."""
    input: str = ""
    """Its standard input."""
    check: str = ""
    """Python to execute afterwards: in the same namespace, or apart."""
    apart: Apart | None = None
    name: str = "__main__"
    """What `__name__` says."""
    is_run: bool = True
    """False: it is compiled only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a trial ended."""

    how: Literal["ended", "raised", "late", "too much", "lost"]
    """Reached its end; raised, left early or was killed; ran out of time; printed or took too much; took the reporter
    along."""
    output: str = ""
    """What it printed on standard output, up to the limit."""


class Sandbox:
    """Tries code in jails, one an order. Thread-safe."""

    def __init__(self, kind: SandboxKind, limits: Limits, *, image: str = "") -> None:
        """Set up one jail to see that it can be done; SandboxError with what to do where it cannot."""
        self._limits = limits
        self._grace_s = SANDBOX_GRACE_S[kind]
        self._all_cores = sorted(os.sched_getaffinity(0))
        self._cores = SimpleQueue[int]()
        for core in self._all_cores:
            self._cores.put(core)
        way_out = {"bubblewrap": Jail.way_out, "container": Container.way_out, "none": Bare.way_out}[kind]
        try:
            self._enclosure = _enclosure(kind, image)
            if self.run([Trial(source="")])[0].how != "ended":
                raise SandboxError("an empty program does not reach its end in it")
        except SandboxError as error:
            raise SandboxError(f"code cannot be run in a sandbox here: {error}. {way_out}") from error

    def run(self, trials: Sequence[Trial]) -> list[Outcome]:
        """Run the trials one after the other; SandboxError where not even that was begun."""
        checks = [trial.check.encode() if trial.apart else b"" for trial in trials]
        with self._a_core() as core, self._enclosure.entered(self._limits) as place:
            order = {
                "core": core,
                "limits": asdict(self._limits),
                "trials": [_as_order(trial, len(check)) for trial, check in zip(trials, checks, strict=True)],
                "user": place.user,
                "is_jailed": self._enclosure.is_jailed,
            }
            told, complaint = self._converse(place, order, checks)
        if told[:1] != [BEGUN]:
            raise SandboxError(complaint or "it ended without a word")
        outcomes = list(_outcomes(told[1 : len(trials) + 1]))
        return [*outcomes, *[Outcome(how="lost")] * (len(trials) - len(outcomes))]

    @contextlib.contextmanager
    def _a_core(self) -> Iterator[int]:
        """Lend a core that no other order of ours runs on, or any where there is none left."""
        try:
            core = self._cores.get_nowait()
        except Empty:
            yield random.choice(self._all_cores)
            return
        try:
            yield core
        finally:
            self._cores.put(core)

    def _converse(self, place: Place, order: dict[str, Any], checks: Sequence[bytes]) -> tuple[list[str], str]:
        """Hand order and checks to the command; return the lines that it tells in its time, and its complaint.

        Inside, the end of its standard input is the sign to end: when time is up, and when this process is no more.
        """
        body = json.dumps(order).encode()
        told = b"".join([struct.pack("!Q", len(body)), body, *checks])
        most = (6 * self._limits.output_bytes + 1024) * len(order["trials"])  # JSON makes six bytes of some characters
        with tempfile.TemporaryFile() as complaints:
            process = subprocess.Popen(
                place.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=place.env,
                cwd=place.folder,
            )
            assert process.stdin is not None and process.stdout is not None
            ending = threading.Thread(target=self._end, args=(process,))
            ending.start()
            telling = threading.Thread(target=_tell, args=(process.stdin, told))
            telling.start()
            try:
                with process.stdout as tell:
                    lines = tell.read(most).decode(errors="replace").splitlines()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(ENDING_S)
            finally:
                process.kill()
                ending.join()
                telling.join()
                if process.returncode < 0:
                    place.stop()
            complaints.seek(0)
            return lines, complaints.read(2000).decode(errors="replace").strip()

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait for the process until its time is up, then see to it that nothing of it goes on. Runs in a thread."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self._limits.seconds + self._grace_s)
        process.kill()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            process.stdin.close()
        process.wait()


def _enclosure(kind: SandboxKind, image: str) -> Enclosure:
    if kind == "container":
        return Container(image)
    return Jail() if kind == "bubblewrap" else Bare()


def _as_order(trial: Trial, num_bytes: int) -> dict[str, Any]:
    """Return a trial for the order; a check that is read apart is told by its length alone."""
    told = asdict(trial)
    return told if trial.apart is None else {**told, "check": "", "apart": {**told["apart"], "bytes": num_bytes}}


def _tell(stream: IO[bytes], told: bytes) -> None:
    """Write without holding up who reads the answers."""
    with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended already, or is being closed
        stream.write(told)
        stream.flush()


def _outcomes(lines: Sequence[str]) -> Iterator[Outcome]:
    for line in lines:
        try:
            yield Outcome(**json.loads(line))
        except (ValueError, TypeError):  # cut off
            return
