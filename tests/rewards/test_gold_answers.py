r"""What the math reward takes for a gold answer, and what it refuses."""

import pytest

from rewards.config import ChoiceRewardConfig, ExactRewardConfig, MathRewardConfig
from rewards.math_answer import equals
from rewards.mathematics.gold import gold_value

GSM8K = "She has 16 - 3 = <<16-3=13>>13 eggs.\nShe makes 13 * 2 = $<<13*2=26>>26 a day.\n#### 26"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (GSM8K, "26"),
        (1e-05, "0.00001"),
        (1e16, "10^{16}"),
        (True, "true"),
        (["3", "4"], "4, 3"),
        ('["3", "4"]', "3, 4"),
        ([["x"]], "x"),
        (r"so \boxed{7}", "7"),
        ("<think>8?</think><answer>7</answer>", "7"),
        ("5 hours 30 minutes", "5 hours 30 minutes"),
    ],
)
def test_a_gold_answer_is_a_number_a_text_a_list_or_stands_where_a_solution_says(gold: object, answer: str) -> None:
    assert equals(rf"\boxed{{{answer}}}", gold)


@pytest.mark.parametrize(
    ("gold", "says"),
    [
        ("", "holds no answer"),
        (r"\boxed{}", "holds no answer"),
        ("<think>7", "holds no answer"),
        (r"\frac{1}{2", "a brace that is not closed"),
        (GSM8K.replace("####", ""), "is a whole solution"),
        ("She sells 9 eggs for 2 dollars each, and makes 18 dollars every day.", "is a whole solution"),
        (None, "neither a number nor a text"),
        (float("nan"), "neither a number nor a text"),
        ({"value": 3}, "neither a number nor a text"),
        ([], "an empty list"),
        (["3", ""], "holds no answer"),
    ],
)
def test_what_cannot_be_an_answer_is_refused_and_not_compared_with_itself(gold: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        gold_value(gold)


def test_gold_answers_are_tried_as_a_policy_would_give_them() -> None:
    assert MathRewardConfig().right_answer(GSM8K) == "26"
    assert MathRewardConfig().right_answer(["3", "4"]) == "3, 4"
    assert ExactRewardConfig().right_answer(["Paris", "paris"]) == "Paris"
    assert ChoiceRewardConfig().right_answer(1) == "B"
