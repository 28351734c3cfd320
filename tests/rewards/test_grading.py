"""Building rewards, and calling them with what they ask for."""

import asyncio
import re
from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from rewards import combine, grading, registry
from rewards.combine_config import WeightedSumConfig
from rewards.config import ExactRewardConfig, FormatRewardConfig, FunctionRewardConfig, MathRewardConfig, RewardConfig
from rewards.types import Attempt, RewardError
from tests.rewards.attempts import attempt, group


def function(of, **fields):
    return FunctionRewardConfig(import_path=f"{__name__}:{of}", **fields)


def grade(config, attempts, heard=None):
    configs = config if isinstance(config, list) else [config]
    with asyncio.Runner() as runner:
        listen = heard.append if heard is not None else lambda label: None
        graded = grading.grade(grading.load(configs), attempts, runner, listen)
    return combine.scores(combine.build(WeightedSumConfig(), configs), graded)


def sees_all(prompts, completions, completion_ids, answer, factor=1.0, **columns):
    assert prompts == [[{"role": "user", "content": "?"}]] * 2
    assert [turns[0]["content"] for turns in completions] == ["a", "b"]
    assert columns == {"level": [3, 3]}
    completions.clear()
    return [factor * len(ids) + float(gold) for ids, gold in zip(completion_ids, answer, strict=True)]


def names_two(completions, answer):
    return [float(gold) for gold in answer]


NOT_A_FUNCTION = 7


def test_a_reward_gets_its_columns_and_its_own_kwargs():
    attempts = [
        Attempt(
            prompt=[{"role": "user", "content": "?"}],
            completion=[{"role": "assistant", "content": text}],
            completion_ids=(1, 2),
            columns={"answer": "4", "level": 3, "factor": 99},
        )
        for text in "ab"
    ]
    scores = grade(function("sees_all", kwargs={"factor": 10}), attempts)
    assert [score.value for score in scores] == [10 * 2 + 4] * 2
    assert attempts[0].completion[0]["content"] == "a"  # the reward's clear() met a copy


def test_a_reward_without_columns_gets_only_what_it_names():
    assert [s.value for s in grade(function("names_two"), group("a", "b", answer="4", level=3))] == [4.0, 4.0]


def test_a_column_that_the_data_lacks_is_an_error_that_names_it():
    [score] = grade(function("names_two"), group("a", truth=1))
    assert score.cause == "error"
    assert "it needs the columns ['answer']; the data has ['truth']" in score.detail


def test_the_first_failure_decides_and_the_other_parts_are_kept():
    rewards = [function("names_two"), FormatRewardConfig(), function("names_two", name="again")]
    heard = []
    [score] = grade(rewards, [attempt(r"\boxed{1}", answer="x")], heard)
    assert (score.value, score.cause) == (None, "error")
    assert "reward 'names_two' raised ValueError" in score.detail
    assert score.parts == {"names_two": None, "format": 1.0, "again": None}
    assert heard == ["reward 'names_two'", "reward 'format'", "reward 'again'"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"345+288 is \boxed{633}", 1.0),
        ("two\nlines\n\\boxed{633}\n", 1.0),
        (r"\boxed{633} and more", 0.0),
        (r"\boxed{}", 0.0),
        (r"\boxed{633", 0.0),
        ("633", 0.0),
        ("", 0.0),
    ],
)
def test_the_format_reward_asks_for_a_box_at_the_end(text, value):
    assert grade(FormatRewardConfig(), group(text))[0].value == value


def test_the_format_reward_matches_the_whole_text():
    assert [s.value for s in grade(FormatRewardConfig(pattern="a+"), group("aa", "aab"))] == [1.0, 0.0]


def test_a_pattern_that_does_not_compile_is_refused_by_the_config():
    with pytest.raises(ValidationError, match="is no regular expression"):
        FormatRewardConfig(pattern="(")


def test_a_bare_import_path_in_a_recipe_is_a_function():
    reward = TypeAdapter(RewardConfig).validate_python({"import_path": "a.b:c", "weight": 0.5})
    assert (reward.type, reward.label, reward.weight) == ("function", "c", 0.5)


def test_every_type_of_the_union_has_a_loader():
    union = get_args(get_args(RewardConfig)[0])
    assert set(registry.LOADERS) == {get_args(member)[0].model_fields["type"].default for member in union}
    assert callable(registry.build(MathRewardConfig()))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (FunctionRewardConfig(import_path="nowhere:f"), "No module named 'nowhere'"),
        (function("missing"), "has no attribute 'missing'"),
        (function("NOT_A_FUNCTION"), "is 7, which is no reward"),
        (function("names_two", kwargs={"factr": 1}), "got an unexpected keyword argument 'factr'"),
    ],
)
def test_a_reward_that_cannot_be_built_says_its_path_and_why(config, said):
    with pytest.raises(RewardError, match=re.escape(said)) as caught:
        registry.build(config)
    assert config.import_path in str(caught.value)


def test_a_reward_marks_only_the_attempts_that_have_its_columns():
    answered, programs = attempt("4", answer="4", tests=None), attempt("print(4)", answer=None, tests="a test")
    scores = grade([ExactRewardConfig(), function("counts_answers")], [answered, programs, answered])
    assert [score.parts["exact"] for score in scores] == [1.0, None, 1.0]
    assert [score.parts["counts_answers"] for score in scores] == [2.0] * 3
    assert grade(ExactRewardConfig(), [programs])[0].cause == "not_applicable"


def counts_answers(completions, answer):
    """One of the user's own meets the whole group, with None where a row has no value."""
    return [float(len([gold for gold in answer if gold is not None]))] * len(completions)


def test_a_reward_that_does_not_apply_is_not_called():
    heard = []
    grade([ExactRewardConfig(), function("counts_answers")], group("4", answer=None), heard)
    assert heard == ["reward 'counts_answers'"]
