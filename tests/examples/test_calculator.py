import json

import pytest

from examples.calculator.problems import make_splits, use
from examples.calculator.tools import calculate
from rollout.tools import Tools


@pytest.mark.parametrize(
    ("expression", "result"),
    [("386*47", "18142"), ("(2 + 3) * -4", "-20"), ("17 // 5 - 1", "2")],
)
def test_it_works_out_whole_numbers(expression: str, result: str) -> None:
    assert calculate(expression) == result


@pytest.mark.parametrize(
    "expression", ["2**999", "__import__('os')", "1.5*2", "print(1)", "1//0", "9*" * 60 + "9", "2+"]
)
def test_it_does_nothing_else(expression: str) -> None:
    [answer] = Tools([calculate]).step(use(expression)) or []
    assert answer["content"].startswith("error: ")


def test_a_demonstration_is_what_a_rollout_would_be() -> None:
    splits = make_splits(17, num_train=200, num_dev=20)
    last_turns = [row for row in splits["demonstrations"] if len(row["prompt"]) == 3]
    assert 60 < len(last_turns) < 140
    for row in last_turns:
        _, call, told = row["prompt"]
        [answer] = Tools([calculate]).step(call["content"]) or []
        assert answer["content"] == told["content"]
        assert row["completion"][0]["content"] == f"\\boxed{{{told['content']}}}"
    assert splits == make_splits(17, num_train=200, num_dev=20) != make_splits(18, num_train=200, num_dev=20)


def test_no_problem_of_the_exam_is_trained_on() -> None:
    splits = make_splits(17, num_train=500, num_dev=100)
    asked = [{json.dumps(row["prompt"]) for row in splits[name]} for name in ("train", "dev")]
    assert len(asked[0]) == 500 and len(asked[1]) == 100 and not asked[0] & asked[1]
