import pytest

from stages.evaluate.bootstrap import estimate, paired_gain


def test_the_interval_of_a_proportion_is_about_two_standard_errors() -> None:
    # p = 0.5, n = 400: standard error sqrt(0.25 / 400) = 0.025, so the interval is about 0.451 to 0.549
    found = estimate([1.0, 0.0] * 200)
    assert (found.mean, found.num) == (0.5, 400)
    assert found.low == pytest.approx(0.451, abs=0.006) and found.high == pytest.approx(0.549, abs=0.006)


def test_a_constant_has_no_width() -> None:
    found = estimate([1.0] * 50)
    assert (found.low, found.mean, found.high) == (1.0, 1.0, 1.0)


def test_a_paired_gain_is_sharper_than_two_intervals() -> None:
    before = [1.0, 0.0] * 100
    after = [1.0, 0.0] * 90 + [1.0, 1.0] * 10
    gain = paired_gain(before, after)
    # 10 of 200 problems gained and none lost: mean 0.05, standard error sqrt(0.05 * 0.95 / 200) = 0.0154
    assert gain.mean == pytest.approx(0.05) and gain.low == pytest.approx(0.02, abs=0.006) and gain.low > 0


def test_the_same_values_give_the_same_interval() -> None:
    assert estimate([0.0, 1.0, 1.0]) == estimate([0.0, 1.0, 1.0])


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ValueError, match="unscorable"):
        estimate([])
