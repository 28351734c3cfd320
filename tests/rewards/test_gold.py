"""The gold check, in real worker processes."""

import pytest

from rewards.config import FormatRewardConfig, FunctionRewardConfig, MathRewardConfig
from rewards.gold import GoldCheck
from rewards.scoring_config import ScoringConfig
from rewards.types import RewardError
from tests.rewards.attempts import attempt

OBEY = FunctionRewardConfig(import_path="tests.rewards.obedient:obey")


def check_gold(rewards, gold, other=(), **scoring):
    with GoldCheck(rewards, ScoringConfig(**scoring)) as check:
        return check.problems(gold, other)


def gold(*answers):
    return [attempt(rf"\boxed{{{answer}}}", answer=answer) for answer in answers]


def test_right_rewards_on_right_answers_have_no_problems():
    assert check_gold([MathRewardConfig(), FormatRewardConfig()], gold("633", "1/2", "-7")) == []


def test_a_reward_below_full_marks_is_named_with_its_row():
    rewards = [MathRewardConfig(weight=5.0), FormatRewardConfig(pattern="[0-9]+", name="digits")]
    problems = check_gold(rewards, [attempt("633", answer="633"), attempt("1/2", answer="0.5"), *gold("7")])
    assert len(problems) == 1
    assert "reward 'digits' gives 0 to the gold answer of row 2 (and of 1 more), '1/2'" in problems[0]
    assert "gold_value" in problems[0]


def test_a_wrong_gold_answer_is_found():
    [problem] = check_gold([MathRewardConfig()], [*gold("633"), attempt(r"\boxed{633}", answer="634")])
    assert "reward 'math' gives 0 to the gold answer of row 2" in problem


def test_gold_value_sets_the_mark_and_null_skips():
    half = OBEY.model_copy(update={"gold_value": 0.5})
    assert check_gold([half], [attempt("0.5")]) == []
    assert "at least 0.5" in check_gold([half], [attempt("0.4")])[0]
    assert check_gold([OBEY.model_copy(update={"gold_value": None})], [attempt("0")]) == []


def test_a_reward_that_does_not_apply_to_gold_is_no_problem():
    assert check_gold([FunctionRewardConfig(import_path="tests.rewards.obedient:cannot_apply")], [attempt("x")]) == []


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        ("raise", "raised KeyError: 'no such mark'"),
        ("exit", "exit code 3"),
        ("sleep", "'obey' was running"),
    ],
)
def test_a_reward_that_fails_on_gold_is_a_problem(deed, said):
    [problem] = check_gold([OBEY], [attempt("1"), attempt(deed)], deadline_s=3.0)
    assert said in problem
    assert "on the answer of row 2" in problem


def test_a_reward_that_answers_for_one_where_two_were_asked_is_a_problem():
    [problem] = check_gold(
        [FunctionRewardConfig(import_path="tests.rewards.obedient:one_mark_whatever_was_asked")], gold("1")
    )
    assert "must return a list of 2 values" in problem


def test_rows_without_gold_show_a_reward_that_fails_and_no_marks():
    assert check_gold([OBEY], [], [attempt("0")]) == []
    [problem] = check_gold([FunctionRewardConfig(import_path="tests.rewards.obedient:reads_hints")], [], [attempt("0")])
    assert "it needs the columns ['hint']" in problem


def test_the_import_may_take_as_long_as_the_recipe_says():
    slow = FunctionRewardConfig(import_path="tests.rewards.slow_import:one")
    [problem] = check_gold([slow], gold("1"), start_timeout_s=0.2)
    assert "being imported" in problem
    assert check_gold([slow], gold("1"), start_timeout_s=30.0) == []


def test_a_reward_that_cannot_be_imported_is_a_problem():
    [problem] = check_gold([FunctionRewardConfig(import_path="nowhere:f")], gold("1"))
    assert problem.startswith("reward 'nowhere:f' cannot be imported")


def test_a_check_can_start_before_the_answers_are_read():
    with GoldCheck([MathRewardConfig()]) as check:
        assert check.problems(gold("633")) == []
        assert len(check.problems(gold(""))) == 1


def test_no_rewards_is_an_error():
    with pytest.raises(RewardError, match="there is no reward"):
        GoldCheck([])
