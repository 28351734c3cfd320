import math

import pytest

from stages.base import StageError
from stages.preference.loss_config import DPOLoss, ODPOLoss
from stages.preference.losses import offsets, only_good, require_good


def test_the_paper_s_log_offset_by_hand() -> None:
    # alpha log(gap): 2 log 1 = 0, 2 log e = 2, 2 log 10 = 4.605170
    loss = ODPOLoss(alpha=2.0, scale="log")
    assert offsets([1.0, math.e, 10.0], loss) == pytest.approx([0.0, 2.0, 4.605170])


def test_the_linear_offset_by_hand_and_none_at_a_zero_gap() -> None:
    assert offsets([0.75, 0.0], ODPOLoss(alpha=2.0, scale="linear")) == [1.5, 0.0]


def test_alpha_zero_is_plain_dpo_whatever_the_gap() -> None:
    assert offsets([0.1, 0.0], ODPOLoss(alpha=0.0, scale="log")) == [0.0, 0.0]


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_inverted_pairs_are_refused_by_number(scale: str) -> None:
    with pytest.raises(StageError, match=r"1 of 2 pairs have a rejected answer that outscores.*\(pair 2\); swap"):
        offsets([1.0, -1.0], ODPOLoss.model_validate({"scale": scale, "allow_negative_offset": True}))


def test_a_zero_gap_has_no_log() -> None:
    with pytest.raises(StageError, match="equal scores, whose log gap is minus infinity"):
        offsets([0.0], ODPOLoss(scale="log", allow_negative_offset=True))


def test_a_gap_below_one_is_refused_under_log_unless_allowed() -> None:
    with pytest.raises(StageError, match="a score gap below 1, whose log is negative"):
        offsets([0.5], ODPOLoss(scale="log"))
    # log 0.5 = -0.693147
    assert offsets([0.5], ODPOLoss(scale="log", allow_negative_offset=True)) == pytest.approx([-0.693147])


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(StageError, match="not a finite number"):
        offsets([math.nan], ODPOLoss(scale="linear"))


PAIRS = [
    {"chosen": "a", "rejected": "b", "score_chosen": 3.0, "score_rejected": 1.0},
    {"chosen": "a", "rejected": "a", "score_chosen": 3.0, "score_rejected": 1.0},
    {"chosen": "a", "rejected": "b", "score_chosen": 1.0, "score_rejected": 2.0},
    {"chosen": "a", "rejected": "b", "score_chosen": 1.5, "score_rejected": 1.0},
]


def test_only_pairs_that_teach_something_are_kept_where_that_is_allowed() -> None:
    assert only_good(PAIRS, DPOLoss()) == [PAIRS[0], *PAIRS[2:]]
    assert only_good(PAIRS, ODPOLoss(scale="linear")) == [PAIRS[0], PAIRS[3]]
    assert only_good(PAIRS, ODPOLoss()) == [PAIRS[0]]
    with pytest.raises(StageError, match="none of 1 pairs teaches anything"):
        only_good(PAIRS[1:2], DPOLoss())


@pytest.mark.parametrize(
    ("loss", "says"), [(DPOLoss(), r"same answer on both sides \(pair 2 first\)"), (ODPOLoss(), "both sides")]
)
def test_bad_pairs_are_refused_by_number(loss: DPOLoss | ODPOLoss, says: str) -> None:
    with pytest.raises(StageError, match=says):
        require_good(PAIRS, loss)
