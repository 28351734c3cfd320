import statistics

import pytest
from pydantic import ValidationError

from stages.grpo.advantages import advantages
from stages.grpo.loss_config import BatchNormalized, GreedyBaseline, GroupNormalized, LeaveOneOut, MeanOnly
from tests.stages.grpo.groups import stage

CONFIG = GroupNormalized(epsilon=1e-4)


def test_hand_computed_values() -> None:
    # rewards 1, 0, 0, 1: mean 0.5, sample std sqrt(4 * 0.25 / 3) = 0.57735; 0.5 / 0.57745 = 0.865876
    [found] = advantages([[1.0, 0.0, 0.0, 1.0]], CONFIG)
    assert found == pytest.approx([0.865876, -0.865876, -0.865876, 0.865876], abs=1e-6)


@pytest.mark.parametrize("config", [CONFIG, BatchNormalized()])
def test_equal_rewards_have_no_signal_even_when_rounding_makes_them_differ(config) -> None:
    assert advantages([[0.1 + 0.2, 0.3, 0.3]], config) == [None]


def test_unscorable_answers_are_no_part_of_the_statistics() -> None:
    # of 2, None, 0: mean 1, std sqrt(2) = 1.414214; 1 / 1.414314 = 0.707057
    assert advantages([[2.0, None, 0.0]], CONFIG) == [
        [pytest.approx(0.707057, abs=1e-6), None, pytest.approx(-0.707057, abs=1e-6)]
    ]


@pytest.mark.parametrize("config", [CONFIG, BatchNormalized()])
def test_one_scored_answer_has_nothing_to_be_compared_with(config) -> None:
    assert advantages([[1.0, None, None], []], config) == [None, None]


def test_over_the_batch_a_group_that_differs_little_teaches_little() -> None:
    found = advantages([[4.0, 0.0], [5.0, 5.0], [0.1, None, -0.1]], BatchNormalized(epsilon=1e-9))
    scale = statistics.stdev([2.0, -2.0, 0.1, -0.1])  # each less its group's mean; the group without signal is out
    assert found == [
        [pytest.approx(2.0 / scale), pytest.approx(-2.0 / scale)],
        None,
        [pytest.approx(0.1 / scale), None, pytest.approx(-0.1 / scale)],
    ]


def test_rewards_that_are_normalised_in_the_group_are_not_normalised_there_again() -> None:
    rewards = {"rewards": ["math", "format"], "combine": {"type": "normalized_sum"}}
    with pytest.raises(ValidationError, match=r"say advantage: \{type: batch_normalized\}"):
        stage(**rewards)
    assert stage(**rewards, advantage={"type": "batch_normalized"}).advantage == BatchNormalized()


def test_mean_only_and_leave_one_out_by_hand() -> None:
    assert advantages([[3.0, None, 0.0, 0.0], [1.0, 1.0]], MeanOnly()) == [[2.0, None, -1.0, -1.0], None]
    [found, dull] = advantages([[3.0, None, 0.0, 0.0], [1.0, 1.0]], LeaveOneOut())
    assert found == [pytest.approx(3.0), None, pytest.approx(-1.5), pytest.approx(-1.5)] and dull is None


def test_a_greedy_baseline_by_hand() -> None:
    values = [[1.0, 0.0, None], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.5, 0.2, 0.1]]
    found = advantages(values, GreedyBaseline(), [1.0, 0.0, 1.0, None])
    assert found == [[0.0, -1.0, None], [1.0, 1.0, 1.0], None, None]
