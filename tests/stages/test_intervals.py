import pytest

from stages.evaluate.intervals import estimate, paired_gain


def test_the_interval_of_a_proportion_is_about_two_standard_errors() -> None:
    # p = 0.5, n = 400: standard error sqrt(0.25 / 400) = 0.025, so the interval is about 0.451 to 0.549
    found = estimate([1.0, 0.0] * 200)
    assert (found.mean, found.num) == (0.5, 400)
    assert found.low == pytest.approx(0.451, abs=0.006) and found.high == pytest.approx(0.549, abs=0.006)


def test_all_right_is_not_certainly_right() -> None:
    found = estimate([1.0] * 50)
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(50 / (50 + 1.96**2), abs=1e-4)  # Wilson's bound at p = 1 is n / (n + z^2)


def test_graded_marks_are_bootstrapped_and_like_the_proportion_s_interval() -> None:
    graded = estimate([0.25, 0.75] * 200)
    assert graded.low == pytest.approx(0.5 - 1.96 * 0.25 / 20, abs=0.004)


def test_a_paired_gain_is_sharper_than_two_intervals() -> None:
    before = [1.0, 0.0] * 100
    after = [1.0, 0.0] * 90 + [1.0, 1.0] * 10
    gain = paired_gain(before, after)
    # 10 of 200 problems gained and none lost: mean 0.05, standard error sqrt(0.05 * 0.95 / 200) = 0.0154
    assert gain.mean == pytest.approx(0.05) and gain.low == pytest.approx(0.02, abs=0.006) and gain.low > 0


def test_the_same_values_give_the_same_interval() -> None:
    assert estimate([0.0, 1.0, 1.0]) == estimate([0.0, 1.0, 1.0])


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ValueError, match="has no problem"):
        estimate([])
