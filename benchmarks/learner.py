"""The update alone, ours and TRL's in turn: how fast, and in how much memory.

    python -m benchmarks.learner sizes SETTING WORK                                 # fastest micro-batches, as JSON
    python -m benchmarks.learner measure SETTING WORK OURS_TOKENS TRL_SIZE ROUNDS   # times, as JSON
    python -m benchmarks.learner memory SETTING WORK SIDE SIZE                      # most memory of an update, as JSON

`benchmarks.rl` calls it, each command in a process of its own. SETTING is `cpu`, a model of 5 M parameters, or `gpu`,
one of the shape of Qwen2.5-0.5B in bfloat16 on an NVIDIA GPU; the updates are in `benchmarks.updates`.
"""

import contextlib
import gc
import io
import json
import math
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.conditions import conditions
from benchmarks.turns import Paired, Side, fastest, in_turn, spread
from benchmarks.updates import SETTINGS, Setting, Update, our_updates, trl_updates
from rollout.types import RolloutGroup

WARM_UP, TRIED = 2, 3
"""Updates of each side that are not counted, in which kernels are chosen and compiled; rounds that choose a size."""


def best_sizes(setting: Setting, work: str) -> dict[str, Any]:
    """Return our tokens and TRL's completions a micro-batch that are the fastest of a few, tried in turn."""
    ours, theirs = our_updates(setting, setting.our_tokens), trl_updates(setting, setting.trl_sizes)
    sides = [_side(f"ours, {size} tokens", setting, work, update) for size, update in ours.items()]
    sides += [_side(f"trl, {size} answers", setting, work, update) for size, update in theirs.items()]
    values = in_turn(sides, num_rounds=TRIED, num_warm_up=WARM_UP)
    return {
        "ours": fastest({size: values[f"ours, {size} tokens"] for size in ours}),
        "trl": fastest({size: values[f"trl, {size} answers"] for size in theirs}),
        "tried_s": {name: spread(seconds).median for name, seconds in values.items()},
    }


def measure(setting: Setting, work: str, our_tokens: int, trl_size: int, num_rounds: int) -> dict[str, Any]:
    """Time both sides in turn, each round on fresh answers."""
    ours, theirs = our_updates(setting, [our_tokens]), trl_updates(setting, [trl_size])
    sides = [_side("ours", setting, work, ours[our_tokens]), _side("trl", setting, work, theirs[trl_size])]
    values = in_turn(sides, num_rounds=num_rounds, num_warm_up=WARM_UP)
    rounds = [setting.groups_of(work, number) for number in range(WARM_UP, WARM_UP + num_rounds)]
    parameters = sum(parameter.numel() for parameter in setting.make_model().parameters())
    tokens = sum(len(r.completion.token_ids) for groups in rounds for group in groups for r in group.rollouts)
    flops = sum(_flops(setting, groups, parameters) for groups in rounds)
    return {
        **Paired(values=values, unit="s an update", ratio_of=("trl", "ours")).to_json(),
        "our_micro_batch_tokens": our_tokens,
        "trl_micro_batch_size": trl_size,
        **{f"{side}_answer_tokens_per_s": tokens / sum(seconds) for side, seconds in values.items()},
        **{f"{side}_model_tflops_per_s": flops / sum(seconds) / 1e12 for side, seconds in values.items()},
        "conditions": conditions(),
    }


def memory(setting: Setting, work: str, side: str, size: int) -> dict[str, float]:
    """Return the most memory that an update takes beyond what lay there before, in MiB: the largest of three."""
    update = (our_updates if side == "ours" else trl_updates)(setting, [size])[size]
    update(setting.groups_of(work, 0))  # the optimizer's state is there
    peaks = []
    for number in range(1, 4):
        groups = setting.groups_of(work, number)
        gc.collect()
        before = _begin_peak(setting)
        update(groups)
        peaks.append((_peak(setting) - before) / 2**20)
    return {"mib": max(peaks)}


def _side(name: str, setting: Setting, work: str, update: Update) -> Side:
    return Side(name=name, measure=lambda number: _seconds(update, setting.groups_of(work, number)))


def _seconds(update: Update, groups: list[RolloutGroup]) -> float:
    """Return the seconds that it takes, the GPU's work included; endless where it does not fit into the GPU."""
    start = time.perf_counter()
    try:
        update(groups)
    except torch.cuda.OutOfMemoryError:
        return math.inf
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _flops(setting: Setting, groups: Sequence[RolloutGroup], parameters: int) -> float:
    """Return what forward and backward passes of the answers need, each with its prompt alone: 6 a parameter and token,
    and 12 a pair of tokens that see each other and unit of width in each layer. What is computed twice counts once."""
    width = setting.shape["num_attention_heads"] * setting.shape["head_dim"] * setting.shape["num_hidden_layers"]
    lengths = [len(g.prompt.token_ids) + len(r.completion.token_ids) for g in groups for r in g.rollouts]
    return sum(6.0 * parameters * length + 12.0 * width * length**2 / 2 for length in lengths)


def _begin_peak(setting: Setting) -> int:
    """Have the peak of memory start over; return what is in use, in bytes."""
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    Path("/proc/self/clear_refs").write_text("5")
    return 1024 * _status("VmRSS")


def _peak(setting: Setting) -> int:
    return torch.cuda.max_memory_allocated() if setting.device == "cuda" else 1024 * _status("VmHWM")


def _status(name: str) -> int:
    """Return a figure of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main(command: str, setting_name: str, work: str, *arguments: str) -> None:
    """Do what the command line says; print JSON."""
    setting = SETTINGS[setting_name]
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        if command == "sizes":
            found: Mapping[str, Any] = best_sizes(setting, work)
        elif command == "measure":
            found = measure(setting, work, *map(int, arguments))
        else:
            found = memory(setting, work, arguments[0], int(arguments[1]))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
