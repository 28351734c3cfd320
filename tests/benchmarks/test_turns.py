"""Sides in turn, and what is said of them."""

import argparse
import json

import pytest

from benchmarks.turns import Paired, Side, fastest, in_turn, rounds_from, show, spread


class Recording:
    """Sides that write down who was measured in which round, and take the seconds that they are given."""

    def __init__(self, **seconds: list[float]) -> None:
        self.calls: list[tuple[str, int]] = []
        self.sides = [self._side(name, given) for name, given in seconds.items()]

    def _side(self, name: str, seconds: list[float]) -> Side:
        def measure(number: int) -> float:
            self.calls.append((name, number))
            return seconds[number]

        return Side(name=name, measure=measure)


PAIRED = Paired(values={"ours": [2.0, 4.0, 1.0], "trl": [6.0, 8.0, 5.0]}, unit="s an update", ratio_of=("trl", "ours"))


def test_sides_take_turns_and_get_the_same_round() -> None:
    recording = Recording(ours=[1.0, 1.0, 1.0], trl=[2.0, 2.0, 2.0])
    in_turn(recording.sides, num_rounds=2, num_warm_up=1)
    assert recording.calls == [("ours", 0), ("trl", 0), ("ours", 1), ("trl", 1), ("ours", 2), ("trl", 2)]


def test_more_than_two_sides_take_turns() -> None:
    recording = Recording(a=[1.0, 1.0], b=[1.0, 1.0], c=[1.0, 1.0])
    in_turn(recording.sides, num_rounds=2, num_warm_up=0)
    assert [name for name, _ in recording.calls] == ["a", "b", "c", "a", "b", "c"]


def test_warm_ups_are_measured_and_not_counted() -> None:
    recording = Recording(ours=[90.0, 80.0, 1.0, 2.0], trl=[70.0, 60.0, 3.0, 4.0])
    assert in_turn(recording.sides, num_rounds=2, num_warm_up=2) == {"ours": [1.0, 2.0], "trl": [3.0, 4.0]}
    assert len(recording.calls) == 8


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="0 rounds measure nothing"):
        in_turn(Recording(ours=[1.0]).sides, num_rounds=0)


def test_a_side_that_fails_ends_the_comparison() -> None:
    def fails(number: int) -> float:
        raise RuntimeError("the run did not come to its end")

    with pytest.raises(RuntimeError, match="did not come to its end"):
        in_turn([Side(name="ours", measure=fails)], num_rounds=1)


def test_a_spread_is_the_median_and_the_range() -> None:
    found = spread([5.0, 1.0, 2.0, 10.0])
    assert (found.median, found.low, found.high) == (3.5, 1.0, 10.0)  # the mean of 2 and 5
    assert str(found) == "3.5 [1, 10]"
    assert str(spread([0.12345, 99.96, 8526.1])) == "100 [0.123, 8,526]"


def test_the_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    # 6 / 2, 8 / 4, 5 / 1; the medians are 6 and 2, whose ratio happens to be one of them
    assert (PAIRED.ratio.median, PAIRED.ratio.low, PAIRED.ratio.high) == (3.0, 2.0, 5.0)
    uneven = Paired(values={"ours": [1.0, 2.0, 9.0], "trl": [3.0, 8.0, 9.0]}, unit="s", ratio_of=("trl", "ours"))
    assert uneven.ratio.median == 3.0  # of 3, 4 and 1; that of the medians would be 8 / 2


def test_a_machine_that_slows_down_for_a_while_leaves_the_ratio_alone() -> None:
    slowed = Recording(ours=[1.0, 1.0, 5.0, 5.0, 1.0], trl=[3.0, 3.0, 15.0, 15.0, 3.0])
    values = in_turn(slowed.sides, num_rounds=5, num_warm_up=0)
    ratio = Paired(values=values, unit="s", ratio_of=("trl", "ours")).ratio
    assert (ratio.low, ratio.median, ratio.high) == (3.0, 3.0, 3.0)


def test_results_hold_each_round_and_what_is_divided_by_what() -> None:
    found = json.loads(json.dumps(PAIRED.to_json()))
    assert found == {
        "ratio": {"median": 3.0, "low": 2.0, "high": 5.0},
        "ratio_of": ["trl", "ours"],
        "ours": {"median": 2.0, "low": 1.0, "high": 4.0, "rounds": [2.0, 4.0, 1.0]},
        "trl": {"median": 6.0, "low": 5.0, "high": 8.0, "rounds": [6.0, 8.0, 5.0]},
        "unit": "s an update",
        "num_rounds": 3,
    }


def test_the_fastest_has_the_smallest_median_whatever_its_best_round() -> None:
    assert fastest({512: [1.0, 9.0, 9.0], 1024: [4.0, 4.0, 4.0]}) == 1024


def test_a_table_has_both_sides_with_their_ranges(capsys: pytest.CaptureFixture[str]) -> None:
    show("DPO", {"prefix_long": PAIRED.to_json()}, {"prefix_long": "1.5 x"})
    line = next(line for line in capsys.readouterr().out.splitlines() if "prefix_long" in line)
    cells = [cell.strip() for cell in line.strip("│┃").split("│")]
    assert cells == ["prefix_long", "ours", "2 [1, 4]", "trl", "6 [5, 8]", "s an update", "3 [2, 5]", "3", "1.5 x"]


@pytest.mark.parametrize("given", ["0", "-1", "many", "1.5", ""])
def test_a_number_of_rounds_that_measures_nothing_is_refused(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    rounds_from(parser, default=7)
    with pytest.raises(SystemExit):
        parser.parse_args(["--rounds", given])
    assert "give a whole number from 1 up" in capsys.readouterr().err


def test_rounds_have_a_default_and_can_be_said() -> None:
    parser = argparse.ArgumentParser()
    rounds_from(parser, default=7)
    assert (parser.parse_args([]).num_rounds, parser.parse_args(["--rounds", "2"]).num_rounds) == (7, 2)
