"""Several rewards become one number: by hand, and by what must hold whatever the numbers are."""

import itertools
import json
import math
import random

import pytest

from rewards import combine
from rewards.combine_config import (
    ConstrainedConfig,
    GatedConfig,
    GradientGuidedConfig,
    HypervolumeGuidedConfig,
    NormalizedSumConfig,
    WeightedSumConfig,
)
from rewards.config import FormatRewardConfig, FunctionRewardConfig, MathRewardConfig
from rewards.controllers import hypervolume, sigmoid, undominated
from rewards.types import Graded, Mark, RewardError

REWARDS = [
    FormatRewardConfig(weight=0.5),
    MathRewardConfig(weight=2.0),
    FunctionRewardConfig(import_path="a:short", weight=1.0),
]


def values(config, *parts, rewards=REWARDS):
    names = [reward.label for reward in rewards]
    return combine.build(config, rewards).values([dict(zip(names, row, strict=True)) for row in parts])


def test_the_weighted_sum_leaves_out_what_does_not_apply():
    assert values(WeightedSumConfig(), (1, 1, 0.5), (None, 1, 0.5), (None, None, None)) == [3.0, 2.5, None]


def test_normalised_rewards_tell_apart_what_a_sum_does_not():
    parts = [(1, 0, None), (0, 1, None), (0, 1, None), (0, 1, None)]
    flat = [reward.model_copy(update={"weight": 1.0}) for reward in REWARDS]
    assert len(set(values(WeightedSumConfig(), *parts, rewards=flat))) == 1
    first, *others = values(NormalizedSumConfig(epsilon=1e-9), *parts, rewards=flat)
    # both have the deviation sqrt(3) / 4, and means of 1/4 and 3/4: (3/4 - 3/4) / s for the first, (-1/4 + 1/4) / s
    assert [first, *others] == pytest.approx([0.0] * 4)
    rare, *common = values(NormalizedSumConfig(epsilon=1e-9), (1, 1, None), *parts[1:], rewards=flat)
    assert rare == pytest.approx(math.sqrt(3)) and common == pytest.approx([-1 / math.sqrt(3)] * 3)


def test_normalised_values_have_mean_zero_and_do_not_move_with_scale_or_offset():
    parts = [(0.1, 3, 5), (0.2, 4, 1), (0.9, None, 2)]
    once = values(NormalizedSumConfig(epsilon=1e-9), *parts)
    moved = [(7 + 10 * a, b, c) for a, b, c in parts]
    assert values(NormalizedSumConfig(epsilon=1e-9), *moved) == pytest.approx(once)
    assert sum(once) == pytest.approx(0.0, abs=1e-9)


def test_behind_a_closed_gate_nothing_counts():
    gates = GatedConfig(gates={"format": 1.0, "math": 1.0})
    found = values(gates, (1, 1, 0.5), (1, 0, 0.5), (0, 1, 0.5), (0.5, 1, 1), (None, 1, 0.5))
    assert found == [0.5 + 2.0 + 0.5, 0.5, 0.0, 0.25, 2.5]


def test_failing_a_gate_is_no_way_out_of_a_penalty():
    rewards = [FormatRewardConfig(), FormatRewardConfig(name="unsafe", weight=-1.0), FormatRewardConfig(name="tone")]
    gated = combine.build(GatedConfig(gates={"format": 1.0}), rewards)
    marked = [{"format": 0.5, "unsafe": 1.0, "tone": -0.25}, {"format": 0.5, "unsafe": -1.0, "tone": 0.25}]
    assert gated.values(marked) == [0.5 - 1.0 - 0.25, 0.5]


def test_values_that_only_rounding_tells_apart_are_equal_once_normalised():
    normalized = combine.build(NormalizedSumConfig(), [MathRewardConfig(), FormatRewardConfig()])
    assert normalized.values([{"math": 0.1 + 0.2, "format": 0.0}, {"math": 0.3, "format": 0.0}]) == [0.0, 0.0]


def test_a_penalty_that_agrees_with_the_others_gains_weight_and_one_without_weight_stays_out():
    rewards = [MathRewardConfig(), FormatRewardConfig(weight=-0.5), MathRewardConfig(name="watched", weight=0.0)]
    guided = combine.build(GradientGuidedConfig(every_steps=1, learning_rate=0.5), rewards)
    products = {("math", "math"): 1.0, ("format", "format"): 1.0, ("math", "format"): -1.0, ("format", "math"): -1.0}
    watched = {(a, b): 9.0 for a in ("math", "format", "watched") for b in ("math", "format", "watched")}
    guided.observe_gradients({**watched, **products})
    factors = [guided.metrics()[f"reward/{label}/factor"] for label in ("math", "format", "watched")]
    assert factors[0] == factors[1] > factors[2]  # less of the one is more of the other
    front = combine.build(HypervolumeGuidedConfig(every_steps=1), rewards)
    front.observe({"math": 0.5, "format": -0.5})
    assert front.metrics()["reward/front/volume"] == 0.25


def test_multipliers_grow_below_the_threshold_and_shrink_above_it():
    config = ConstrainedConfig(thresholds={"format": 0.5}, learning_rate=0.1, momentum=0.9)
    combination = combine.build(config, REWARDS)
    assert combination.values([{"format": 1.0, "math": 1.0, "short": 0.0}]) == [0.5 * 0.5 + 0.5 * 2.0]
    combination.observe({"format": 0.0, "math": 1.0})  # l = -0.1 * (0 - 0.5)
    assert combination.metrics()["reward/format/share"] == pytest.approx(sigmoid(0.05))
    combination.observe({"format": 1.0})  # momentum 0.9 * -0.5 + 0.5 = 0.05
    assert combination.metrics()["reward/format/share"] == pytest.approx(sigmoid(0.05 - 0.005))
    other = combine.build(config, REWARDS)
    other.load_state_dict(combination.state_dict())
    combination.observe({"format": 0.2})
    other.observe({"format": 0.2})
    assert other.metrics() == combination.metrics()


def test_what_could_not_be_scored_is_no_part_of_the_group():
    marks = {
        "format": [Mark(value=1.0), Mark(value=0.0), Mark(value=1.0)],
        "math": [Mark(cause="timeout", detail="late"), Mark(value=1.0), Mark(value=0.0)],
        "short": [Mark(value=0.0)] * 3,
    }
    combination = combine.build(NormalizedSumConfig(epsilon=1e-9), REWARDS)
    lost, second, third = combine.scores(combination, Graded(marks=marks, seconds=0.1))
    assert (lost.value, lost.cause, lost.detail, lost.parts["format"]) == (None, "timeout", "late", 1.0)
    # of two values one is a deviation above the mean and one below
    assert (second.value, third.value) == (pytest.approx(-0.5 + 2.0), pytest.approx(0.5 - 2.0))


def test_a_combination_of_a_reward_that_is_not_there():
    with pytest.raises(RewardError, match="there is no reward 'formt'; there are 'format', 'math', 'short'"):
        combine.build(GatedConfig(gates={"formt": 1.0}), REWARDS)


def test_the_volume_that_points_dominate_by_hand():
    assert hypervolume([]) == 0
    assert hypervolume([[2.0], [3.0]]) == 3.0
    assert hypervolume([[1, 3], [2, 2], [3, 1]]) == 6.0
    assert hypervolume([[1, 3], [1, 3], [0.5, 0.5], [-1, 9]]) == 3.0
    assert hypervolume([[1, 1, 2], [2, 1, 1], [1, 2, 1]]) == 1 + 1 + 1 + 1


def test_the_volume_in_four_dimensions_against_counting():
    draw = random.Random(3)
    points = [[draw.randint(1, 6) for _ in range(4)] for _ in range(12)]
    cells = itertools.product(range(6), repeat=4)
    inside = sum(any(all(c < p for c, p in zip(cell, point, strict=True)) for point in points) for cell in cells)
    assert hypervolume(points) == inside == hypervolume(undominated(points))
    assert undominated([[1, 2], [2, 1], [1, 1], [2, 1]]) == [[2, 1], [1, 2]]


def test_steps_that_widen_the_front_teach_more():
    pair = [MathRewardConfig(), FormatRewardConfig(weight=0.2)]
    config = HypervolumeGuidedConfig(every_steps=2, floors={"math": 0.2})
    guided = combine.build(config, pair)
    assert guided.values([{"math": 1.0, "format": 0.5}]) == [1.1]
    guided.observe({"math": 0.6, "format": 0.5})
    assert guided.scale() == 1.0
    guided.observe({"math": 0.8, "format": 0.5})  # the point is (0.7 - 0.2, 0.5)
    assert guided.scale() == pytest.approx(0.5 + 1.5 * math.tanh(0.25))
    other = combine.build(config, pair)
    other.load_state_dict(json.loads(json.dumps(guided.state_dict())))
    for one in (guided, other):
        one.observe({"math": 0.5, "format": 0.5})
        one.observe({"math": 0.5, "format": 0.5})  # dominated
        assert one.scale() == 0.5
    assert other.metrics() == guided.metrics()


def test_a_penalty_is_better_the_smaller_it_is():
    guided = combine.build(
        HypervolumeGuidedConfig(every_steps=1, floors={"format": 1.0}), [FormatRewardConfig(weight=-1)]
    )
    guided.observe({"format": 0.25})
    assert guided.metrics()["reward/front/volume"] == 0.75


def test_rewards_that_serve_the_others_gain_weight():
    config = GradientGuidedConfig(every_steps=5, learning_rate=0.5)
    guided = combine.build(config, REWARDS)
    assert [guided.wants_gradients(step) for step in (4, 5, 10)] == [False, True, True]
    # in the plane: math = (2, 0), short = (-1, 0.5), the sum = (1, 0.5); format had no signal
    products = {("math", "math"): 4.0, ("short", "short"): 1.25, ("math", "short"): -2.0, ("short", "math"): -2.0}
    guided.observe_gradients(products)
    to_sum = {"math": 2.0 / (2 * math.sqrt(1.25)), "short": (-1 + 0.25) / 1.25}
    raw = {"format": 1.0, **{label: math.exp(0.5 * cosine) for label, cosine in to_sum.items()}}
    mean = sum(raw.values()) / 3
    factors = {label: guided.metrics()[f"reward/{label}/factor"] for label in raw}
    assert factors == pytest.approx({label: factor / mean for label, factor in raw.items()})
    assert factors["math"] > factors["format"] > factors["short"]
    assert guided.values([{"format": 0.0, "math": 1.0, "short": 1.0}]) == pytest.approx(
        [2.0 * factors["math"] + factors["short"]]
    )
    other = combine.build(config, REWARDS)
    other.load_state_dict(json.loads(json.dumps(guided.state_dict())))
    assert other.metrics() == guided.metrics()
    guided.observe_gradients({("math", "math"): 0.0})  # nobody points anywhere
    assert other.metrics() == pytest.approx(guided.metrics())
