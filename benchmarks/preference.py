"""An update of DPO beside TRL's DPOTrainer, on the same pairs: a table, and `benchmarks/results/preference.json`.

    make bench-preference

An update is collation, forward, loss, backward, clip and Adam for 16 pairs; the reference is there on both sides. Each
side runs at the best of a few micro-batches, which are printed. TRL's batches are padded; ours are rows of like length,
in which a prompt stands before both of its answers where that is cheaper.
"""

import contextlib
import io
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from rich.console import Console
from rich.table import Table

from benchmarks.learner import CPU, VOCAB
from examples.arithmetic.base_model import make_tokenizer
from stages.preference.reference_cache import ReferenceCache
from stages.preference.trainer import PairTrainer

RESULT = Path(__file__).parent / "results" / "preference.json"
PAIRS, WARM_UP, RUNS, TRIED = 16, 1, 7, 3
TRL_PAIRS, OUR_TOKENS = (1, 2, 4), (512, 1024, 2048)
"""Micro-batches that are tried before the better one of each side is measured: pairs of TRL's, tokens of ours."""
AT_LEAST = {"prefix_long": "1.5 x", "prefix_short": "1.1 x"}

Update = Callable[[list[dict[str, Any]]], float]
"""Takes one optimizer step on some pairs; returns the loss."""


def heavy_tailed(draw: random.Random, mean: int) -> int:
    """Return a length from a quarter of the mean to four times it."""
    return min(4 * mean, mean // 4 + int(draw.expovariate(1 / (0.8 * mean))))


WORKS: Mapping[str, tuple[int, int]] = {"prefix_long": (256, 64), "prefix_short": (32, 128)}
"""Mean tokens of a prompt, and of an answer."""


def pairs_of(work: str, seed: int) -> list[dict[str, Any]]:
    """Return pairs of random tokens, with the reference's log-probabilities that a fresh model would give them."""
    draw = random.Random(seed)
    prompt_mean, answer_mean = WORKS[work]

    def tokens(length: int) -> list[int]:
        return [draw.randrange(2, VOCAB) for _ in range(length)]

    pairs = []
    for _ in range(PAIRS):
        pair: dict[str, Any] = {"prompt_ids": tokens(draw.randint(prompt_mean // 2, prompt_mean * 3 // 2))}
        for side in ("chosen", "rejected"):
            pair[f"{side}_ids"] = tokens(heavy_tailed(draw, answer_mean))
            pair[f"ref_{side}_logps"] = -9.0 * len(pair[f"{side}_ids"])
        pairs.append(pair)
    return pairs


def update_by(kind: type, *, num_pairs: int, row_tokens: int | None = None) -> Update:
    """Return a trainer's step in micro-batches of so many pairs."""
    folder = tempfile.mkdtemp()
    model = CPU.make_model()
    own = {"precision": "float32", "row_tokens": row_tokens, "reference": ReferenceCache(Path(folder), {})}
    trainer = kind(
        model=model,
        args=trl.DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=num_pairs,
            precompute_ref_log_probs=True,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            max_length=None,
            report_to="none",
        ),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2),
        processing_class=make_tokenizer(["a"]),
        **(own if kind is PairTrainer else {}),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    model.train()

    def update(pairs: list[dict[str, Any]]) -> float:
        total = 0.0
        for start in range(0, PAIRS, num_pairs):
            loss = trainer.compute_loss(model, trainer.data_collator(pairs[start : start + num_pairs]))
            loss = loss * num_pairs / PAIRS
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return total

    return update


def best(work: str, updates: Mapping[int, Callable[[], Update]]) -> int:
    """Return the size whose update is the fastest."""
    seconds = {}
    for size, make in updates.items():
        update = make()
        seconds[size] = statistics.median(_timed(update, pairs_of(work, 100 + run))[0] for run in range(TRIED))
    shown = ", ".join(f"{size}: {found:.2f}" for size, found in seconds.items())
    print(f"{work}: micro-batches tried, seconds: {shown}", file=sys.stderr)
    return min(seconds, key=lambda size: seconds[size])


def measure(work: str) -> dict[str, Any]:
    """Time both sides turn about on fresh pairs; their losses must be the same."""
    theirs = best(work, {size: partial(update_by, trl.DPOTrainer, num_pairs=size) for size in TRL_PAIRS})
    whole = partial(update_by, PairTrainer, num_pairs=PAIRS)
    ours = best(work, {size: partial(whole, row_tokens=size) for size in OUR_TOKENS})
    sides = {
        "ours": update_by(PairTrainer, num_pairs=PAIRS, row_tokens=ours),
        "trl": update_by(trl.DPOTrainer, num_pairs=theirs),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    differences = []
    for run in range(WARM_UP + RUNS):
        losses = {}
        for side, update in sides.items():
            spent, losses[side] = _timed(update, pairs_of(work, run))
            seconds[side] += [spent] if run >= WARM_UP else []
        differences.append(abs(losses["ours"] - losses["trl"]))
    if max(differences) > 1e-4:  # eight steps of Adam apart, on weights that were the same
        raise RuntimeError(f"{work}: the two sides learn differently; their losses differ by {max(differences):.2g}")
    return {
        "ratio": statistics.median(seconds["trl"]) / statistics.median(seconds["ours"]),
        "ours": statistics.median(seconds["ours"]),
        "trl": statistics.median(seconds["trl"]),
        "unit": "s an update",
        "runs": RUNS,
        "our_micro_batch_tokens": ours,
        "trl_micro_batch_pairs": theirs,
        "largest_difference_of_losses": max(differences),
    }


def _timed(update: Update, pairs: list[dict[str, Any]]) -> tuple[float, float]:
    start = time.perf_counter()
    loss = update(pairs)
    return time.perf_counter() - start, loss


def main() -> None:
    """Measure, print, keep."""
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        found: dict[str, Any] = {work: measure(work) for work in WORKS}
    found["hardware"] = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    table = Table(title=f"DPO, {found['hardware']}; medians", title_justify="left")
    for heading in ("", "ours", "TRL's", "", "ratio", "wanted"):
        table.add_column(heading)
    for work in WORKS:
        row = found[work]
        table.add_row(
            work, f"{row['ours']:.3g}", f"{row['trl']:.3g}", row["unit"], f"{row['ratio']:.3g}", AT_LEAST[work]
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
