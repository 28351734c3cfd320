"""GRPO next to TRL's GRPOTrainer, key by key: a table, and `benchmarks/results/rl.json`, or `rl-gpu.json`.

    make bench-rl            # or: python -m benchmarks.rl cpu [KEY ...] [--rounds N]
    make bench-rl-gpu        # the update alone, of a larger model on an NVIDIA GPU

Each key runs in processes of its own, both sides in turn. The learner's works are in `benchmarks.learner`, whole steps
next to TRL's in `benchmarks.whole_step`, and next to our own in `benchmarks.steps`. TRL runs at the fastest of a few
micro-batch sizes, which are kept with the result.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from benchmarks.conditions import conditions, keep, kept, machine
from benchmarks.turns import Paired, Side, in_turn, rounds_from, show

AT_LEAST = {
    "learner_shared_prompt": "4.0 x",
    "learner_uniform": "1.1 x",
    "step_heavy_tail": "4.0 x",
    "learner_memory": "at most 0.4 x",
    "async_over_sync": "1.4 x",
}
SYNC_SHARE = "wanted at most 0.05"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is measured under one key."""

    num_rounds: int
    """Where the command line does not say: fewer where a round takes minutes."""
    measure: Callable[[int], dict[str, Any]]
    """Takes the number of rounds."""


def learner(setting: str, work: str, num_rounds: int) -> dict[str, Any]:
    """Time the update alone, each side at its fastest micro-batches."""
    sizes = _sizes(setting, work)
    found = _ask("benchmarks.learner", "measure", setting, work, sizes["ours"], sizes["trl"], num_rounds)
    return {**found, "tried_s": sizes["tried_s"]}


def learner_memory(setting: str, num_rounds: int) -> dict[str, Any]:
    """Compare the most memory that an update takes, each side at its fastest micro-batches, in a process a round."""
    sizes = _sizes(setting, "shared_prompt")

    def side(name: str) -> Side:
        command = ("benchmarks.learner", "memory", setting, "shared_prompt", name, sizes[name])
        return Side(name=name, measure=lambda number: float(_ask(*command)["mib"]))

    values = in_turn([side("ours"), side("trl")], num_rounds=num_rounds, num_warm_up=0)
    paired = Paired(values=values, unit="MiB beyond model and optimizer", ratio_of=("ours", "trl"))
    return {
        **paired.to_json(),
        "our_micro_batch_tokens": sizes["ours"],
        "trl_micro_batch_size": sizes["trl"],
        "conditions": conditions(),
    }


def step_heavy_tail(num_rounds: int) -> dict[str, Any]:
    """Time whole steps with generation, TRL's at the micro-batches by which its update is the fastest."""
    return _ask("benchmarks.whole_step", _sizes("cpu", "shared_prompt")["trl"], "--rounds", num_rounds)


def asynchronous(num_rounds: int) -> dict[str, Any]:
    """Time our steps one version ahead against strictly on policy."""
    return _ask("benchmarks.steps", "--rounds", num_rounds)


def works(setting: str) -> dict[str, Work]:
    """Return what is measured, by key."""
    learners = {
        "learner_shared_prompt": Work(num_rounds=7, measure=lambda num: learner(setting, "shared_prompt", num)),
        "learner_uniform": Work(num_rounds=7, measure=lambda num: learner(setting, "uniform", num)),
        "learner_memory": Work(num_rounds=3, measure=lambda num: learner_memory(setting, num)),
    }
    whole_steps = {
        "step_heavy_tail": Work(num_rounds=5, measure=step_heavy_tail),
        "async_over_sync": Work(num_rounds=3, measure=asynchronous),
    }
    return learners if setting == "gpu" else {**learners, **whole_steps}


@cache
def _sizes(setting: str, work: str) -> Mapping[str, Any]:
    return _ask("benchmarks.learner", "sizes", setting, work)


def _ask(module: str, *arguments: object) -> dict[str, Any]:
    """Run a benchmark in a process of its own, and return what it prints last."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure, print, keep; keys that are not asked for keep their last figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rl")
    parser.add_argument("setting", choices=["cpu", "gpu"])
    parser.add_argument("keys", nargs="*", metavar="KEY", help=f"of {', '.join(works('cpu'))}; without, all")
    rounds_from(parser, default=None)
    arguments = parser.parse_args()
    measures = works(arguments.setting)
    if unknown := [key for key in arguments.keys if key not in measures]:
        parser.error(f"{unknown[0]!r} is not measured on {arguments.setting}; keys are {', '.join(measures)}")
    file = "rl.json" if arguments.setting == "cpu" else "rl-gpu.json"
    rows = {}
    for key in arguments.keys or measures:
        rows[key] = measures[key].measure(arguments.num_rounds or measures[key].num_rounds)
        keep(file, {**kept(file), key: rows[key]})
    show(f"GRPO, {machine(conditions())}", rows, AT_LEAST)
    if "async_over_sync" in rows:
        print(f"share of weight sync in a step on policy: {rows['async_over_sync']['sync_share']:.3f}, {SYNC_SHARE}")


if __name__ == "__main__":
    main()
