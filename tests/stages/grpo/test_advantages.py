import pytest

from stages.grpo.advantages import group_normalized
from stages.grpo.config import GroupNormalized

CONFIG = GroupNormalized(epsilon=1e-4)


def test_hand_computed_values() -> None:
    # rewards 1, 0, 0, 1: mean 0.5, sample std sqrt(4 * 0.25 / 3) = 0.57735; 0.5 / 0.57745 = 0.865876
    assert group_normalized([1.0, 0.0, 0.0, 1.0], CONFIG) == pytest.approx(
        [0.865876, -0.865876, -0.865876, 0.865876], abs=1e-6
    )


def test_equal_rewards_have_no_signal_even_when_rounding_makes_them_differ() -> None:
    assert group_normalized([0.1 + 0.2, 0.3, 0.3], CONFIG) is None


def test_unscorable_answers_are_no_part_of_the_statistics() -> None:
    # of 2, None, 0: mean 1, std sqrt(2) = 1.414214; 1 / 1.414314 = 0.707057
    assert group_normalized([2.0, None, 0.0], CONFIG) == [
        pytest.approx(0.707057, abs=1e-6), None, pytest.approx(-0.707057, abs=1e-6),
    ]  # fmt: skip


def test_one_scored_answer_has_nothing_to_be_compared_with() -> None:
    assert group_normalized([1.0, None, None], CONFIG) is None
