"""Pairs and scored answers, from an earlier stage or from outside."""

from collections.abc import Sequence

from stages import artifact
from stages.base import StageContext
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


def _file_of(context: StageContext, name: str) -> DataSetConfig:
    folder = context.inputs["pairs"]
    artifact.read(folder, "pairs")
    return DataSetConfig(path=str(folder / name))
