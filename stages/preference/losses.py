"""The offset of ODPO and the margin of SimPO, and how they enter DPO.

DPO's loss is -log sigmoid(beta * (policy margin - reference margin)). ODPO subtracts an offset inside the sigmoid:
-log sigmoid(beta * (policy margin - reference margin) - offset). Since only the difference counts, that *is* DPO with
the reference's log-probability of the chosen answer raised by offset / beta. So ODPO needs no loss of its own:
TRL's precomputed reference is shifted once, and an offset of zero leaves DPO to the last bit. In TRL's metrics the
chosen answer's reward, the margin and the accuracy are then those beyond the offset, and named so. A loss without a
reference is DPO with one that gives every answer a log-probability of zero.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stages.base import StageError
from stages.data.rows import Row
from stages.preference.loss_config import LossOfPairs, ODPOLoss, PreferenceLoss, SimPOLoss


def pair_offsets(pairs: Sequence[Mapping[str, Any]], loss: PreferenceLoss) -> list[float]:
    """Return the offset of each pair, in nats; zero under DPO. Raises StageError for pairs that teach nothing."""
    reads_scores = isinstance(loss, ODPOLoss)
    return offsets([pair["score_chosen"] - pair["score_rejected"] if reads_scores else 0.0 for pair in pairs], loss)


def refuse_equal_sides(pairs: Sequence[Mapping[str, Any]]) -> None:
    """Raise StageError where a pair has the same answer on both sides."""
    equal = [number for number, pair in enumerate(pairs, start=1) if pair["chosen"] == pair["rejected"]]
    if equal:
        raise StageError(f"{len(equal)} pairs have the same answer on both sides (pair {equal[0]} first); drop them")


def require_good(pairs: Sequence[Mapping[str, Any]], loss: PreferenceLoss) -> None:
    """Raise StageError for pairs that teach nothing under this loss."""
    refuse_equal_sides(pairs)
    pair_offsets(pairs, loss)


def only_good(pairs: Sequence[Row], loss: PreferenceLoss) -> list[Row]:
    """Return the pairs that teach something under this loss. Raises StageError where none does."""

    def is_good(pair: Row) -> bool:
        try:
            require_good([pair], loss)
        except StageError:
            return False
        return True

    found = [pair for pair in pairs if is_good(pair)]
    if not found:
        raise StageError(f"none of {len(pairs)} pairs teaches anything: equal sides, or scores that make no offset")
    return found


def raise_of_chosen(offset: float, num_tokens: int, loss: LossOfPairs) -> float:
    """Return by how many nats more the reference gives a chosen answer of so many tokens, so that DPO has an offset."""
    return offset / loss.beta * (num_tokens if isinstance(loss, SimPOLoss) else 1)


def offsets(gaps: Sequence[float], loss: PreferenceLoss) -> list[float]:
    """Return what pairs with these score gaps must be apart by, in nats: SimPO's gamma, ODPO's alpha * f(gap), or 0.

    Of ODPO's (Amini et al. 2024, arXiv 2402.10571): an inverted pair (negative gap) is refused under either f. A gap of
    zero is plain DPO when f is linear; under log its offset would be minus infinity, a pair that teaches nothing, so it
    is refused. Under log a gap below 1 has a negative offset, which would reward a *smaller* margin than DPO asks for:
    refused unless the recipe allows it.

    Raises StageError with the numbers of the first offending pairs.
    """
    if isinstance(loss, SimPOLoss):
        return [loss.gamma] * len(gaps)
    if not isinstance(loss, ODPOLoss):
        return [0.0] * len(gaps)
    _refuse(gaps, lambda gap: not math.isfinite(gap), "a score that is not a finite number", "mend or drop the row")
    _refuse(gaps, lambda gap: gap < 0, "a rejected answer that outscores its chosen one", "swap or drop the two")
    if loss.scale == "linear":
        return [loss.alpha * gap for gap in gaps]
    if loss.alpha == 0:
        return [0.0] * len(gaps)
    _refuse(
        gaps, lambda gap: gap == 0, "equal scores, whose log gap is minus infinity", "drop it, or use scale: linear"
    )
    if not loss.allow_negative_offset:
        _refuse(
            gaps, lambda gap: gap < 1, "a score gap below 1, whose log is negative",
            "scale the scores up, use scale: linear, or set allow_negative_offset: true",
        )  # fmt: skip
    return [loss.alpha * math.log(gap) for gap in gaps]


def _refuse(gaps: Sequence[float], wrong: Callable[[float], bool], what: str, way_out: str) -> None:
    rows = [number for number, gap in enumerate(gaps, start=1) if wrong(gap)]
    if rows:
        listed = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        raise StageError(f"{len(rows)} of {len(gaps)} pairs have {what} (pair {listed}); {way_out}")
