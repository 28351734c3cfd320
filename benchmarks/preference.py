"""An update of DPO next to TRL's DPOTrainer, on the same pairs: a table, and `benchmarks/results/preference.json`.

    make bench-preference     # or: python -m benchmarks.preference [WORK ...] [--rounds N]

An update is collation, forward, loss, backward, clip and Adam for 16 pairs; the reference is there on both sides. Each
side runs at the fastest of a few micro-batches, which are tried in turn first and kept with the result. TRL's batches
are padded; ours are rows of like length, in which a prompt stands before both of its answers where that is cheaper.
"""

import argparse
import contextlib
import io
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset

from benchmarks.conditions import conditions, keep, kept, machine
from benchmarks.turns import Paired, Side, fastest, in_turn, rounds_from, show, spread
from benchmarks.updates import CPU, VOCAB
from examples.arithmetic.base_model import make_tokenizer
from stages.preference.reference_cache import ReferenceCache
from stages.preference.trainer import PairTrainer

RESULT = "preference.json"
PAIRS, ROUNDS, TRIED = 16, 9, 3
TRL_PAIRS, OUR_TOKENS = (1, 2, 4, 8), (512, 1024, 2048)
"""Micro-batches that are tried before the fastest one of each side is measured: pairs of TRL's, tokens of ours."""
AT_LEAST = {"prefix_long": "1.5 x", "prefix_short": "1.1 x"}

IN_WORDS = {"prompt": "a", "chosen": "b", "rejected": "c"}
IN_TOKENS = {"prompt_ids": [2], "chosen_ids": [3], "rejected_ids": [4], "chosen_mask": [1], "rejected_mask": [1]}
"""What the trainers are made with, and never learn: TRL's takes text, ours what was made tokens before."""

Update = Callable[[list[dict[str, Any]]], float]
"""Takes one optimizer step on some pairs; returns the loss."""


def heavy_tailed(draw: random.Random, mean: int) -> int:
    """Return a length from a quarter of the mean to four times it."""
    return min(4 * mean, mean // 4 + int(draw.expovariate(1 / (0.8 * mean))))


WORKS: Mapping[str, tuple[int, int]] = {"prefix_long": (256, 64), "prefix_short": (32, 128)}
"""Mean tokens of a prompt, and of an answer."""


def pairs_of(work: str, seed: int) -> list[dict[str, Any]]:
    """Return pairs of random tokens, all learned, with the log-probabilities that a fresh reference would give them."""
    draw = random.Random(seed)
    prompt_mean, answer_mean = WORKS[work]

    def tokens(length: int) -> list[int]:
        return [draw.randrange(2, VOCAB) for _ in range(length)]

    pairs = []
    for _ in range(PAIRS):
        pair: dict[str, Any] = {"prompt_ids": tokens(draw.randint(prompt_mean // 2, prompt_mean * 3 // 2))}
        for side in ("chosen", "rejected"):
            pair[f"{side}_ids"] = tokens(heavy_tailed(draw, answer_mean))
            pair[f"{side}_mask"] = [1] * len(pair[f"{side}_ids"])
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
            max_length=4096,  # longer than any
            report_to="none",
        ),
        train_dataset=Dataset.from_list([IN_TOKENS if kind is PairTrainer else IN_WORDS] * 2),
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


def our_update(row_tokens: int) -> Update:
    """Return our step, in rows of so many tokens."""
    return update_by(PairTrainer, num_pairs=PAIRS, row_tokens=row_tokens)


def trl_update(num_pairs: int) -> Update:
    """Return TRL's step, in micro-batches of so many pairs."""
    return update_by(trl.DPOTrainer, num_pairs=num_pairs)


def best_sizes(work: str) -> tuple[int, int, dict[str, float]]:
    """Return our tokens and TRL's pairs a micro-batch that are the fastest, and the seconds of all that were tried."""
    updates = {f"ours, {size} tokens": our_update(size) for size in OUR_TOKENS}
    updates |= {f"trl, {size} pairs": trl_update(size) for size in TRL_PAIRS}
    sides = [_side(name, work, update, first_seed=100) for name, update in updates.items()]
    values = in_turn(sides, num_rounds=TRIED)
    return (
        fastest({size: values[f"ours, {size} tokens"] for size in OUR_TOKENS}),
        fastest({size: values[f"trl, {size} pairs"] for size in TRL_PAIRS}),
        {name: spread(seconds).median for name, seconds in values.items()},
    )


def measure(work: str, num_rounds: int) -> dict[str, Any]:
    """Time both sides in turn, each round on fresh pairs; their losses must be the same."""
    our_tokens, their_pairs, tried = best_sizes(work)
    losses: dict[str, list[float]] = {"ours": [], "trl": []}
    updates = {"ours": our_update(our_tokens), "trl": trl_update(their_pairs)}
    values = in_turn(
        [_side(name, work, update, losses=losses[name]) for name, update in updates.items()], num_rounds=num_rounds
    )
    difference = max(abs(own - their) for own, their in zip(losses["ours"], losses["trl"], strict=True))
    if difference > 1e-4:  # all steps of Adam apart, on weights that were the same
        raise RuntimeError(f"{work}: the two sides learn differently; their losses differ by {difference:.2g}")
    return {
        **Paired(values=values, unit="s an update", ratio_of=("trl", "ours")).to_json(),
        "our_micro_batch_tokens": our_tokens,
        "trl_micro_batch_pairs": their_pairs,
        "tried_s": tried,
        "largest_difference_of_losses": difference,
        "conditions": conditions(),
    }


def _side(name: str, work: str, update: Update, *, first_seed: int = 0, losses: list[float] | None = None) -> Side:
    """Time the update on the pairs of each round's seed, and keep its losses where a list is given."""

    def seconds(number: int) -> float:
        pairs = pairs_of(work, first_seed + number)
        start = time.perf_counter()
        loss = update(pairs)
        spent = time.perf_counter() - start
        if losses is not None:
            losses.append(loss)
        return spent

    return Side(name=name, measure=seconds)


def main() -> None:
    """Measure, print, keep; works that are not asked for keep their last figures."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preference")
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"of {', '.join(WORKS)}; without, all")
    rounds_from(parser, default=ROUNDS)
    arguments = parser.parse_args()
    if unknown := [work for work in arguments.works if work not in WORKS]:
        parser.error(f"there is no {unknown[0]!r}; works are {', '.join(WORKS)}")
    rows = {}
    for work in arguments.works or WORKS:
        with contextlib.redirect_stdout(io.StringIO()):
            rows[work] = measure(work, arguments.num_rounds)
        keep(RESULT, {**kept(RESULT), work: rows[work]})
    show(f"DPO, {machine(conditions())}", rows, AT_LEAST)


if __name__ == "__main__":
    main()
