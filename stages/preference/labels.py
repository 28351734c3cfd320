"""Good answers and bad ones: which they are, and what they weigh. Imports nothing heavy."""

from collections.abc import Iterator, Sequence

from stages.base import StageError
from stages.data.rows import Row, asked_of, with_columns
from stages.preference.loss_config import KTOLoss, Labelling


def from_pairs(pairs: Sequence[Row]) -> Iterator[Row]:
    """Yield each pair as a good answer and a bad one."""
    for pair in pairs:
        for side, label in (("chosen", True), ("rejected", False)):
            yield with_columns(asked_of(pair), completion=pair[side], label=label)


def by_score(rows: Sequence[Row], labelling: Labelling) -> Iterator[Row]:
    """Yield good answers, which have ended their turn, and bad ones; those between are left out."""
    bad_below = labelling.good_from if labelling.bad_below is None else labelling.bad_below
    for row in rows:
        if row["score"] < bad_below:
            yield with_columns(row, label=False)
        elif row["score"] >= labelling.good_from and row["finished"]:
            yield with_columns(row, label=True)


def require_both(rows: Sequence[Row]) -> None:
    """Raise StageError where a label is none, and where all answers are of one class."""
    wrong = [number for number, row in enumerate(rows, start=1) if row["label"] not in (True, False)]
    if wrong:
        value = rows[wrong[0] - 1]["label"]
        raise StageError(f"{len(wrong)} labels are neither true nor false (row {wrong[0]}: {value!r:.40})")
    good = sum(bool(row["label"]) for row in rows)
    if not 0 < good < len(rows):
        raise StageError(
            f"all {len(rows)} answers are {'good' if good else 'bad'}; KTO learns from both. Look at `label`, or at "
            "data.answers.good_from"
        )


def class_weights(rows: Sequence[Row], loss: KTOLoss) -> tuple[float, float]:
    """Return the weights of good and bad answers; what the recipe leaves open makes both classes weigh the same.

    The rarer class is weighed up and never the other down, as in section 4.2 of the paper.
    """
    good = sum(bool(row["label"]) for row in rows)
    bad = len(rows) - good
    desirable, undesirable = max(1.0, bad / good), max(1.0, good / bad)
    return (
        desirable if loss.desirable_weight is None else loss.desirable_weight,
        undesirable if loss.undesirable_weight is None else loss.undesirable_weight,
    )
