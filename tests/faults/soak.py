"""A long run under random faults: nothing lost, nothing used twice, nothing left behind, no memory that grows.

    python -m tests.faults.soak [NUM_STEPS [SEED [ENGINE]]]

GRPO on a tiny model with a real vLLM engine, one version ahead. Every 20 steps a process of a random kind is killed or
stopped, also while another one is. The same recipe without faults runs before it, for what must be equal. Prints
tables; `results/soak.json` of the benchmarks keeps them. Exits with 1 where something was lost, used twice, or left.
"""

import json
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from pipeline.config import RunConfig, load_config
from tests.end_to_end.runs import ROOT, is_alive, metrics, prompts_by_step, wait_for, write_recipe, write_rows
from tests.faults.child import Silent
from tests.faults.family import family, of_role, role
from tests.faults.on_ray import bring
from tests.models import write_tiny_model

RESULT = ROOT / "benchmarks" / "results" / "soak.json"
EVERY = 20
"""Steps from one fault to the next."""
LIMIT_S = 60.0
"""Of every wait on a process that could be stopped, but for rewards."""
FAULTS = [
    (kind, sent)
    for kind in ("worker", "core", "engine", "stage", "raylet", "gcs_server", "driver")
    for sent in (signal.SIGKILL, signal.SIGSTOP)
]
NONE_OF_THESE = ("steps whose prompts differ", "prompts beyond those", "shared memory left", "processes left")
"""Of what is found."""
LOOK_EVERY_S = 1.0
WARM_STEPS, LEAST_STEPS = 10, 30
"""Of a process's life: what is not looked at, and what must be there to tell of growth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What was done to whom."""

    step: int
    role: str
    sent: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A process at one moment."""

    step: int
    rss_mib: float
    files: int
    """Open file descriptors."""


class Soaked:
    """Looks at all processes about once a second, and does something to one of them every so many steps."""

    def __init__(self, run: Path, faults: random.Random | None) -> None:
        self._run = run
        self._random = faults
        self._next = EVERY
        self.faults: list[Fault] = []
        self.looks: dict[tuple[str, int], list[Look]] = defaultdict(list)
        self.most: Counter[str] = Counter()
        self.seen: set[psutil.Process] = set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Do so until the block ends: in a thread, for the driver may be stopped."""
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(LOOK_EVERY_S):
                self._look()

        with ThreadPoolExecutor(1) as pool:
            watched = pool.submit(watch)
            try:
                yield
            finally:
                is_over.set()
            watched.result()

    def _look(self) -> None:
        at = max(metrics(self._run, "grpo"), default=0)
        there = [(role(process) or "", process) for process in family()]
        self.seen |= {process for _, process in there}
        there.append(("strop", psutil.Process()))
        for name, process in there:
            with suppress(psutil.NoSuchProcess):
                rss = process.memory_info().rss / 2**20
                self.looks[name, process.pid].append(Look(step=at, rss_mib=rss, files=process.num_fds()))
        self.most |= Counter(name for name, process in there if name in ("engine", "core", "stage", "worker"))
        if self._random is not None and at >= self._next:
            self._next = at + EVERY
            self._harm(at, *self._random.choice(FAULTS))

    def _harm(self, step: int, wanted: str, sent: signal.Signals) -> None:
        found = of_role(wanted) or of_role("stage")
        if found:
            fault = Fault(step=step, role=role(found[0]) or wanted, sent=sent.name, pid=found[0].pid)
            with suppress(psutil.NoSuchProcess):  # it has ended by itself meanwhile
                found[0].send_signal(sent)
                self.faults.append(fault)


def recipe(root: Path, num_steps: int, engine: str) -> Path:
    """Write it, with model and data of its own; it learns next to nothing, and its reward takes its time."""
    rows = [{"prompt": f"What is {n} plus {n % 7}?", "answer": str(n + n % 7)} for n in range(400)]
    stage: dict[str, Any] = {
        "kind": "grpo", "prompts": write_rows(root / "train.jsonl", rows), "num_steps": num_steps,
        "prompts_per_step": 4, "group_size": 4, "learning_rate": 1e-7, "sampling": {"max_tokens": 24},
        "checkpoint": {"every_steps": 10}, "max_staleness": 1, "sync": {"timeout_s": LIMIT_S},
        "scoring": {"deadline_s": 5, "num_workers": 1},
        "rewards": [{"import_path": "tests.end_to_end.rewards:slow_share_of_digits", "gold_value": None}],
    }  # fmt: skip
    engines: dict[str, Any] = {"type": engine, "max_model_tokens": 64}
    if engine == "vllm":
        engines |= {"request_timeout_s": LIMIT_S}
    model = str(write_tiny_model(root / "base"))
    return write_recipe(
        root / "recipe.yaml", name="r", model=model, seed=5, engine=engines, stages={"grpo": stage},
        stall_timeout_s=LIMIT_S, max_restarts=num_steps,
    )  # fmt: skip


def timed(config: RunConfig, folder: Path, soaked: Soaked) -> float:
    """Bring the run to its end; return the seconds it took."""
    start = time.monotonic()
    with soaked.watching():
        bring(config, folder, Silent(), num_processes=2, limit_s=LIMIT_S)
    return time.monotonic() - start


def soak(root: Path, num_steps: int, seed: int, engine: str = "vllm") -> dict[str, Any]:
    """Run without faults and with them; return what was found."""
    config = load_config(recipe(root, num_steps, engine))
    shared = set(os.listdir("/dev/shm"))
    calm, rough = Soaked(root / "calm", None), Soaked(root / "rough", random.Random(seed))
    calm_s, rough_s = timed(config, root / "calm", calm), timed(config, root / "rough", rough)
    seen = calm.seen | rough.seen
    with suppress(AssertionError):  # which are, is told
        wait_for(lambda: not any(map(is_alive, seen)), "all processes to be gone", 60.0)
    expected, found = prompts_by_step(root / "calm", "grpo"), prompts_by_step(root / "rough", "grpo")
    restarts = [row.get("rollout/engine_restarts", 0.0) for row in metrics(root / "rough", "grpo").values()]
    return {
        "steps": num_steps,
        "seed": seed,
        "calm_s": calm_s,
        "rough_s": rough_s,
        "faults": [asdict(fault) for fault in rough.faults],
        "steps whose prompts differ": [step for step in expected if expected[step] != found.get(step)],
        "prompts beyond those": len(found.keys() - expected.keys()),
        "engine restarts": sum(restarts),
        "attempts": len(list((root / "rough" / "grpo").glob("attempt_*"))),
        "shared memory left": sorted(set(os.listdir("/dev/shm")) - shared),
        "processes left": sorted(process.pid for process in seen if is_alive(process)),
        "most processes at once": dict(rough.most),
        "memory": {name: _growth(observer) for name, observer in (("calm", calm), ("rough", rough))},
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
    }


def _growth(observer: Soaked) -> dict[str, dict[str, float]]:
    """Return by role how the process that lived longest has grown: medians of first and last third of its life."""
    found: dict[str, dict[str, float]] = {}
    for (name, _), looks in observer.looks.items():
        warm = [look for look in looks if look.step >= looks[0].step + WARM_STEPS]
        steps = warm[-1].step - warm[0].step if warm else 0
        if not name or steps < max(LEAST_STEPS, found.get(name, {}).get("steps", 0)):
            continue
        thirds = {"first": warm[: len(warm) // 3], "last": warm[-(len(warm) // 3) :]}
        found[name] = {"steps": steps} | {
            f"{what}_{when}": statistics.median(getattr(look, what) for look in third)
            for what in ("rss_mib", "files")
            for when, third in thirds.items()
        }
    return found


def main(num_steps: str = "500", seed: str = "0", engine: str = "vllm") -> None:
    """Run, print, keep; exit with 1 where something is not as it must be."""
    with tempfile.TemporaryDirectory() as root:
        found = soak(Path(root), int(num_steps), int(seed), engine)
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    console = Console(width=110)
    for key, value in found.items():
        if key not in ("faults", "memory"):
            console.print(f"{key}: {value}", highlight=False)
    faults = Table("step", "role", "sent", title="faults", title_justify="left")
    for fault in found["faults"]:
        faults.add_row(str(fault["step"]), fault["role"], fault["sent"])
    memory = Table(
        "run", "role", "steps", "MiB, first", "MiB, last", "files, first", "files, last",
        title="of each role, the process that lived longest", title_justify="left",
    )  # fmt: skip
    for name, roles in found["memory"].items():
        for each, growth in roles.items():
            memory.add_row(name, each, *(f"{value:.0f}" for value in growth.values()))
    console.print(faults, memory)
    if wrong := [key for key in NONE_OF_THESE if found[key]]:
        sys.exit(f"there must be none: {', '.join(wrong)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
