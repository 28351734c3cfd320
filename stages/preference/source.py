"""Pairs and scored answers, from an earlier stage or from outside."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from stages import artifact
from stages.base import StageContext, StageError
from stages.data.config import DataSetConfig
from stages.data.rows import Row, load_rows
from stages.preference.config import PairedConfig, StageData
from stages.preference.loss_config import PreferenceLoss
from stages.preference.losses import only_good, require_good


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Pairs to learn from."""

    rows: list[Row]
    """`prompt`, `chosen`, `rejected` and what else was asked for."""
    num_dropped: int
    """How many others teach nothing."""


def load_pairs(config: PairedConfig, context: StageContext, columns: Sequence[str], loss: PreferenceLoss) -> Pairs:
    """Return the stage's pairs, bad ones left out where the recipe allows it. Raises before any model is loaded."""
    data = _file_of(context, "pairs.jsonl") if isinstance(config.data, StageData) else config.data
    rows = load_rows(data, columns)
    if config.bad_pairs == "refuse":
        require_good(rows, loss)
        return Pairs(rows=rows, num_dropped=0)
    kept = only_good(rows, loss)
    return Pairs(rows=kept, num_dropped=len(rows) - len(kept))


def load_answers(context: StageContext) -> list[Row]:
    """Return every scored answer of the stage that made the pairs: `prompt`, `completion`, `score`, `finished`."""
    return load_rows(_file_of(context, "answers.jsonl"), ["prompt", "completion", "score", "finished"])


def split(rows: Sequence[Row], fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Return rows to learn from and rows kept apart; all rows of a prompt are on one side.

    Raises StageError where there are too few prompts for two sides.
    """
    names = [hashlib.sha256(json.dumps(row["prompt"]).encode()).hexdigest() for row in rows]
    prompts = sorted(set(names))
    num = round(fraction * len(prompts))
    if not 0 < num < len(prompts):
        lacking = "learn from" if num else "keep apart"
        raise StageError(
            f"a share of {fraction:g} of {len(prompts)} prompts leaves nothing to {lacking}; give more rows, or "
            "change held_out"
        )
    apart = set(random.Random(seed).sample(prompts, num))
    sides: tuple[list[Row], list[Row]] = ([], [])
    for name, row in zip(names, rows, strict=True):
        sides[name in apart].append(row)
    return sides


def _file_of(context: StageContext, name: str) -> DataSetConfig:
    folder = context.inputs["pairs"]
    artifact.read(folder, "pairs")
    return DataSetConfig(path=str(folder / name))
