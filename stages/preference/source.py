"""Pairs and scored answers, from an earlier stage or from outside."""

import hashlib
import json
import random
from collections.abc import Sequence

from stages import artifact
from stages.base import StageContext, StageError
from stages.data.config import DataSetConfig
from stages.data.rows import Row, load_rows
from stages.preference.config import PairsSource, StageData
from stages.preference.losses import refuse_equal_sides


def load_pairs(source: PairsSource, context: StageContext, columns: Sequence[str]) -> list[Row]:
    """Return rows with `prompt`, `chosen`, `rejected` and other columns. Raises before any model is loaded."""
    if isinstance(source, StageData):
        source = _file_of(context, "pairs.jsonl")
    pairs = load_rows(source, columns)
    refuse_equal_sides(pairs)
    return pairs


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
